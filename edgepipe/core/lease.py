"""An agent's leases: which job may use which device, until when.

    acquire ──▶ Granted(fence) ──renew(fence)──▶ … ──release(fence) or expire(now)──▶ free
           └──▶ Refused(who holds it)

A fence is a number that only rises. A grant supersedes every earlier fence of its device, so a
job that was cut off and comes back is told so instead of disturbing its successor. The caller
persists `Granted.fence` before it answers, and starts from it after a restart.

The clock is a parameter: seconds of one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from edgepipe.core.profile import DeviceId, LeaseView
from edgepipe.errors import LeaseLost, UsageError

DEFAULT_TTL_S = 30.0
MIN_TTL_S = 1.0
MAX_TTL_S = 300.0
MAX_LABEL_CHARS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A device, granted to `job` until `ttl_s` after its last renewal.

    `holder` is `user@host`, shown to whoever is refused; `progress` counts tokens or steps.
    """

    device: DeviceId
    job: str
    holder: str
    fence: int
    ttl_s: float
    renewed_s: float
    progress: int = 0

    def expires_in_s(self, now_s: float) -> float:
        """Seconds until it expires, 0 or less once it has."""
        return self.renewed_s + self.ttl_s - now_s

    def view(self, now_s: float) -> LeaseView:
        """The lease as others may see it."""
        return LeaseView(
            job=self.job,
            holder=self.holder,
            fence=self.fence,
            expires_in_s=max(0.0, self.expires_in_s(now_s)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseState:
    """The leases of one agent; `last_fence` is the highest fence ever granted."""

    devices: tuple[DeviceId, ...]
    last_fence: int = 0
    leases: Mapping[DeviceId, Lease] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """The device is the job's. `superseded` is the lease that this one ended, if any."""

    fence: int
    ttl_s: float
    superseded: Lease | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Another job holds the device; `sentence` says which, whose, and how fresh its claim is."""

    view: LeaseView
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """This lease ran out: its compute stops."""

    lease: Lease


def acquire(
    state: LeaseState,
    *,
    device: DeviceId,
    job: str,
    holder: str,
    now_s: float,
    ttl_s: float = DEFAULT_TTL_S,
) -> tuple[LeaseState, Granted | Refused]:
    """Grant `device` to `job` under a new fence, unless another job's lease is still good.

    The same job may ask again; its earlier fence is then superseded.

    Raises:
        UsageError: an unknown device, a `ttl_s` outside 1 to 300 s, or a label out of bounds.
    """
    _check_request(state, device=device, job=job, holder=holder, ttl_s=ttl_s)
    held = state.leases.get(device)
    if held is not None and held.job != job and held.expires_in_s(now_s) > 0:
        return state, Refused(view=held.view(now_s), sentence=_refusal(held, now_s))
    fence = state.last_fence + 1
    lease = Lease(device=device, job=job, holder=holder, fence=fence, ttl_s=ttl_s, renewed_s=now_s)
    leases = {**state.leases, device: lease}
    granted = Granted(fence=fence, ttl_s=ttl_s, superseded=held)
    return replace(state, last_fence=fence, leases=leases), granted


def renew(
    state: LeaseState, *, device: DeviceId, fence: int, progress: int, now_s: float
) -> tuple[LeaseState, Lease]:
    """Begin the lease's time anew.

    Raises:
        LeaseLost: `fence` is not the device's, or has expired.
    """
    lease = current(state, device=device, fence=fence, now_s=now_s)
    renewed = replace(lease, renewed_s=now_s, progress=progress)
    return replace(state, leases={**state.leases, device: renewed}), renewed


def release(state: LeaseState, *, device: DeviceId, fence: int, now_s: float) -> LeaseState:
    """Free the device.

    Raises:
        LeaseLost: `fence` is not the device's, or has expired.
    """
    current(state, device=device, fence=fence, now_s=now_s)
    return _without(state, (device,))


def current(state: LeaseState, *, device: DeviceId, fence: int, now_s: float) -> Lease:
    """The lease that `fence` names.

    Raises:
        LeaseLost: `fence` is not the device's, or has expired.
    """
    lease = state.leases.get(device)
    if lease is None or lease.fence != fence:
        raise LeaseLost(_lost(device, fence, lease))
    if lease.expires_in_s(now_s) <= 0:
        late_s = -lease.expires_in_s(now_s)
        raise LeaseLost(
            f"The lease on {device} expired {late_s:.0f} s ago because it was not renewed: "
            "start the job again."
        )
    return lease


def expire(state: LeaseState, now_s: float) -> tuple[LeaseState, tuple[Expired, ...]]:
    """End every lease whose time is up."""
    over = tuple(lease for lease in state.leases.values() if lease.expires_in_s(now_s) <= 0)
    expired = tuple(Expired(lease=lease) for lease in over)
    return _without(state, [lease.device for lease in over]), expired


def next_expiry_in_s(state: LeaseState, now_s: float) -> float | None:
    """Seconds until `expire` has something to do, None while nothing is leased."""
    times = [lease.expires_in_s(now_s) for lease in state.leases.values()]
    return max(0.0, min(times)) if times else None


def _without(state: LeaseState, devices: Iterable[DeviceId]) -> LeaseState:
    gone = set(devices)
    kept = {device: lease for device, lease in state.leases.items() if device not in gone}
    return replace(state, leases=kept)


def _check_request(
    state: LeaseState, *, device: DeviceId, job: str, holder: str, ttl_s: float
) -> None:
    if device not in state.devices:
        there = ", ".join(state.devices)
        raise UsageError(f"There is no device {device[:MAX_LABEL_CHARS]!r} here, only {there}.")
    if not MIN_TTL_S <= ttl_s <= MAX_TTL_S:
        raise UsageError(
            f"A lease lasts {MIN_TTL_S:.0f} to {MAX_TTL_S:.0f} s, not {ttl_s}: ask for less."
        )
    for label, text in (("job", job), ("holder", holder)):
        if not 0 < len(text) <= MAX_LABEL_CHARS or not text.isprintable():
            raise UsageError(
                f"A lease's {label} is 1 to {MAX_LABEL_CHARS} printable characters long."
            )


def _refusal(held: Lease, now_s: float) -> str:
    return (
        f"{held.device} is leased to job {held.job} of {held.holder}, "
        f"renewed {now_s - held.renewed_s:.0f} s ago: wait until it ends, or leave this device out."
    )


def _lost(device: DeviceId, fence: int, holder: Lease | None) -> str:
    if holder is None:
        return f"Fence {fence} holds no lease on {device} any more: start the job again."
    return (
        f"Fence {fence} on {device} was superseded by {holder.fence} "
        f"(job {holder.job} of {holder.holder}): start the job again."
    )
