"""Training steps of edgepipe and of torch.distributed.pipelining over gloo, side by side.

    .venv/bin/python -m bench.train_side_by_side [--only rival|edgepipe] [--turns N] [--json]

Emulated stages, each behind a link of its own in a network namespace (needs root), then two stages
of a small Llama on loopback, one thread each. Both sides take turns. Exits 1 where a bound is
missed, and names it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench.edgepipe_training import bench_train, train
from bench.lan_agents import machines
from bench.pipelining_rival import on_lan, on_loopback
from bench.rank_task import Schedule
from bench.shaped_network import can_make_networks, make_lan
from bench.side_by_side import Bounds, Case, Turn
from bench.training_task import EmulatedTraining, LlamaTraining
from edgepipe.core.frame import Codec
from edgepipe.errors import EdgepipeError, UsageError

BURST = "32kb"
"""An eighth of an activation: a bucket that holds one whole hides the link from every schedule."""


INTERRUPTED = 130
"""What a shell expects of a command that Ctrl-C ended."""


class Side(StrEnum):
    """Who is measured."""

    RIVAL = "rival"
    EDGEPIPE = "edgepipe"


class Setting(StrEnum):
    """What is measured."""

    UNLIMITED = "unlimited"
    FAST = "100mbit"
    SLOW = "50mbit"
    LLAMA = "llama"


LINKS = {
    Setting.UNLIMITED: (None, Codec.NONE, Bounds(max_over_ideal=1.10)),
    Setting.FAST: ("100mbit", Codec.INT8, Bounds(min_ratio=1.55, max_over_ideal=1.10)),
    Setting.SLOW: ("50mbit", Codec.INT8, Bounds(min_ratio=2.2, max_over_ideal=1.10)),
}
"""A link's rate, what edgepipe sends over it, and what must hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Who is measured, how many turns each has, and how many steps a turn has."""

    sides: Sequence[Side]
    turns: int
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Both sides of one setting, ready to be measured any number of times."""

    rival: Callable[[], dict[Schedule, float]]
    edgepipe: Callable[[], float]

    def turn(self, sides: Sequence[Side]) -> Turn:
        """Measure the sides, one after the other."""
        return Turn(
            rival=self.rival() if Side.RIVAL in sides else {},
            edgepipe=self.edgepipe() if Side.EDGEPIPE in sides else None,
        )


@contextmanager
def emulated(setting: Setting, training: EmulatedTraining, effort: Effort) -> Iterator[Bench]:
    """Stages on hosts of their own, and one more host on which the command is typed."""
    if not can_make_networks():
        raise UsageError("shaped links are network namespaces: run this as root on Linux with ip")
    rate, codec, _ = LINKS[setting]
    with ExitStack() as stack:
        lan = make_lan(stack, training.num_stages + 1, rate, BURST)
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        speeds = [1.0] * training.num_stages if Side.EDGEPIPE in effort.sides else []
        peers = stack.enter_context(machines(lan, home, speeds))
        yield Bench(
            rival=lambda: on_lan(lan, training, steps=effort.steps),
            edgepipe=lambda: bench_train(
                lan.hosts[-1], peers, training, codec=codec, steps=effort.steps, home=home / "typed"
            ),
        )


def emulated_case(setting: Setting, training: EmulatedTraining, effort: Effort) -> Case:
    """Emulated stages on shaped links."""
    with emulated(setting, training, effort) as bench:
        return Case(
            name=setting,
            bounds=LINKS[setting][2],
            turns=[bench.turn(effort.sides) for _ in range(effort.turns)],
            ideal_step_s=training.ideal_step_s,
        )


def llama_case(training: LlamaTraining, effort: Effort) -> Case:
    """Real compute on loopback."""
    bench = Bench(
        rival=lambda: on_loopback(training, steps=effort.steps),
        edgepipe=lambda: train(training, steps=effort.steps),
    )
    turns = [bench.turn(effort.sides) for _ in range(effort.turns)]
    return Case(name=Setting.LLAMA, bounds=Bounds(min_ratio=1.0), turns=turns)


def measure(setting: Setting, effort: Effort) -> Case:
    """One setting."""
    if setting is Setting.LLAMA:
        return llama_case(LlamaTraining(), effort)
    return emulated_case(setting, EmulatedTraining(), effort)


def table(cases: Sequence[Case]) -> Table:
    """Seconds of a step, and ratios beside what is wanted."""
    found = Table(
        box=box.SIMPLE, title="Seconds of a step", title_justify="left", padding=(0, 1, 0, 0)
    )
    headings = ("", *Schedule, "edgepipe", "ideal", "/ ideal", "at most", "ratio", "at least")
    for heading in headings:
        found.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for case in cases:
        figures = (
            *map(case.rival_step_s, Schedule),
            case.edgepipe_step_s,
            case.ideal_step_s,
            case.over_ideal,
            case.bounds.max_over_ideal,
            case.ratio,
            case.bounds.min_ratio,
        )
        found.add_row(case.name, *("-" if each is None else f"{each:.2f}" for each in figures))
    return found


def show(cases: Sequence[Case], *, as_json: bool) -> None:
    """Print what was measured."""
    if as_json:
        print(json.dumps({"cases": [case.document() for case in cases]}, indent=2))
    else:
        Console().print(table(cases))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", type=Side, choices=list(Side), help="leave the other side out")
    parser.add_argument("--settings", nargs="+", type=Setting, default=list(Setting))
    parser.add_argument("--turns", type=int, default=3, help="of each side")
    parser.add_argument("--steps", type=int, default=5, help="measured in a turn")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> int:
    """0 where every bound holds, else 1; 2 where this machine cannot do it.

    What was measured before a failure or Ctrl-C is shown.
    """
    options = _options()
    sides = [options.only] if options.only else list(Side)
    effort = Effort(sides=sides, turns=options.turns, steps=options.steps)
    cases: list[Case] = []
    failed = 0
    try:
        for setting in options.settings:
            print(f"measuring {setting}", file=sys.stderr, flush=True)
            cases.append(measure(setting, effort))
    except EdgepipeError as error:
        print(f"bench-train: {error}", file=sys.stderr)
        failed = error.exit_code
    except KeyboardInterrupt:
        failed = INTERRUPTED
    if cases:
        show(cases, as_json=options.json)
    missed = [sentence for case in cases for sentence in case.missed()]
    for sentence in missed:
        print(sentence, file=sys.stderr)
    return failed or int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
