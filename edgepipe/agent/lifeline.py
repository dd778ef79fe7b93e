"""A process that must not outlive its parent.

The parent holds the write end of the child's standard input. When it dies, however it dies, the
child reads the end of the file and exits at once. On Linux the kernel also sends a signal, which
works even while the child is stuck in native code.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def _ignore(_line: bytes) -> None:
    pass


class Lifeline:
    """Made first of all: from then on this process exits as soon as its standard input ends.

    Every line before that goes to `on_line`, on a thread of its own; should that fail, the
    process exits too. The parent sends no line before the child asked for one.
    """

    def __init__(self, on_line: Callable[[bytes], None] = _ignore) -> None:
        self.on_line = on_line
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def _watch(self) -> None:
        try:
            # Reading sys.stdin would hold its lock, on which a process that ends by itself aborts.
            with open(0, "rb", buffering=0, closefd=False) as lines:
                for line in lines:
                    self.on_line(line)
        finally:
            os._exit(0)
