"""Devices that a job holds itself, as they are to a plan that it makes anew: free.

Its own lease takes no device away from it, and the memory that its stages fill is there for the
stages that follow them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edgepipe.core.profile import DeviceId, DeviceProfile, NodeId, NodeProfile

Key = tuple[NodeId, DeviceId]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """The devices that `job` has used, and what was free on each before it did, in bytes."""

    job: str = ""
    free_bytes: Mapping[Key, int] = field(default_factory=dict)

    def seen(self, node: NodeProfile) -> NodeProfile:
        """A node as if the job held nothing of it."""
        devices = tuple(self._seen(node.id, device) for device in node.devices)
        return replace(node, devices=devices)

    def _seen(self, node: NodeId, device: DeviceProfile) -> DeviceProfile:
        before = self.free_bytes.get((node, device.id), 0)
        is_ours = device.lease is not None and device.lease.job == self.job
        return replace(
            device,
            lease=None if is_ours else device.lease,
            memory_free_bytes=max(device.memory_free_bytes, before),
        )

    def and_uses(self, node: NodeId, device: DeviceProfile) -> Holding:
        """With a device that is about to be used, as it is now."""
        free_bytes = {(node, device.id): device.memory_free_bytes, **self.free_bytes}
        return replace(self, free_bytes=free_bytes)
