"""Two agents of one thread each against one process of one thread, in turns: ratios.

python -m bench.serving_side_by_side [--weights int8] [--turns 3] [--parts single eight]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from edgepipe.cli.answering import Shown
from edgepipe.coordinator.benchmark import measure_decode
from edgepipe.coordinator.launch import Running, Where, open_model, weight_parts
from edgepipe.coordinator.planning import How
from edgepipe.coordinator.prepared import Prepared, prepare
from edgepipe.core.frame import SampledToken, SequenceId
from edgepipe.core.job import Request
from edgepipe.core.sampling import Sampling
from edgepipe.core.weight_format import WeightFormat
from edgepipe.core.work import Objective
from edgepipe.transport.loop import run_loop

MODEL = "smollm2-135m"
MAX_POSITIONS = 640
PROMPT_TOKENS = 64
LONG_PROMPT_TOKENS = 512
SLOTS = 8
PARTS = ("single", "eight", "prefill", "drafts")
REPEATED = """Repeat this paragraph exactly, but write Tom in place of Tim.

Tim went down to the river early in the morning. He had a small boat, two oars and a basket with
bread and cheese. The river was calm and the sun rose slowly over the hills. Tim rowed to the
island, tied the boat to a tree, and sat down in the grass to eat his breakfast in peace."""
EDITED = """Edit this paragraph: correct the spelling and change nothing else.

The keeper of the lighthouse woke befor dawn. He climbed the stairs to the lamp, trimmed the wick
and filled the oil. The sea was quiet and the wind came from the west. He wrote the hour in the
log, and the name of the ship that passed in the night. Then he went down to the kitchen, made a
fire and boiled water for his coffee."""
PARAGRAPHS = tuple(text.replace("\n", " ") for text in (REPEATED, EDITED))
"""What a text that repeats itself is made of."""


@dataclass(slots=True)
class OneProcess:
    """The reference, asked by lines."""

    process: asyncio.subprocess.Process

    async def ask(self, **work: Any) -> float:
        """Seconds of one piece of work."""
        assert self.process.stdin is not None
        self.process.stdin.write((json.dumps(work) + "\n").encode())
        await self.process.stdin.drain()
        (seconds,) = (await self._line()).values()
        return float(seconds)

    async def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise SystemExit("the reference process ended; see above")
        found: dict[str, Any] = json.loads(line)
        return found


@asynccontextmanager
async def one_process(prepared: Prepared, home: Path, weights: str) -> AsyncIterator[OneProcess]:
    """The whole model in a process of one thread."""
    parts = await weight_parts(prepared, home=home, progress=lambda _done, _total: None)
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "spec.json"
        spec.write_text(
            json.dumps(
                {
                    "config": prepared.model.config,
                    "weights": [str(part.write(Path(folder))) for part in parts],
                    "weight_format": weights,
                    "num_slots": SLOTS,
                    "max_positions": MAX_POSITIONS,
                    "num_layers": prepared.shape.num_layers,
                    "cache": str(home / "onnx"),
                }
            )
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.one_onnx_process",
            str(spec),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )
        one = OneProcess(process)
        try:
            await one._line()  # noqa: SLF001 -- ready
            yield one
        finally:
            process.kill()
            await process.wait()


@dataclass(slots=True)
class Turns:
    """Rates of both sides of one case, turn by turn."""

    name: str
    wanted: float
    ours: list[float]
    theirs: list[float]
    more: str = ""

    @property
    def ratio(self) -> float:
        """The median of the turns' ratios."""
        return statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))


