"""Measures the link from this worker to another, on behalf of whoever leases both."""

from __future__ import annotations

from edgepipe.core.api import API
from edgepipe.transport import convert
from edgepipe.transport.channel import Credentials, choose_address
from edgepipe.transport.convert.bounds import text
from edgepipe.transport.link import Hello
from edgepipe.transport.link_speed import measure_to_plan
from edgepipe.transport.measure import measure
from edgepipe.wire.v1 import stage_pb2

DIAL_DEADLINE_S = 5.0


async def measure_link(
    request: stage_pb2.MeasureLinkRequest, credentials: Credentials | None
) -> stage_pb2.LinkMeasured:
    """Dial the other worker and measure.

    Raises Unreachable where it does not answer, LeaseLost where it is not leased to the caller,
    UsageError for frames of a size that is not measured.
    """
    hello = Hello(
        api=API,
        job=text(request.job),
        epoch=0,
        fence=request.target_fence,
        from_stage=0,
        credits=1,
    )
    peer = text(request.node)
    address, channel = await choose_address(
        convert.addresses_from_wire(request.addresses),
        deadline_s=DIAL_DEADLINE_S,
        credentials=credentials,
        probe=hello,
    )
    try:
        if request.frame_bytes:
            speed = await measure(
                channel, address, hello, peer=peer, frame_bytes=request.frame_bytes
            )
        else:
            speed = await measure_to_plan(channel, hello, peer=peer)
    finally:
        await channel.close()
    return stage_pb2.LinkMeasured(
        address=convert.address_to_wire(address),
        bytes_per_s=speed.bytes_per_s,
        latency_s=speed.latency_s,
        raw_tcp_bytes_per_s=speed.raw_tcp_bytes_per_s,
    )
