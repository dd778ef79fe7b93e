"""Real agents, measured: each in its own process, one of them slowed down."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cluster.tiny_folder import write_tiny

from edgepipe.coordinator.local import local_agents
from edgepipe.coordinator.models import resolve
from edgepipe.coordinator.nodes import Search, find_nodes
from edgepipe.coordinator.shape import model_shape
from edgepipe.coordinator.surveying import Surveyed, survey
from edgepipe.core.fit import Workload
from edgepipe.core.frame import DType

DEADLINE_S = 120
WORKLOAD = Workload(dtype=DType.FLOAT32, num_slots=2, max_positions=256, prefill_chunk=32)


class Shown:
    def __init__(self) -> None:
        self.whats: dict[str, tuple[int, int]] = {}

    def measuring(self, what: str, done: int, total: int) -> None:
        self.whats[what] = (done, total)


async def test_two_agents_are_measured_once_and_the_slower_one_is_slower(tmp_path: Path) -> None:
    model = resolve(str(write_tiny(tmp_path / "tiny")), home=tmp_path)
    shape = model_shape(model.name, model.config, home=tmp_path)
    shown = Shown()
    async with (
        asyncio.timeout(DEADLINE_S),
        local_agents(2, home=tmp_path, threads=1, slowdowns=(1, 4)) as agents,
        find_nodes(Search(cluster=agents.name, peers=agents.peers)) as roster,
    ):

        async def surveyed() -> Surveyed:
            return await survey(
                roster,
                model.config,
                shape,
                workload=WORKLOAD,
                home=tmp_path,
                now_s=1.0,
                progress=shown,
            )

        first, again = await surveyed(), await surveyed()
    assert (first.num_measured, again.num_measured) == (3, 0), "two devices, and loopback once"
    assert first.survey == again.survey
    assert (first.left_out, first.unlinked) == ((), ())
    assert set(shown.whats) == {
        "local-1 (cpu)",
        "local-2 (cpu)",
        "local-1 to local-2",
        "local-2 to local-1",
    }
    assert all(done == total for done, total in list(shown.whats.values())[:2])
    fast, slow = (sum(i.prefill.at(32) for i in speed.items) for speed in first.survey.speeds)
    assert slow > 1.5 * fast
    assert "torch" in roster.usable[0].profile.devices[0].libraries
