"""What boundaries share: each host's NIC, sending and receiving apart, and each medium.

A frame from device a to device b loads what a's host sends through and what b's host receives
through, in seconds: its bytes over that NIC's bytes per second. Between devices of one host it
loads nothing. Stations of one medium load it in both directions, so that a frame from one station
to another counts twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgepipe.core.problem import Bools, Device, Floats, Nic, Problem


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resources:
    """Seconds on each resource of a frame and its gradient, and of what goes home.

    `hop` and `back` are [D, D, R], from the row's device to the column's; `names` [R] say what the
    resources are.
    """

    names: tuple[str, ...]
    hop: Floats
    back: Floats

    def shared(self) -> Bools:
        """Resources [R] that two boundaries of one placement may load.

        A device has one boundary on either side, so a resource that a single device loads, on one
        side only, is one boundary's.
        """
        loads = (self.hop + self.back) > 0
        senders = loads.any(axis=1).sum(axis=0)
        receivers = loads.any(axis=0).sum(axis=0)
        found: Bools = (senders > 1) & (receivers > 1)
        return found


def resources_of(problem: Problem) -> Resources:
    """The resources of the problem's hosts and media."""
    devices, nics = problem.devices, problem.nics
    used = [nics[device.host] for device in devices if device.host in nics]
    assert all(nic.send_bytes_per_s > 0 and nic.receive_bytes_per_s > 0 for nic in used)
    hosts = [device.host for device in devices]
    sends = [nics[host].sends_through(host) if host in nics else "" for host in hosts]
    receives = [nics[host].receives_through(host) if host in nics else "" for host in hosts]
    names = tuple(sorted({name for name in (*sends, *receives) if name}))
    per_byte = _seconds_per_byte(devices, nics, names, (sends, receives))
    return Resources(
        names=names,
        hop=per_byte * problem.frame_bytes[:, :, None]
        + (per_byte * problem.gradient_bytes[:, :, None]).transpose(1, 0, 2),
        back=per_byte * (problem.traffic.return_bytes or 0),
    )


def _seconds_per_byte(
    devices: Sequence[Device],
    nics: Mapping[str, Nic],
    names: Sequence[str],
    sides: tuple[Sequence[str], Sequence[str]],
) -> Floats:
    sends, receives = sides
    table = np.zeros((len(devices), len(devices), len(names)))
    for a, sender in enumerate(devices):
        for b, receiver in enumerate(devices):
            if sender.host == receiver.host:
                continue
            if sends[a]:
                table[a, b, names.index(sends[a])] += 1 / nics[sender.host].send_bytes_per_s
            if receives[b]:
                rate = nics[receiver.host].receive_bytes_per_s
                table[a, b, names.index(receives[b])] += 1 / rate
    return table
