"""What an agent says of its machine."""

from __future__ import annotations

from collections.abc import Sequence

from edgepipe.core.profile import (
    Address,
    DeviceId,
    DeviceProfile,
    LeaseView,
    NodeId,
    NodeProfile,
)
from edgepipe.transport.convert.bounds import (
    MAX_ADDRESSES,
    MAX_DEVICES,
    few,
    finite,
    kind,
    port,
    text,
)
from edgepipe.wire.v1 import agent_pb2


def address_to_wire(address: Address) -> agent_pb2.Address:
    """One address."""
    return agent_pb2.Address(
        host=address.host,
        port=address.port,
        interface=address.interface,
        speed_bytes_per_s=address.speed_bytes_per_s,
    )


def address_from_wire(wire: agent_pb2.Address) -> Address:
    """One address."""
    return Address(
        host=text(wire.host),
        port=port(wire.port),
        interface=text(wire.interface),
        speed_bytes_per_s=wire.speed_bytes_per_s,
    )


def addresses_from_wire(wire: Sequence[agent_pb2.Address]) -> tuple[Address, ...]:
    """Addresses, in their order."""
    return tuple(address_from_wire(each) for each in few(wire, MAX_ADDRESSES, "addresses"))


def lease_to_wire(lease: LeaseView) -> agent_pb2.LeaseView:
    """Who holds a device."""
    return agent_pb2.LeaseView(
        job=lease.job,
        holder=lease.holder,
        fence=lease.fence,
        expires_in_s=lease.expires_in_s,
    )


def lease_from_wire(wire: agent_pb2.LeaseView) -> LeaseView:
    """Who holds a device."""
    return LeaseView(
        job=text(wire.job),
        holder=text(wire.holder),
        fence=wire.fence,
        expires_in_s=finite(wire.expires_in_s),
    )


def device_to_wire(device: DeviceProfile) -> agent_pb2.DeviceProfile:
    """One device."""
    return agent_pb2.DeviceProfile(
        id=device.id,
        kind=device.kind,
        name=device.name,
        pool=device.pool,
        memory_bytes=device.memory_bytes,
        memory_free_bytes=device.memory_free_bytes,
        memory_limit_bytes=device.memory_limit_bytes,
        baseline_bytes=device.baseline_bytes,
        port=device.port,
        num_threads=device.num_threads,
        slowdown=device.slowdown,
        engines=device.engines,
        lease=None if device.lease is None else lease_to_wire(device.lease),
        libraries=device.libraries,
    )


def device_from_wire(wire: agent_pb2.DeviceProfile) -> DeviceProfile:
    """One device."""
    return DeviceProfile(
        id=DeviceId(text(wire.id)),
        kind=kind(wire.kind),
        name=text(wire.name),
        pool=text(wire.pool),
        memory_bytes=wire.memory_bytes,
        memory_free_bytes=wire.memory_free_bytes,
        memory_limit_bytes=wire.memory_limit_bytes,
        baseline_bytes=wire.baseline_bytes,
        port=port(wire.port),
        num_threads=wire.num_threads,
        slowdown=finite(wire.slowdown),
        engines=tuple(text(engine) for engine in few(wire.engines, MAX_DEVICES, "engines")),
        lease=lease_from_wire(wire.lease) if wire.HasField("lease") else None,
        libraries=text(wire.libraries),
    )


def node_to_wire(node: NodeProfile) -> agent_pb2.NodeProfile:
    """One machine."""
    return agent_pb2.NodeProfile(
        id=node.id,
        name=node.name,
        version=node.version,
        api=node.api,
        cluster=node.cluster,
        host_id=node.host_id,
        addresses=[address_to_wire(address) for address in node.addresses],
        devices=[device_to_wire(device) for device in node.devices],
        machine_id=node.machine_id,
    )


def node_from_wire(wire: agent_pb2.NodeProfile) -> NodeProfile:
    """One machine."""
    return NodeProfile(
        id=NodeId(text(wire.id)),
        name=text(wire.name),
        version=text(wire.version),
        api=wire.api,
        cluster=text(wire.cluster),
        host_id=text(wire.host_id),
        addresses=addresses_from_wire(wire.addresses),
        devices=tuple(device_from_wire(each) for each in few(wire.devices, MAX_DEVICES, "devices")),
        machine_id=text(wire.machine_id),
    )
