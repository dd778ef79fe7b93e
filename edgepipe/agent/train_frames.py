"""Frames on their way out and in, coded on a thread of their own while others are computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import torch

from edgepipe import codec
from edgepipe.agent.compute import ComputeThread
from edgepipe.agent.figures import ByCodec, Traffic
from edgepipe.codec.dtypes import WIRE_DTYPES
from edgepipe.core.frame import Frame, Header
from edgepipe.core.order import Need
from edgepipe.transport.link import Link

Key = tuple[int, Need]
"""An order's number, and which of its inputs."""


@dataclass(slots=True)
class _Outgoing:
    """A frame to send; None while it is encoded."""

    frame: Frame | None = None


@dataclass(slots=True, kw_only=True)
class Outbox:
    """One direction of a boundary: frames leave in the order in which they were put.

    `ready` is called once one is encoded: whoever has it then drains, and may have waited for room.
    `sent_bytes` are of the payloads that were put, since the caller last set it to 0.
    """

    link: Link
    coding: ComputeThread
    fail: Callable[[BaseException], None]
    ready: Callable[[], None]
    traffic: ByCodec
    sent_bytes: int = 0
    _queue: deque[_Outgoing] = field(default_factory=deque)

    @property
    def num_waiting(self) -> int:
        """Frames that are encoded, or wait for a credit."""
        return len(self._queue)

    def put(self, header: Header, rows: torch.Tensor) -> None:
        """Encode rows by the header's codec, and send them once there is room."""
        outgoing = _Outgoing()
        self._queue.append(outgoing)
        shape, dtype = tuple(rows.shape), WIRE_DTYPES[rows.dtype]
        size = codec.payload_bytes(header.codec, shape, dtype)
        header = header._replace(shape=shape, dtype=dtype, payload_bytes=size)
        self.sent_bytes += size

        def encoded(payload: memoryview) -> None:
            outgoing.frame = Frame(header=header, payload=payload)
            self.ready()

        encode = partial(codec.encode, rows, header.codec)
        self.coding.submit(partial(self.traffic[header.codec].aside, encode), encoded, self.fail)

    def drain(self) -> None:
        """Send what is ready, as far as credits go."""
        while self._queue and (frame := self._queue[0].frame) is not None:
            traffic = self.traffic[frame.header.codec]
            if not self.link.has_room:
                traffic.stall()
                return
            traffic.count(len(frame.payload))
            self.link.send(frame)
            self._queue.popleft()


@dataclass(slots=True, kw_only=True)
class _Held:
    link: Link
    frame: Frame
    traffic: Traffic
    rows: Future[torch.Tensor] | None = None


@dataclass(slots=True, kw_only=True)
class Inbox:
    """Frames that arrived and are not computed yet, by what they are."""

    device: torch.device
    coding: ComputeThread
    _held: dict[Key, _Held] = field(default_factory=dict)

    @property
    def num_held(self) -> int:
        """Frames that wait to be computed."""
        return len(self._held)

    def hold(self, key: Key, frame: Frame, link: Link, traffic: Traffic) -> None:
        """Keep a frame of a link until it is taken."""
        self._held[key] = _Held(link=link, frame=frame, traffic=traffic)

    def decode(self, key: Key) -> None:
        """Begin to decode a frame, if it is there and that was not begun."""
        held = self._held.get(key)
        if held is None or held.rows is not None:
            return
        future: Future[torch.Tensor] = Future()
        held.rows = future
        decode = partial(_decode, held.frame, self.device)
        self.coding.run_into(partial(held.traffic.aside, decode), future)

    def take(self, key: Key) -> Callable[[], torch.Tensor]:
        """A frame's rows, to be asked for on the compute thread; its credit goes back."""
        held = self._held.pop(key)
        held.link.consumed()
        if held.rows is not None:
            return held.rows.result
        return partial(held.traffic.inline, partial(_decode, held.frame, self.device))


def _decode(frame: Frame, device: torch.device) -> torch.Tensor:
    header = frame.header
    return codec.decode(
        frame.payload,
        codec=header.codec,
        shape=header.shape,
        dtype=header.dtype,
        device=device,
    )
