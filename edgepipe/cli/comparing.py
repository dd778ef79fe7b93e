"""The lines below an answer: what it took, what was predicted, and what was predicted wrongly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgepipe.cli.show import errors
from edgepipe.coordinator.generation import Answer
from edgepipe.coordinator.watching import Watch, blame
from edgepipe.core.comparison import Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Decode and prefill beside their predictions, where they can be told; one sentence a miss."""

    decode: Comparison | None
    prefill: Comparison | None
    misses: tuple[str, ...]


def compared_with(watch: Watch, answer: Answer, home: Path) -> Compared:
    """Compare an answer with its prediction, and drop the profiles that were wrong."""
    decode, prefill = watch.decode(answer), watch.prefill(answer)
    missed = [each for each in (decode, prefill) if each is not None and each.missed]
    return Compared(
        decode=decode,
        prefill=prefill,
        misses=tuple(blame(watch.running, each, home) for each in missed),
    )


def tell(answer: Answer, compared: Compared) -> None:
    """Print it on standard error."""
    decode, prefill = compared.decode, compared.prefill
    tokens = f"{len(answer.token_ids)} tokens, {answer.tokens_per_s:.1f} tokens/s"
    rate = "" if decode is None else f" (predicted {1 / decode.predicted_s:.1f}{_off(decode)})"
    first = f"first token after {answer.ttft_s:.2f} s"
    wait = "" if prefill is None else f" (predicted {prefill.predicted_s:.2f} s{_off(prefill)})"
    errors().print(f"{tokens}{rate}, {first}{wait}", style="dim", highlight=False)
    for miss in compared.misses:
        errors().print(miss, style="yellow", markup=False)


def _off(comparison: Comparison) -> str:
    return f", {comparison.error:+.0%}"
