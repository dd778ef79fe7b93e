"""A pipeline without a model: emulated stages, for measuring the runtime and the links."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from edgepipe.coordinator.deployment import Deployment, StagePlace
from edgepipe.coordinator.nodes import Roster
from edgepipe.coordinator.planning import candidates, explained
from edgepipe.core.candidates import check_enough, in_order
from edgepipe.core.frame import Codec, DType, JobId
from edgepipe.errors import PlanError

HIDDEN_SIZE = 2048
VOCAB_SIZE = 1024
"""Small, so that sampling does not count: the stage time is given, not the head's."""


def emulated_deployment(
    roster: Roster,
    *,
    num_stages: int | None,
    stage_s: Sequence[float],
    num_slots: int,
    max_positions: int,
    prefill_chunk: int,
    codec: Codec | None,
    nodes: Sequence[str] | None = None,
) -> Deployment:
    """One emulated stage on each device, `stage_s` seconds a frame (one for all, or one each).

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
    devices = [(by_name[candidate.node], candidate.device) for candidate in chosen]
    times = [stage_s[0]] * wanted if len(stage_s) == 1 else list(stage_s)
    if len(times) != wanted:
        raise PlanError(f"there are {wanted} stages and {len(times)} times: give one each")
    stages = tuple(
        StagePlace(
            node=node.profile,
            device=device,
            first=index,
            end=index + 1,
            embedding=index == 0,
            head=index == wanted - 1,
            parts=(),
            codec=codec or Codec.NONE,
            options={
                "forward_s": times[index],
                "hidden_size": HIDDEN_SIZE,
                "vocab_size": VOCAB_SIZE,
            },
        )
        for index, (node, device) in enumerate(devices[:wanted])
    )
    return Deployment(
        job=JobId(secrets.token_hex(8)),
        epoch=1,
        stages=stages,
        engine="emulated",
        config={},
        dtype=DType.FLOAT32,
        hidden_size=HIDDEN_SIZE,
        vocab_size=VOCAB_SIZE,
        num_slots=num_slots,
        num_groups=min(num_slots, wanted),
        max_positions=max_positions,
        prefill_chunk=prefill_chunk,
    )
