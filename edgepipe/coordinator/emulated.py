"""A pipeline without a model: emulated stages, for measuring the runtime and the links."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgepipe.coordinator.borrowing import Spot, borrowed
from edgepipe.coordinator.deployment import Deployment, StagePlace
from edgepipe.coordinator.link_survey import survey_links
from edgepipe.coordinator.nodes import Roster
from edgepipe.coordinator.planning import candidates, explained
from edgepipe.coordinator.profiles import Profiles
from edgepipe.coordinator.surveying import nics_of
from edgepipe.core.candidates import check_enough, in_order
from edgepipe.core.frame import Codec, DType, JobId
from edgepipe.core.measured import Measured, Measurement
from edgepipe.core.model import Item, ModelShape
from edgepipe.core.speed import Curve, DeviceSpeed, ItemSpeed
from edgepipe.core.survey import Survey
from edgepipe.errors import PlanError

HIDDEN_SIZE = 2048
MAX_ROWS = 1 << 20
VOCAB_SIZE = 1024
"""Small, so that sampling does not count: the stage time is given, not the head's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulation:
    """Stages that compute nothing: `spots` in ring order, and each one's seconds per frame.

    In training `stage_s` are of forwards.
    """

    spots: tuple[Spot, ...]
    stage_s: tuple[float, ...]
    backward_s: tuple[float, ...] = ()


def emulate(
    roster: Roster,
    *,
    num_stages: int | None,
    stage_s: Sequence[float],
    backward_s: Sequence[float] = (),
    nodes: Sequence[str] | None = None,
) -> Emulation:
    """One emulated stage on each device, `stage_s` seconds a frame (one for all, or one each).

    With `backward_s` they train.

    The devices are those of `nodes` in that order, else all that are free, by their nodes' names.

    Raises PlanError where there are too few devices, or times.
    """
    by_name = {node.profile.name: node for node in roster.usable}
    try:
        chosen = in_order(candidates(roster), nodes)
        wanted = num_stages or len(chosen)
        check_enough(chosen, wanted)
    except PlanError as error:
        raise explained(error, roster) from None
    spots = (Spot(node=by_name[each.node], device=each.device) for each in chosen[:wanted])
    return Emulation(
        spots=tuple(spots),
        stage_s=_each(stage_s, wanted),
        backward_s=_each(backward_s, wanted) if backward_s else (),
    )


def _each(times: Sequence[float], num_stages: int) -> tuple[float, ...]:
    """A time for each stage, of one for all or one each."""
    if len(times) == 1:
        return tuple(times) * num_stages
    if len(times) != num_stages:
        raise PlanError(f"there are {num_stages} stages and {len(times)} times: give one each")
    return tuple(times)


def emulated_deployment(
    emulation: Emulation,
    *,
    num_slots: int,
    max_positions: int,
    prefill_chunk: int,
    codec: Codec | None,
) -> Deployment:
    """What it puts on its devices."""
    last = len(emulation.spots) - 1
    stages = tuple(
        StagePlace(
            node=spot.node.profile,
            device=spot.device,
            first=index,
            end=index + 1,
            embedding=index == 0,
            head=index == last,
            parts=(),
            codec=codec or Codec.NONE,
            engine="emulated",
            options={
                "forward_s": seconds,
                "hidden_size": HIDDEN_SIZE,
                "vocab_size": VOCAB_SIZE,
            },
        )
        for index, (spot, seconds) in enumerate(
            zip(emulation.spots, emulation.stage_s, strict=True)
        )
    )
    return Deployment(
        job=JobId(secrets.token_hex(8)),
        epoch=1,
        stages=stages,
        config={},
        dtype=DType.FLOAT32,
        hidden_size=HIDDEN_SIZE,
        vocab_size=VOCAB_SIZE,
        num_slots=num_slots,
        num_groups=min(num_slots, len(stages)),
        max_positions=max_positions,
        prefill_chunk=prefill_chunk,
    )


def emulated_model(num_layers: int) -> ModelShape:
    """A model of so many layers without weights: each is one stage's."""
    nothing = Item(name="", tensors=(), num_parameters=0)
    layers = (replace(nothing, name=f"layer {index}") for index in range(num_layers))
    return ModelShape(
        name="emulated",
        architecture="",
        num_layers=num_layers,
        hidden_size=HIDDEN_SIZE,
        vocab_size=VOCAB_SIZE,
        max_positions=MAX_ROWS,
        tied=False,
        dtype=DType.FLOAT32,
        embedding=replace(nothing, name="embedding"),
        layers=tuple(layers),
        head=replace(nothing, name="head"),
        parameters={},
    )


def emulated_speed(emulation: Emulation, stage: int, found: Measured) -> DeviceSpeed:
    """A stage's time is its only layer's, whatever the rows of a frame."""
    same = _always(emulation.stage_s[stage])
    back = _always(emulation.backward_s[stage] if emulation.backward_s else 0.0)
    layer = ItemSpeed(decode=same, prefill=same, forward=same, backward=back)
    layers = [layer] * len(emulation.spots)
    return DeviceSpeed(
        items=(ItemSpeed(), *layers, ItemSpeed()),
        codecs=found.codecs,
        overhead_s=found.overhead_s,
    )


def _always(seconds: float) -> Curve:
    return Curve(rows=(1, MAX_ROWS), seconds=(seconds, seconds))


async def emulated_survey(emulation: Emulation, *, home: Path, fresh: bool) -> Survey:
    """The stages' given times; what the runtime takes and the links, as they are measured."""
    job = f"survey-{secrets.token_hex(4)}"
    runtimes = [await _runtime(spot, job) for spot in emulation.spots]
    links = await survey_links(
        emulation.spots,
        profiles=Profiles(home=home),
        fresh=fresh,
        now_s=time.time(),
        job=job,
        measuring=lambda _what, _done, _total: None,
    )
    return Survey(
        devices=tuple(spot.candidate for spot in emulation.spots),
        speeds=tuple(
            emulated_speed(emulation, stage, found) for stage, found in enumerate(runtimes)
        ),
        links=links.links,
        nics=nics_of(emulation.spots, links.links),
    )


async def _runtime(spot: Spot, job: str) -> Measured:
    """What the runtime and the codecs take for a frame on that device."""
    nothing = Measurement(
        dtype=DType.FLOAT32,
        num_slots=1,
        max_positions=2,
        prefill_chunk=1,
        memory_bytes=0,
        engine="emulated",
    )
    async with borrowed(spot, job) as worker:
        return await worker.profile({}, nothing, lambda _done, _total: None)
