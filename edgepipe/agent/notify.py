"""What systemd wants to hear of a service: sd_notify(3), a datagram to $NOTIFY_SOCKET.

READY=1         everything listens
STATUS=…        a line for `systemctl status`
WATCHDOG=1      we are well; without it for WatchdogSec we are started again
STOPPING=1      we are leaving, and may take EXTEND_TIMEOUT_USEC
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Self

import structlog

PINGS_PER_WATCHDOG = 2

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notifier:
    """Tells whoever started this process how it is, where they want to know.

    `address` is their socket: a path, `@name` in the abstract namespace, or "" for nobody.
    `watchdog_s` is how long they bear silence, None for ever.
    """

    address: str = ""
    watchdog_s: float | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """As the service manager has set it up for this process."""
        pid = environment.get("WATCHDOG_PID", "")
        usec = environment.get("WATCHDOG_USEC", "")
        is_ours = pid in {"", str(os.getpid())}
        watched = is_ours and usec.isdecimal() and int(usec) > 0
        return cls(
            address=environment.get("NOTIFY_SOCKET", ""),
            watchdog_s=int(usec) / 1e6 if watched else None,
        )

    def ready(self, status: str) -> None:
        """Everything listens."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """One line of what we are doing."""
        self._send(f"STATUS={status}")

    def stopping(self, within_s: float) -> None:
        """We are leaving, which may take so long."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={within_s * 1e6:.0f}")

    async def watch(self, is_well: Callable[[], Awaitable[None]]) -> None:
        """Tell them again and again, each time once `is_well` has returned, until cancelled."""
        if self.watchdog_s is None:
            return
        while True:
            await is_well()
            self._send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / PINGS_PER_WATCHDOG)

    def _send(self, *lines: str) -> None:
        if not self.address:
            return
        where = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.setblocking(False)
                out.sendto("\n".join(lines).encode(), where)
        except OSError as error:
            _log.warning("the service manager cannot be told", because=str(error))
