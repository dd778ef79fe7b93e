"""The event loop that every process of ours runs, one per process.

uvloop where it exists (not on Windows): waking the loop from the compute thread costs half as
much, which a decoded token pays on every hop.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

if sys.platform == "win32":
    run_loop = asyncio.run
    new_loop = asyncio.new_event_loop
else:
    import uvloop

    def run_loop(main: Coroutine[Any, Any, Result]) -> Result:
        """Run `main` to its end, as asyncio.run does."""
        return uvloop.run(main)

    def new_loop() -> asyncio.AbstractEventLoop:
        """A loop for a thread that runs it for ever."""
        return uvloop.new_event_loop()
