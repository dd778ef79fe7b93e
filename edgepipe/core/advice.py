"""What a person can do about a plan, each with its number.

A what-if is planned like the plan itself, on paper: with a machine moved to a cable, with another
dtype or context, with LoRA in place of full fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgepipe.core.frame import DType
from edgepipe.core.going import Going, always
from edgepipe.core.pipeline import LeftOut, Plan
from edgepipe.core.plan import plan
from edgepipe.core.posing import Asked
from edgepipe.core.prediction import figure_s
from edgepipe.core.problem import Nic
from edgepipe.core.record import to_json
from edgepipe.core.size import human_size
from edgepipe.core.speed import Link
from edgepipe.core.stage_bytes import stage_bytes_of
from edgepipe.core.survey import Survey
from edgepipe.core.work import Batch, Strategy, TrainMode, Work

WIRED_BYTES_PER_S = 112e6
WIRED_LATENCY_S = 0.4e-3
"""1 GbE as gRPC fills it."""

_SLOW = WIRED_BYTES_PER_S / 2
_WORTH_SAYING = 1.03
_MANY = 20
_MOST = 1000
"""Beyond that it is out of the question, and by how much is nobody's."""
_SHORTER = (4096, 2048, 1024, 512)
_FEW_EXPANSIONS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One sentence; `gain` is by how much the figure gets better, as a share, where it does."""

    sentence: str
    gain: float | None = None


def advise(asked: Asked, found: Plan, going: Going = always) -> tuple[Advice, ...]:
    """What would make the plan better, or make it fit, the most useful first.

    Machines are moved to a cable for as long as there is time.
    """
    if not found.feasible:
        return tuple(_fitting(asked, found))
    gains = [*_left_out(found.left_out), *_wired(asked, found, going)]
    return tuple(sorted(gains, key=lambda each: -(each.gain or 0.0)))


def plan_document(plan: Plan, advice: Sequence[Advice] = ()) -> dict[str, Any]:
    """What `edgepipe plan --json` prints."""
    return {**plan.to_json(), "advice": [to_json(each) for each in advice]}


def faster(gain: float) -> str:
    """A gain as a person reads it: "+23%", and "12×" where percents say nothing any more."""
    return f"+{gain:.0%}" if gain < _MANY - 1 else _times(gain)


def _times(gain: float) -> str:
    factor = gain + 1
    if factor >= _MOST:
        return f"over {_MOST}×"
    return f"{factor:.0f}×" if factor >= _MANY / 2 else f"{factor:.2f}×".replace("0×", "×")


def _left_out(devices: tuple[LeftOut, ...]) -> Iterator[Advice]:
    for out in devices:
        if out.gain is not None and out.gain >= _WORTH_SAYING - 1:
            yield Advice(
                sentence=f"leave {out.node} ({out.device}) out: {faster(out.gain)}", gain=out.gain
            )


def _wired(asked: Asked, found: Plan, going: Going) -> Iterator[Advice]:
    """Each node whose links are slower than a cable's, moved to one; those of the plan first."""
    before = _figure_s(found)
    nodes = [each.node for each in found.stages] + [each.node for each in asked.survey.devices]
    for node in dict.fromkeys(nodes):
        if before is None or not going() or not _is_slow(asked.survey, node):
            continue
        moved = replace(asked, survey=_on_a_cable(asked.survey, node))
        after = _figure_s(_planned(moved, going))
        if after and before / after >= _WORTH_SAYING:
            gain = before / after - 1
            yield Advice(sentence=f"move {node} to wired: {_times(gain)}", gain=gain)


def _is_slow(survey: Survey, node: str) -> bool:
    """On the air, or its best link, both ways, is slower than a cable's.

    A link to a machine on the air says nothing of the node's own side.
    """
    host = _host(survey, node)
    nic = survey.nics.get(host)
    if nic is not None and (
        nic.medium is not None or min(nic.send_bytes_per_s, nic.receive_bytes_per_s) < _SLOW
    ):
        return True
    both_ways: dict[str, float] = {}
    for link in survey.links:
        ends = {_host(survey, link.sender), _host(survey, link.receiver)}
        if host in ends and len(ends) > 1:
            (other,) = ends - {host}
            if not _on_air(survey, other):
                both_ways[other] = min(link.bytes_per_s, both_ways.get(other, link.bytes_per_s))
    return max(both_ways.values(), default=WIRED_BYTES_PER_S) < _SLOW


