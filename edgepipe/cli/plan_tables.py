"""What `plan --explain` shows below the plan: its rivals, and what a person can do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgepipe.core.advice import Advice
from edgepipe.core.pipeline import Plan, Rival, Stage
from edgepipe.core.plan_text import predicted_text
from edgepipe.core.prediction import Prediction, figure_s
from edgepipe.core.size import human_size


def rivals_table(plan: Plan) -> RenderableType:
    """The plan beside every other strategy: the figure, how many times slower, the split."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("strategy", "predicted", "", "stages"):
        table.add_column(heading)
    table.add_row(*_row(plan, plan.strategy, plan.predicted, plan.stages, 0), style="bold")
    for rival in plan.rivals:
        table.add_row(*_rival_row(plan, rival))
    return table


def advice_list(advice: Sequence[Advice]) -> RenderableType:
    """One line for each."""
    return Group(*(Text(f"• {each.sentence}", "green") for each in advice))


def _rival_row(plan: Plan, rival: Rival) -> Iterator[RenderableType]:
    return _row(plan, rival.strategy, rival.predicted, rival.stages, rival.short_by_bytes)


def _row(
    plan: Plan,
    strategy: str,
    predicted: Prediction | None,
    stages: Sequence[Stage],
    short_by_bytes: int,
) -> Iterator[RenderableType]:
    yield strategy
    if predicted is None:
        short = short_by_bytes or plan.short_by_bytes
        yield Text(f"does not fit by {human_size(short)}", "red")
        yield ""
    else:
        yield predicted_text(plan.objective, predicted)
        yield _times_slower(plan, predicted)
    yield Text(", ".join(f"{stage.node} {stage.end - stage.first}" for stage in stages))


def _times_slower(plan: Plan, predicted: Prediction) -> Text:
    mine = 0.0 if plan.predicted is None else figure_s(plan.objective, plan.predicted)
    if not mine:
        return Text("")
    factor = figure_s(plan.objective, predicted) / mine
    return Text("" if factor == 1 else f"{factor:.2f}× the time", "dim")
