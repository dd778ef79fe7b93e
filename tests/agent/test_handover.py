"""What the runtime takes for a frame is measured on the device itself."""

from __future__ import annotations

import torch

from edgepipe.agent.compute import ComputeThread
from edgepipe.agent.handover import handover_s


async def test_a_hand_over_takes_a_moment() -> None:
    with ComputeThread("compute") as compute:
        assert 0 < await handover_s(compute, torch.device("cpu")) < 1


async def test_a_gpu_leaves_the_caches_alone() -> None:
    """Nothing is put on it: its weights are none of the host's."""
    with ComputeThread("compute") as compute:
        assert 0 < await handover_s(compute, torch.device("cuda")) < 1
