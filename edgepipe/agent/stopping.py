"""What SIGTERM and SIGINT ask of an agent: first that it leaves, then that it ends at once."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass, field
from typing import Self


@dataclass(slots=True, kw_only=True)
class Stopping:
    """`leave` is set by the first signal, `end` by the next; before `serves`, `end` by the first.

    An agent that does not serve yet holds nothing that it could finish.
    """

    serves: bool = False
    leave: asyncio.Event = field(default_factory=asyncio.Event)
    end: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def on_signals(cls) -> Self:
        """Listen to this process's signals, on the running loop."""
        stopping = cls()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.ask)
        return stopping

    def ask(self) -> None:
        """A signal came."""
        if self.serves and not self.leave.is_set():
            self.leave.set()
        else:
            self.end.set()
