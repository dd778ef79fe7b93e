"""Answers: streamed to a terminal, or whole as JSON."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from edgepipe.cli.comparing import Compared, compared_with, tell
from edgepipe.cli.plan_tables import rivals_table
from edgepipe.cli.show import DeployBars, StepBars, errors, print_json
from edgepipe.cli.speed_tables import speeds_table, unlinked_lines
from edgepipe.cli.tables import nodes_table, plan_table
from edgepipe.coordinator.answer_wish import Wish
from edgepipe.coordinator.generation import Answer, ask, generate
from edgepipe.coordinator.launch import (
    Interface,
    Running,
    Where,
    open_model,
)
from edgepipe.coordinator.node_rows import node_rows
from edgepipe.coordinator.nodes import Roster
from edgepipe.coordinator.planned import Planned
from edgepipe.coordinator.planning import How, check_cut
from edgepipe.coordinator.prepared import Prepared, prepare
from edgepipe.coordinator.watching import Watch
from edgepipe.core.pipeline import stage_to_json


async def answer_once(
    name: str,
    prompt: str,
    wish: Wish,
    where: Where,
    how: How,
    *,
    adapter: Path | None,
    raw: bool,
    json: bool,
) -> None:
    """`edgepipe run`. Raises what goes wrong, before any agent starts where it can be known."""
    prepared = await prepare(name, home=where.home, adapter=adapter)
    check_cut(how, prepared.shape)
    tokenizer = await asyncio.to_thread(prepared.model.tokenizer)
    prompt_ids = tokenizer.prompt_ids(prompt, raw=raw)
    asked = wish.asked(prepared.model, prompt_ids, prepared.shape.max_positions, 1)
    answer = ask(tokenizer, asked)
    max_positions = len(prompt_ids) + asked.max_tokens
    how = replace(how, prompt_tokens=len(prompt_ids))
    async with deployed(prepared, where, how, max_positions, quiet=json) as running:
        watch = await stream(running, answer, quiet=json)
        compared = compared_with(watch, answer, where.home)
        if json:
            print_json(answer_json(running, answer, compared))
        else:
            tell(answer, compared)


@asynccontextmanager
async def deployed(
    prepared: Prepared, where: Where, how: How, max_positions: int, *, quiet: bool
) -> AsyncIterator[Running]:
    """The running model, with its plan and progress shown on standard error unless `quiet`."""
    interface = Shown(errors(), quiet=quiet)
    try:
        async with open_model(
            prepared, where, how, max_positions=max_positions, interface=interface
        ) as running:
            yield running
    finally:
        interface.deployed()


async def stream(running: Running, answer: Answer, *, quiet: bool) -> Watch:
    """Generate an answer; its text goes to standard output as it comes, unless `quiet`.

    What the stages did meanwhile is in the watch.
    """
    watch = Watch(running=running)
    await watch.read()
    try:
        async for piece in generate(running.pipeline, answer):
            if answer.num_sampled == 1:
                await watch.read()
            if not quiet:
                sys.stdout.write(piece)
                sys.stdout.flush()
    finally:  # what went wrong is told on a line of its own
        if not quiet:
            sys.stdout.write("\n")
            sys.stdout.flush()
    await watch.read()
    return watch


def answer_json(running: Running, answer: Answer, compared: Compared) -> dict[str, Any]:
    """The document of `edgepipe run --json`."""
    asked, predicted = answer.asked, running.plan.predicted
    return {
        "text": answer.text,
        "token_ids": answer.token_ids,
        "prompt_token_ids": list(asked.prompt_ids),
        "prompt_tokens": len(asked.prompt_ids),
        "finish_reason": answer.finish,
        "seed": asked.sampling.seed,
        "codec": running.pipeline.deployment.stages[0].codec,
        "dtype": running.plan.inputs.dtype,
        "plan": stages_json(running),
        "predicted_tokens_per_s": None if predicted is None else predicted.tokens_per_s,
        "measured_tokens_per_s": answer.tokens_per_s,
        "predicted_ttft_s": None if predicted is None else predicted.ttft_s,
        "ttft_s": answer.ttft_s,
        "misses": list(compared.misses),
    }


def stages_json(running: Running) -> list[dict[str, Any]]:
    """The plan's stages, and what each one really holds."""
    places = running.pipeline.deployment.stages
    stages = []
    for index, stage in enumerate(running.plan.stages):
        client = running.pipeline.clients[index]
        assert client.memory is not None
        stages.append(
            {
                **stage_to_json(stage),
                "weight_bytes": client.memory.weight_bytes,
                "kv_bytes": client.memory.kv_bytes,
                "baseline_bytes": client.memory.baseline_bytes,
                "peak_bytes": client.memory.peak_bytes,
                "codec_forward": places[index].codec,
                "reached": None if client.reached is None else str(client.reached),
            }
        )
    return stages


