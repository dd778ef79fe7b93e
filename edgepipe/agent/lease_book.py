"""The shell around edgepipe.core.lease: a clock, a file for the fence, and the workers' ears."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from edgepipe.core import lease as leases
from edgepipe.core.lease import MAX_TTL_S, Granted, LeaseState, Refused
from edgepipe.core.profile import DeviceId, LeaseView
from edgepipe.errors import LeaseHeld, NodeLeaving

_log = structlog.get_logger(__name__)


class FenceStore(Protocol):
    """Keeps the highest fence ever granted, across restarts."""

    last_fence: int

    def save_fence(self, fence: int) -> None:
        """Persist it before the grant is answered."""
        ...


class LeaseBook:
    """Who holds which device of this agent.

    `tell` hands the current fence of a device to its worker, 0 when it is free. A lease lasts as
    long as was asked for, but at most `max_ttl_s`.
    """

    def __init__(
        self,
        devices: Sequence[DeviceId],
        fences: FenceStore,
        tell: Callable[[DeviceId, int], None],
        *,
        max_ttl_s: float = MAX_TTL_S,
    ) -> None:
        self._state = LeaseState(devices=tuple(devices), last_fence=fences.last_fence)
        self._fences = fences
        self._tell = tell
        self._max_ttl_s = max_ttl_s
        self._changed = asyncio.Event()
        self._saving = asyncio.Lock()
        self._is_closed = False
        self._all_free = asyncio.Event()
        self._all_free.set()

    async def acquire(self, device: DeviceId, job: str, holder: str, ttl_s: float) -> Granted:
        """Grant a device. Raises LeaseHeld while another job holds it, NodeLeaving once closed."""
        if self._is_closed:
            raise NodeLeaving("its agent stops; leave it out, or wait until it is back")
        async with self._saving:
            state, answer = leases.acquire(
                self._state,
                device=device,
                job=job,
                holder=holder,
                now_s=self._now(),
                ttl_s=min(ttl_s, self._max_ttl_s),
            )
            if isinstance(answer, Refused):
                raise LeaseHeld(answer.sentence)
            await asyncio.to_thread(self._fences.save_fence, answer.fence)
            # Only this device's: the others' may have been renewed or released meanwhile.
            others = {**self._state.leases, device: state.leases[device]}
            self._set(replace(state, leases=others))
        self._tell(device, answer.fence)
        _log.info("lease granted", device=device, job=job, holder=holder, fence=answer.fence)
        return answer

    def renew(self, device: DeviceId, fence: int, progress: int) -> float:
        """Begin the lease's time anew; its length in seconds. Raises LeaseLost."""
        state, lease = leases.renew(
            self._state, device=device, fence=fence, progress=progress, now_s=self._now()
        )
        self._set(state)
        return lease.ttl_s

    def release(self, device: DeviceId, fence: int) -> None:
        """Free a device. Raises LeaseLost."""
        view = self.view(device)
        self._set(leases.release(self._state, device=device, fence=fence, now_s=self._now()))
        self._tell(device, 0)
        _log.info("lease released", device=device, job=view and view.job, fence=fence)

    def close(self) -> None:
        """Grant nothing from now on; who holds a device keeps it."""
        self._is_closed = True

    async def all_free(self) -> None:
        """Return once no device is held."""
        await self._all_free.wait()

    @property
    def held(self) -> tuple[DeviceId, ...]:
        """The devices that are held."""
        return tuple(self._state.leases)

    def view(self, device: DeviceId) -> LeaseView | None:
        """Who holds the device, None while it is free."""
        lease = self._state.leases.get(device)
        return None if lease is None else lease.view(self._now())

    def fence(self, device: DeviceId) -> int:
        """The device's current fence, 0 while it is free."""
        lease = self._state.leases.get(device)
        return 0 if lease is None else lease.fence

    async def expire(self) -> None:
        """End leases as their time runs out, until cancelled."""
        while True:
            self._changed.clear()
            try:
                async with asyncio.timeout(leases.next_expiry_in_s(self._state, self._now())):
                    await self._changed.wait()
            except TimeoutError:
                self._end_expired()

    def _end_expired(self) -> None:
        state, expired = leases.expire(self._state, self._now())
        self._set(state)
        for each in expired:
            self._tell(each.lease.device, 0)
            _log.warning("lease expired", device=each.lease.device, job=each.lease.job)

    def _set(self, state: LeaseState) -> None:
        self._state = state
        self._changed.set()
        if state.leases:
            self._all_free.clear()
        else:
            self._all_free.set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
