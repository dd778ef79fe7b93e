"""`edgepipe bench decode`: its table and document."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from edgepipe.cli.answering import deployed
from edgepipe.cli.show import errors, print_json
from edgepipe.coordinator.benchmark import (
    DecodeFigures,
    distinct_prompts,
    measure_decode,
    measure_prefill,
)
from edgepipe.coordinator.emulated import (
    emulate,
    emulated_deployment,
    emulated_model,
    emulated_survey,
)
from edgepipe.coordinator.launch import Running, Where, open_cluster
from edgepipe.coordinator.pipeline import Pipeline, open_pipeline
from edgepipe.coordinator.planning import PREFILL_CHUNK, How, asked_of
from edgepipe.coordinator.prepared import prepare
from edgepipe.coordinator.progress import Silent
from edgepipe.coordinator.watching import MIN_TOKENS as ENOUGH_TOKENS
from edgepipe.coordinator.watching import blame
from edgepipe.core.comparison import compare
from edgepipe.core.compression import Table as Codecs
from edgepipe.core.frame import Codec
from edgepipe.core.pinning import codecs_of, placed
from edgepipe.core.posing import Asked
from edgepipe.core.prediction import phase, streams_per_s
from edgepipe.core.problem import Placement, Stage
from edgepipe.core.work import Objective
from edgepipe.errors import UsageError

WARM_UP_TOKENS = 8
MIN_TOKENS = 2
"""A rate is counted from the first token on."""
MAX_STREAMS = 1024
MAX_STAGE_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeBench:
    """What to measure; without a model, the runtime alone."""

    model: str | None
    streams: Sequence[int]
    num_tokens: int
    prompt_tokens: int
    stage_ms: Sequence[float]

    def __post_init__(self) -> None:
        """Raises UsageError for numbers that mean nothing."""
        if not all(1 <= streams <= MAX_STREAMS for streams in self.streams):
            raise UsageError(f"--streams wants numbers from 1 to {MAX_STREAMS}")
        if self.num_tokens < MIN_TOKENS:
            raise UsageError(f"--tokens {self.num_tokens} gives no rate: ask for {MIN_TOKENS} up")
        if self.prompt_tokens < 1:
            raise UsageError(f"--prompt-tokens {self.prompt_tokens} is no prompt: ask for 1 up")
        if not all(0 <= ms <= MAX_STAGE_MS for ms in self.stage_ms):
            raise UsageError(f"--stage-ms wants numbers from 0 to {MAX_STAGE_MS}")

    @property
    def max_positions(self) -> int:
        """Room for a prompt and its answer, that of the warm-up included."""
        return self.prompt_tokens + max(self.num_tokens, WARM_UP_TOKENS)


async def bench_decode(work: DecodeBench, where: Where, how: How, *, json: bool) -> None:
    """`edgepipe bench decode`."""
    how = replace(
        how,
        num_slots=max(work.streams),
        prompt_tokens=work.prompt_tokens,
        objective=Objective.LATENCY if max(work.streams) == 1 else Objective.THROUGHPUT,
    )
    async with _bench(work, where, how) as bench:
        prompt_of = distinct_prompts(work.prompt_tokens, bench.asked.model.vocab_size)
        await measure_decode(
            bench.pipeline, streams=1, num_tokens=WARM_UP_TOKENS, prompt_of=prompt_of, base=1
        )
        prefill = await measure_prefill(bench.pipeline, prompt_of=prompt_of, base=2)
        figures = [
            await measure_decode(
                bench.pipeline,
                streams=streams,
                num_tokens=work.num_tokens,
                prompt_of=prompt_of,
                base=1000 * (index + 1),
            )
            for index, streams in enumerate(work.streams)
        ]
    predicted = [bench.tokens_per_s(streams) for streams in work.streams]
    rows = [
        {**asdict(each), "predicted_tokens_per_s": rate, "error": each.tokens_per_s / rate - 1}
        for each, rate in zip(figures, predicted, strict=True)
    ]
    enough = work.num_tokens >= ENOUGH_TOKENS
    misses = [miss for each in figures if enough for miss in bench.misses(each, where.home)]
    document = {
        "decode": rows,
        "prefill_tokens_per_s": prefill,
        "predicted_prefill_tokens_per_s": work.prompt_tokens / bench.prefill_s(),
        "misses": misses,
    }
    if json:
        print_json(document)
    else:
        Console().print(_decode_table(figures, predicted))
        Console().print(_prefill_line(document))
        for miss in misses:
            errors().print(miss, style="yellow", markup=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """A pipeline that is measured, and what it is predicted from; `running` has a model."""

    pipeline: Pipeline
    asked: Asked
    placement: Placement
    codecs: Codecs | None
    running: Running | None = None

    def tokens_per_s(self, streams: int) -> float:
        """Predicted, of so many streams together."""
        return streams_per_s(
            self.asked,
            self.placement,
            self.codecs,
            num_groups=self.pipeline.deployment.num_groups,
            num_streams=streams,
        )

    def prefill_s(self) -> float:
        """Predicted seconds to prefill one prompt."""
        return phase(self.asked, self.placement, self.codecs, Objective.PREFILL).seconds

    def misses(self, figures: DecodeFigures, home: Path) -> Iterator[str]:
        """Of a single stream: what was predicted wrongly, whose profile is dropped."""
        if self.running is None or figures.streams > 1:
            return
        comparison = compare(
            phase(self.asked, self.placement, self.codecs, Objective.LATENCY),
            measured_s=1 / figures.tokens_per_s,
            stage_s=figures.stage_s,
        )
        if comparison.missed:
            yield blame(self.running, comparison, home)


@asynccontextmanager
async def _bench(work: DecodeBench, where: Where, how: How) -> AsyncIterator[_Bench]:
    if work.model is None:
        async with _emulated(work, where, how) as bench:
            yield bench
        return
    prepared = await prepare(work.model, home=where.home)
    async with deployed(prepared, where, how, work.max_positions, quiet=True) as running:
        assert running.surveyed is not None, "a bench makes its own plan"
        survey = running.surveyed.survey
        how = how.as_planned(running.plan)
        asked = asked_of(prepared.shape, survey, how, work.max_positions)
        placement = placed(asked, running.plan)
        yield _Bench(
            pipeline=running.pipeline,
            asked=asked,
            placement=placement,
            codecs=codecs_of(asked, running.plan, placement),
            running=running,
        )


@asynccontextmanager
async def _emulated(work: DecodeBench, where: Where, how: How) -> AsyncIterator[_Bench]:
    async with open_cluster(where) as roster:
        emulation = emulate(
            roster,
            num_stages=how.num_stages,
            stage_s=[ms / 1000 for ms in work.stage_ms],
            nodes=how.nodes,
        )
        survey = await emulated_survey(emulation, home=where.home, fresh=how.fresh_profile)
        model = emulated_model(len(emulation.spots))
        deployment = emulated_deployment(
            emulation,
            num_slots=how.num_slots,
            max_positions=work.max_positions,
            prefill_chunk=how.prefill_chunk or PREFILL_CHUNK,
            codec=how.codec,
        )
        asked = Asked.of(
            model,
            survey,
            how.work(model, work.max_positions),
            nodes=list(dict.fromkeys(spot.node.profile.name for spot in emulation.spots)),
            codec=how.codec or Codec.NONE,
        )
        async with open_pipeline(deployment, roster.nodes, Silent()) as pipeline:
            yield _Bench(
                pipeline=pipeline,
                asked=asked,
                placement=tuple(
                    Stage(device=at, first=at, end=at + 1) for at in range(model.num_layers)
                ),
                codecs=None,
            )


def _prefill_line(document: dict[str, Any]) -> str:
    rate, predicted = (document[f"{word}prefill_tokens_per_s"] for word in ("", "predicted_"))
    off = rate / predicted - 1
    return f"prefill: {rate:.1f} tokens/s, predicted {predicted:.1f} ({off:+.0%})"


def _decode_table(figures: Sequence[DecodeFigures], predicted: Sequence[float]) -> Table:
    table = Table(box=box.SIMPLE)
    for heading in ("", "tokens/s", "predicted", "bound", "first token, p99", "busy", "hop"):
        table.add_column(heading, justify="right")
    for each, rate in zip(figures, predicted, strict=True):
        table.add_row(
            str(each.streams),
            f"{each.tokens_per_s:.1f}",
            f"{rate:.1f} ({each.tokens_per_s / rate - 1:+.0%})",
            f"{each.bound_tokens_per_s:.1f}" if each.bound_tokens_per_s else "-",
            f"{each.ttft_p50_s * 1000:.0f}, {each.ttft_p99_s * 1000:.0f} ms",
            " ".join(f"{busy:.0%}" for busy in each.busy),
            f"{each.hop_overhead_s * 1000:.2f} ms" if each.streams == 1 else "-",
        )
    return table
