"""A plan's stages, back on the devices and links of what it was made from."""

from __future__ import annotations

from itertools import pairwise

from edgepipe.core.compression import Table
from edgepipe.core.frame import Codec
from edgepipe.core.pipeline import Plan
from edgepipe.core.posing import Asked
from edgepipe.core.problem import Placement, Stage


def placed(asked: Asked, plan: Plan) -> Placement:
    """Where the plan's stages stand among the devices that were asked for."""
    places = {candidate.key: at for at, candidate in enumerate(asked.survey.devices)}
    by_name = {(node, str(device)): at for (node, device), at in places.items()}
    return tuple(
        Stage(device=by_name[stage.node, stage.device], first=stage.first, end=stage.end)
        for stage in plan.stages
    )


def codecs_of(asked: Asked, plan: Plan, placement: Placement) -> Table:
    """The codecs of the plan's boundaries, in training of gradients too; none on other links."""
    num = len(asked.survey.devices)
    rows = [[Codec.NONE] * num for _ in range(num)]
    boundaries = zip(pairwise(placement), pairwise(plan.stages), strict=True)
    for (sender, receiver), (above, below) in boundaries:
        rows[sender.device][receiver.device] = above.codec_forward
        rows[receiver.device][sender.device] = below.codec_backward or Codec.NONE
    return tuple(tuple(row) for row in rows)