class Shown(Interface):
    """Plan and progress on a console."""

    def __init__(self, console: Console, *, quiet: bool, everything: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._all = everything
        self._bars: DeployBars | None = None
        self._steps = StepBars(console)

    def measuring(self, what: str, done: int, total: int) -> None:
        """See Planning."""
        if not self._quiet:
            self._steps.measuring(what, done, total)

    def searching(self, done: int, total: int) -> None:
        """See Planning."""
        if not self._quiet:
            self._steps.searching(done, total)

    def planned(self, planned: Planned, roster: Roster) -> None:
        """Show the plan; with all that is known, the nodes, their speeds and its rivals too."""
        self._steps.stop()
        if self._quiet:
            return
        chosen = planned.plan
        if self._all:
            self._console.print(nodes_table(node_rows(roster)))
        if self._all and planned.surveyed is not None:
            chunk = chosen.inputs.prefill_chunk
            self._console.print(speeds_table(planned.surveyed.survey, prefill_chunk=chunk))
        for line in unlinked_lines(planned.surveyed.unlinked if planned.surveyed else ()):
            self._console.print(line, style="yellow", markup=False)
        self._console.print(plan_table(chosen))
        if self._all:
            self._console.print(rivals_table(chosen))
        self._bars = DeployBars(self._console, [stage.node for stage in chosen.stages])
        self._bars.start()

    def deployed(self) -> None:
        """Take the progress away."""
        self._steps.stop()
        if self._bars is not None:
            self._bars.stop()

    def hashing(self, done_bytes: int, total_bytes: int) -> None:
        """See Interface."""
        if not self._quiet:
            self._steps.reading(done_bytes, total_bytes)

    def sending(self, stage: int, done_bytes: int, total_bytes: int) -> None:
        """See Progress."""
        if self._bars is not None:
            self._bars.sending(stage, done_bytes, total_bytes)

    def loading(self, stage: int, done_bytes: int, total_bytes: int) -> None:
        """See Progress."""
        if self._bars is not None:
            self._bars.loading(stage, done_bytes, total_bytes)


async def answer_demo(question: str, wish: Wish, where: Where, how: How) -> None:
    """`edgepipe demo`: everything is shown, then the answer, then its figures."""
    console = errors()
    console.print("Reading the model: ten seconds the first time, one later …")
    prepared = await prepare("smollm2-135m", home=where.home)
    tokenizer = await asyncio.to_thread(prepared.model.tokenizer)
    prompt_ids = tokenizer.prompt_ids(question)
    asked = wish.asked(prepared.model, prompt_ids, prepared.shape.max_positions, 1)
    answer = ask(tokenizer, asked)
    slow = " and ".join(
        f"local-{index + 1}" for index, factor in enumerate(where.slowdowns) if factor > 1
    )
    console.print(
        f"Starting {where.local} private agents, {slow} at half speed, and looking for them over "
        "mDNS; the first time, measuring them takes ten seconds …"
    )
    interface = Shown(console, quiet=False, everything=True)
    try:
        async with open_model(
            prepared,
            where,
            replace(how, prompt_tokens=len(prompt_ids)),
            max_positions=len(prompt_ids) + asked.max_tokens,
            interface=interface,
        ) as running:
            console.print(f"\n[bold]{question}[/bold]\n")
            watch = await stream(running, answer, quiet=False)
            console.print()
            tell(answer, compared_with(watch, answer, where.home))
    finally:
        interface.deployed()