async def main() -> None:
    """Measure, print, and exit 1 where a ratio falls short."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()
    home = Path(os.environ.get("EDGEPIPE_HOME") or tempfile.mkdtemp())
    prepared = await prepare(MODEL, home=home)
    found: list[Turns] = []
    async with one_process(prepared, home, options.weights) as one:
        if "single" in options.parts or "drafts" in options.parts:
            async with ring(prepared, home, options, slots=1) as plain:
                if "single" in options.parts:
                    found.append(await decode_turns(plain, one, options, streams=1, wanted=0.88))
                if "drafts" in options.parts:
                    async with ring(prepared, home, options, slots=1, max_draft=15) as drafting:
                        found.append(await draft_turns(prepared, drafting, plain, options))
        if "eight" in options.parts:
            async with ring(prepared, home, options, slots=SLOTS) as running:
                found.append(await decode_turns(running, one, options, streams=SLOTS, wanted=1.4))
        if "prefill" in options.parts:
            async with ring(prepared, home, options, slots=SLOTS, reads=True) as running:
                found.append(await prefill_turns(running, one, options, prompts=1, wanted=1.5))
                found.append(await prefill_turns(running, one, options, prompts=4, wanted=1.75))
    show(found, options.weights)
    if any(each.ratio < each.wanted for each in found):
        raise SystemExit(1)


@asynccontextmanager
async def ring(
    prepared: Prepared,
    home: Path,
    options: Any,
    *,
    slots: int,
    max_draft: int = 0,
    reads: bool = False,
) -> AsyncIterator[Running]:
    """Two private agents of one thread each; planned for prompts where it only `reads`."""
    where = Where(home=home, local=2, threads=1)
    answering = Objective.LATENCY if slots == 1 else Objective.THROUGHPUT
    how = How(
        objective=Objective.PREFILL if reads else answering,
        num_stages=2,
        engine="onnx",
        weight_formats=(WeightFormat(options.weights),),
        num_slots=slots,
        max_draft=max_draft,
        prompt_tokens=LONG_PROMPT_TOKENS if reads else PROMPT_TOKENS,
        answer_tokens=1 if reads else options.tokens,
    )
    console = Console(stderr=True)
    async with open_model(
        prepared, where, how, max_positions=MAX_POSITIONS, interface=Shown(console, quiet=False)
    ) as running:
        yield running


async def decode_turns(
    running: Running, one: OneProcess, options: Any, *, streams: int, wanted: float
) -> Turns:
    """Tokens per second of so many streams."""
    prompt = ids(PROMPT_TOKENS)
    turns = Turns(f"decode, {streams}", wanted, [], [])
    for turn in range(options.turns + 1):
        before, begin = cpu_s(running), time.perf_counter()
        figures = await measure_decode(
            running.pipeline,
            streams=streams,
            num_tokens=options.tokens,
            prompt_of=partial(ids, PROMPT_TOKENS),
            base=100_000 * (turn + 1) + streams,
        )
        took, after = time.perf_counter() - begin, cpu_s(running)
        seconds = await one.ask(
            what="decode", streams=streams, tokens=options.tokens, prompt=prompt
        )
        if turn:  # the first warms up
            turns.ours.append(figures.tokens_per_s)
            turns.theirs.append(streams * (options.tokens - 1) / seconds)
            shares = " ".join(f"{share:.0%}" for share in figures.busy)
            used = (after - before) / took / 2
            turns.more = f"stages busy {shares}; {used:.0%} of two cores used"
    predicted = running.plan.predicted
    if predicted is not None and predicted.tokens_per_s:
        turns.more += f"; predicted {predicted.tokens_per_s:.0f}"
    return turns


async def prefill_turns(
    running: Running, one: OneProcess, options: Any, *, prompts: int, wanted: float
) -> Turns:
    """Prompt tokens per second until the last first token."""
    turns = Turns(f"prefill {LONG_PROMPT_TOKENS}, {prompts}", wanted, [], [])
    for turn in range(options.turns + 1):
        base = 7_000_000 + 1000 * turn + 100 * prompts
        begin = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for index in range(prompts):
                prompt = ids(LONG_PROMPT_TOKENS, base + index)
                tasks.create_task(answer(running, base + index, prompt, max_tokens=1))
        ours = time.perf_counter() - begin
        theirs = await one.ask(
            what="prefill", prompts=prompts, prompt=ids(LONG_PROMPT_TOKENS, base)
        )
        if turn:
            turns.ours.append(prompts * LONG_PROMPT_TOKENS / ours)
            turns.theirs.append(prompts * LONG_PROMPT_TOKENS / theirs)
    return turns


async def answer(
    running: Running,
    sequence: int,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    eos_ids: Sequence[int] = (),
) -> tuple[list[int], float]:
    """Greedy tokens, and their rate from the first on."""
    request = Request(
        sequence=SequenceId(sequence),
        prompt_ids=tuple(prompt),
        sampling=Sampling(),
        max_tokens=max_tokens,
        eos_ids=frozenset(eos_ids),
    )
    tokens, at = [], []
    async for produced in running.pipeline.generate(request):
        if isinstance(produced, SampledToken):
            tokens.append(produced.token)
            at.append(time.perf_counter())
    rate = (len(tokens) - 1) / (at[-1] - at[0]) if len(tokens) > 1 else 0.0
    return tokens, rate


async def draft_turns(
    prepared: Prepared, drafting: Running, plain_ring: Running, options: Any
) -> Turns:
    """A paragraph to be repeated: with drafts against without; the tokens must be the same."""
    tokenizer = await asyncio.to_thread(prepared.model.tokenizer)
    eos_ids = prepared.model.eos_ids
    turns = Turns("guesses", 1.5, [], [])
    for turn in range(options.turns + 1):
        fast_s = slow_s = 0.0
        for index, paragraph in enumerate(PARAGRAPHS):
            prompt, base = tokenizer.prompt_ids(paragraph), 9_000_000 + 10 * turn + index
            guessed, rate = await answer(drafting, base, prompt, max_tokens=160, eos_ids=eos_ids)
            plain, plain_rate = await answer(
                plain_ring, base, prompt, max_tokens=160, eos_ids=eos_ids
            )
            if options.weights == "float32":
                assert guessed == plain, "guesses change no token"
            fast_s += 1 / rate
            slow_s += 1 / plain_rate
        if turn:
            turns.ours.append(len(PARAGRAPHS) / fast_s)
            turns.theirs.append(len(PARAGRAPHS) / slow_s)
    return turns


def cpu_s(running: Running) -> float:
    """CPU seconds of this process and of all that it started."""
    del running
    here = psutil.Process()
    times = [here.cpu_times(), *(child.cpu_times() for child in here.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def ids(count: int, seed: int = 0) -> list[int]:
    """Token ids that repeat nothing."""
    return [1000 + (seed * 7919 + i * 104_729) % 40_000 for i in range(count)]


def show(found: Sequence[Turns], weights: str) -> None:
    """A table of rates and ratios."""
    table = Table(title=f"{MODEL}, {weights}")
    for heading in ("", "two agents", "one process", "ratio", "wanted", ""):
        table.add_column(heading, justify="right")
    for each in found:
        table.add_row(
            each.name,
            f"{statistics.median(each.ours):.1f}",
            f"{statistics.median(each.theirs):.1f}",
            f"{each.ratio:.2f}",
            f"{each.wanted:.2f}",
            each.more,
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    run_loop(main())
