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


def die_with_parent(on_line: Callable[[bytes], None]) -> None:
    """Exit as soon as standard input ends; give every line before that to `on_line`.

    `on_line` is called on a thread of its own; should it fail, the process exits too.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        try:
            for line in sys.stdin.buffer:
                on_line(line)
        finally:
            os._exit(0)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
