"""What a person can do about a plan, each with its number.

A what-if is planned like the plan itself, on paper: with a machine moved to a cable, with another
dtype or context, with LoRA in place of full fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from edgepipe.core.frame import DType
from edgepipe.core.pipeline import LeftOut, Plan
from edgepipe.core.plan import plan
from edgepipe.core.posing import Asked
from edgepipe.core.prediction import figure_s
from edgepipe.core.problem import Nic
from edgepipe.core.size import human_size
from edgepipe.core.speed import Link
from edgepipe.core.survey import Survey
from edgepipe.core.work import Batch, Strategy, TrainMode, Work

WIRED_BYTES_PER_S = 112e6
WIRED_LATENCY_S = 0.4e-3
"""1 GbE as gRPC fills it."""

_WORTH_SAYING = 1.03
_SHORTER = (4096, 2048, 1024, 512)
_FEW_EXPANSIONS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One sentence; `gain` is by how much the figure gets better, as a share, where it does."""

    sentence: str
    gain: float | None = None


def advise(asked: Asked, found: Plan) -> tuple[Advice, ...]:
    """What would make the plan better, or make it fit, the most useful first."""
    if not found.feasible:
        return tuple(_fitting(asked, found))
    gains = [*_left_out(found.left_out), *_wired(asked, found)]
    return tuple(sorted(gains, key=lambda each: -(each.gain or 0.0)))


def _left_out(devices: tuple[LeftOut, ...]) -> Iterator[Advice]:
    for out in devices:
        if out.gain is not None and out.gain >= _WORTH_SAYING - 1:
            yield Advice(
                sentence=f"leave {out.node} ({out.device}) out: +{out.gain:.0%}", gain=out.gain
            )


def _wired(asked: Asked, found: Plan) -> Iterator[Advice]:
    """Each node whose links are slower than a cable's, moved to one."""
    before = _figure_s(found)
    for node in dict.fromkeys(each.node for each in asked.survey.devices):
        if before is None or not _is_slow(asked.survey, node):
            continue
        after = _figure_s(_planned(replace(asked, survey=_on_a_cable(asked.survey, node))))
        if after is not None and before / after >= _WORTH_SAYING:
            factor = before / after
            yield Advice(sentence=f"move {node} to wired: {factor:.2g}×", gain=factor - 1)


def _is_slow(survey: Survey, node: str) -> bool:
    host = _host(survey, node)
    nic = survey.nics.get(host)
    links = [
        link.bytes_per_s
        for link in survey.links
        if node in {link.sender, link.receiver}
        and _host(survey, link.sender) != _host(survey, link.receiver)
    ]
    speeds = links if nic is None else [*links, nic.send_bytes_per_s, nic.receive_bytes_per_s]
    shared = nic is not None and nic.medium is not None
    return shared or min(speeds, default=WIRED_BYTES_PER_S) < WIRED_BYTES_PER_S / 2


def _on_a_cable(survey: Survey, node: str) -> Survey:
    """The node with a cable of its own; a link is still no faster than its other end's NIC."""
    host = _host(survey, node)
    wired = Nic(send_bytes_per_s=WIRED_BYTES_PER_S, receive_bytes_per_s=WIRED_BYTES_PER_S)
    return replace(
        survey,
        nics={**survey.nics, host: wired},
        links=tuple(
            _moved(survey, link)
            if host in {_host(survey, link.sender), _host(survey, link.receiver)}
            else link
            for link in survey.links
        ),
    )


def _moved(survey: Survey, link: Link) -> Link:
    ends = (_host(survey, link.sender), _host(survey, link.receiver))
    if ends[0] == ends[1]:
        return link
    media = [nic for end in ends if (nic := survey.nics.get(end)) and nic.medium is not None]
    if len(media) > 1:  # the other end still shares the air
        return replace(link, bytes_per_s=max(link.bytes_per_s, media[0].send_bytes_per_s))
    return replace(
        link,
        bytes_per_s=max(link.bytes_per_s, WIRED_BYTES_PER_S),
        latency_s=min(link.latency_s, WIRED_LATENCY_S),
    )


def _host(survey: Survey, node: str) -> str:
    return next((each.host or node for each in survey.devices if each.node == node), node)


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
    again = Asked.of(
        asked.model, asked.survey, work, num_stages=asked.num_stages, codec=asked.codec
    )
    return replace(again, in_order=asked.in_order)


def _planned(asked: Asked) -> Plan:
    return plan(asked, strategy=Strategy.EXACT, rivals=(), max_expansions=_FEW_EXPANSIONS)


def _figure_s(found: Plan) -> float | None:
    return None if found.predicted is None else figure_s(found.objective, found.predicted)
