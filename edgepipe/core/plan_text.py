"""A plan in sentences, and as plain text. Names in it come from other machines."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from edgepipe.core.advice import faster
from edgepipe.core.pipeline import Plan, Stage
from edgepipe.core.prediction import Prediction
from edgepipe.core.size import human_size
from edgepipe.core.work import Objective


def duration(seconds: float | None) -> str:
    """`0.0123` is "12.3 ms", from a second on "1.23 s"; what is unknown is "?"."""
    if seconds is None:
        return "?"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 stage`, `2 stages`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def predicted_text(objective: Objective, predicted: Prediction) -> str:
    """The objective's figure as a person reads it."""
    match objective:
        case Objective.TRAIN:
            return f"{duration(predicted.step_s)} a step"
        case Objective.PREFILL:
            return f"first token after {duration(predicted.ttft_s)}"
        case _:
            rate = predicted.tokens_per_s
            return "no time at all" if rate is None else f"{rate:.3g} tokens/s"


def prediction_text(plan: Plan) -> str:
    """What is predicted of the plan, and what holds it back; "" without a prediction."""
    predicted = plan.predicted
    if predicted is None:
        return ""
    also = ""
    if plan.objective in {Objective.LATENCY, Objective.THROUGHPUT}:
        also = f", first token after {duration(predicted.ttft_s)}"
    gap = f"; the search was cut short, at most {plan.gap:.1%} is to be gained" if plan.gap else ""
    return (
        f"predicted: {predicted_text(plan.objective, predicted)}{also}; "
        f"busiest: {predicted.bottleneck.where} ({predicted.bottleneck.kind}){gap}"
    )


def summary_text(plan: Plan) -> str:
    """The model, the split, what its memory is for, and whether it fits."""
    fits = "it fits" if plan.feasible else f"short by {human_size(plan.short_by_bytes)}"
    return (
        f"{plan.model}: {count(plan.num_layers, 'layer')} in {count(len(plan.stages), 'stage')}, "
        f"{plan.strategy} split, {plan.inputs.dtype}, {_work(plan)}: {fits}"
    )


def left_out_texts(plan: Plan) -> Iterator[str]:
    """A sentence for each device that is not used."""
    for out in plan.left_out:
        known = out.gain is not None and out.gain > 0
        gain = f" ({faster(out.gain)} without it)" if out.gain is not None and known else ""
        yield f"without {out.node} ({out.device}): {out.reason}{gain}"


def shortage_texts(plan: Plan) -> Iterator[str]:
    """A sentence for each place where memory is short."""
    for short in plan.shortages:
        yield (
            f"{short.node} ({' and '.join(short.devices)}) lacks "
            f"{human_size(short.short_by_bytes)}: "
            f"{human_size(short.needed_bytes)} of {human_size(short.limit_bytes)}"
        )


def plan_text(plan: Plan) -> str:
    """All of it: a line for each stage, in columns, then the sentences."""
    rows = [tuple(_cells(at, stage)) for at, stage in enumerate(plan.stages)]
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    told = (*left_out_texts(plan), *shortage_texts(plan), summary_text(plan), prediction_text(plan))
    return "\n".join((*lines, *filter(None, told)))


def _cells(at: int, stage: Stage) -> Iterator[str]:
    yield str(at)
    yield f"{stage.node} ({stage.device})"
    ends = (("embedding", stage.embedding), ("head", stage.head))
    yield " + ".join((f"[{stage.first}, {stage.end})", *(name for name, has in ends if has)))
    yield f"{human_size(stage.memory_bytes)} of {human_size(stage.memory_limit_bytes)}"
    yield duration(stage.forward_s + stage.backward_s)


def _work(plan: Plan) -> str:
    """What its memory is for."""
    batch = plan.inputs.batch
    if batch is None:
        return f"{count(plan.inputs.num_slots, 'slot')} of {plan.inputs.max_positions} tokens"
    again = ", activations computed again" if plan.recompute else ""
    return (
        f"{batch.mode}, {count(batch.sequences, 'sequence')} of {batch.sequence_length} tokens "
        f"in {count(plan.microbatches, 'microbatch', 'microbatches')}{again}"
    )
