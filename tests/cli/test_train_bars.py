from __future__ import annotations

import io

import pytest
from rich.console import Console

from edgepipe.cli.train_bars import LinkView, StageView, StepView, TrainBars, step_view

STAGES = (StageView(name="desk cuda:0", busy=0.87), StageView(name="attic [red]cpu", busy=1.2))
LINKS = (LinkView(sender="desk", receiver="attic", forward_bytes=1 << 20, backward_bytes=1 << 19),)


def view(step: int, *, eval_loss: float | None = None, step_s: float = 1.31) -> StepView:
    return StepView(
        step=step,
        num_steps=60,
        loss=2.31,
        tokens_per_s=312.2,
        step_s=step_s,
        bubble=0.12,
        eval_loss=eval_loss,
        predicted_step_s=1.25,
        stages=STAGES,
        links=LINKS,
    )


def console(*, terminal: bool = False, width: int = 100) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    made = Console(
        file=stream,
        width=width,
        force_terminal=terminal,
        legacy_windows=False,
        _environ={"TERM": "xterm-256color", "NO_COLOR": "1"},
    )
    return made, stream


def shown(views: list[StepView], *, terminal: bool = False, every: int = 10) -> str:
    made, stream = console(terminal=terminal)
    with TrainBars(made, every=every) as bars:
        for each in views:
            bars.update(each)
    return stream.getvalue()


def test_without_a_terminal_every_few_steps_are_a_line() -> None:
    lines = shown([view(step) for step in range(1, 61)], every=20).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "step 1 of 60",
        "step 20 of 60",
        "step 40 of 60",
        "step 60 of 60",
    ]


def test_the_line_says_it_all() -> None:
    assert shown([view(20, eval_loss=2.5)]) == (
        "step 20 of 60: loss 2.3100, held out 2.5000, 312 tokens/s, "
        "1.31 s per step (predicted 1.25 s), bubble 12 %, 1.5 MiB sent, 52 s left\n"
    )


def test_an_evaluation_always_has_its_line() -> None:
    assert shown([view(1), view(2), view(3, eval_loss=2.5), view(4)]).count("\n") == 2


def test_a_line_is_never_wrapped() -> None:
    made, stream = console(width=30)
    with TrainBars(made) as bars:
        bars.update(view(1))
        bars.note("a checkpoint of step 1 [is] whole, and this is a long line")
    assert stream.getvalue().count("\n") == 2
    assert "[is]" in stream.getvalue()


def test_on_a_terminal_the_bars_follow_the_step() -> None:
    drawn = shown([view(1), view(2)], terminal=True)
    for part in ("step 2 of 60", "━", "desk cuda:0", "attic [red]cpu", "87 %", "1.0 MiB down"):
        assert part in drawn
    assert "sent" not in drawn


def test_the_view_is_a_picture() -> None:
    made, stream = console()
    made.print(step_view(view(20), 150.0, 2.5))
    speed = "1.31 s per step (predicted 1.25 s)"
    assert [line.rstrip() for line in stream.getvalue().splitlines()] == [
        "step 20 of 60  ━━━━━━━━················  2 min left",
        f"loss 2.3100  held out 2.5000  312 tokens/s  {speed}  bubble 12 %",
        "  desk cuda:0     █████████████████████···  87 %",
        "  attic [red]cpu  ████████████████████████  100 %",
        "  desk to attic  1.0 MiB down  512.0 KiB up",
    ]


def test_no_color_is_honoured() -> None:
    drawn = shown([view(1)], terminal=True)
    assert "\x1b[32m" not in drawn
    assert "\x1b[36m" not in drawn


def test_a_dumb_terminal_gets_lines() -> None:
    stream = io.StringIO()
    made = Console(file=stream, force_terminal=True, width=200, _environ={"TERM": "dumb"})
    with TrainBars(made) as bars:
        bars.update(view(1))
    assert stream.getvalue().startswith("step 1 of 60: ")


@pytest.mark.parametrize(
    ("step_s", "left"), [(1.0, "59 s left"), (10.0, "10 min left"), (600.0, "9 h 50 min left")]
)
def test_the_time_that_is_left_is_in_sensible_units(step_s: float, left: str) -> None:
    assert shown([view(1, step_s=step_s)]).endswith(f"{left}\n")


def test_one_slow_step_changes_little_of_the_time_left() -> None:
    steady = [view(step, step_s=1.0) for step in range(1, 10)]
    assert shown([*steady, view(10, step_s=2.0)]).endswith("60 s left\n")