def _on_air(survey: Survey, host: str) -> bool:
    nic = survey.nics.get(host)
    return nic is not None and nic.medium is not None


def _on_a_cable(survey: Survey, node: str) -> Survey:
    """The node with a cable of its own; a link is still no faster than its other end's NIC."""
    host = _host(survey, node)
    wired = Nic(send_bytes_per_s=WIRED_BYTES_PER_S, receive_bytes_per_s=WIRED_BYTES_PER_S)
    return replace(
        survey,
        nics={**survey.nics, host: wired},
        links=tuple(_moved(survey, link, host) for link in survey.links),
    )


def _moved(survey: Survey, link: Link, host: str) -> Link:
    """The link once the host is on a cable."""
    ends = {_host(survey, link.sender), _host(survey, link.receiver)}
    if host not in ends or len(ends) == 1:
        return link
    (other,) = ends - {host}
    if _on_air(survey, other):
        air = survey.nics[other].send_bytes_per_s
        return replace(link, bytes_per_s=max(link.bytes_per_s, min(air, WIRED_BYTES_PER_S)))
    return replace(
        link,
        bytes_per_s=max(link.bytes_per_s, WIRED_BYTES_PER_S),
        latency_s=min(link.latency_s, WIRED_LATENCY_S),
    )


def _host(survey: Survey, node: str) -> str:
    return next((each.machine for each in survey.devices if each.node == node), node)


def _fitting(asked: Asked, found: Plan) -> Iterator[Advice]:
    """What would make it fit, the least loss first; or nothing, where another machine must help."""
    for what, work in _smaller(asked.work):
        if _planned(_for(asked, work)).feasible:
            yield Advice(sentence=f"{_what_does_not(asked, found)}; {what}")
            return
    yield Advice(sentence=f"{_what_does_not(asked, found)}, whatever is given up: add a machine")


def _smaller(work: Work) -> Iterator[tuple[str, Work]]:
    """Less work, by what it gives up."""
    batch, load = work.batch, work.workload
    if batch is not None:
        if batch.mode is TrainMode.FULL:
            yield "LoRA does", replace(work, batch=replace(batch, mode=TrainMode.LORA))
        yield from _shorter_batches(work, batch)
        return
    if load.num_slots > 1:
        yield "one slot does", replace(work, workload=replace(load, num_slots=1))
    for context in _SHORTER:
        if context < load.max_positions:
            less = replace(load, max_positions=context)
            yield f"a context of {context} tokens does", replace(work, workload=less)
    if load.dtype is DType.FLOAT32:
        half = replace(load, dtype=DType.BFLOAT16)
        yield "bfloat16 does", replace(work, workload=half)


def _shorter_batches(work: Work, batch: Batch) -> Iterator[tuple[str, Work]]:
    for length in _SHORTER:
        if length < batch.sequence_length:
            lora = replace(batch, mode=TrainMode.LORA, sequence_length=length)
            what = f"LoRA on sequences of {length} tokens does"
            yield what, replace(work, batch=lora)


def _what_does_not(asked: Asked, found: Plan) -> str:
    batch = asked.work.batch
    what = asked.model.name
    if batch is not None:
        kind = "full fine-tuning" if batch.mode is TrainMode.FULL else "LoRA"
        what = f"{kind} of {asked.model.name}"
    where = " and ".join(dict.fromkeys(shortage.node for shortage in found.shortages))
    return f"{what} does not fit by {human_size(found.short_by_bytes)} on {where}"


def _for(asked: Asked, work: Work) -> Asked:
    """The same devices for other work."""
    return replace(asked, work=work, stage_bytes=stage_bytes_of(asked.model, work.workload))


def _planned(asked: Asked, going: Going = always) -> Plan:
    return plan(
        asked,
        strategy=Strategy.EXACT,
        rivals=(),
        judging=False,
        max_expansions=_FEW_EXPANSIONS,
        going=going,
    )


def _figure_s(found: Plan) -> float | None:
    return None if found.predicted is None else figure_s(found.objective, found.predicted)
