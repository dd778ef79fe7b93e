"""Letting go of zeroconf's sockets, whatever happens."""

from __future__ import annotations

import asyncio

from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf


async def close(zeroconf: AsyncZeroconf, browser: AsyncServiceBrowser | None = None) -> None:
    """Close it, and its browser before it; one cancellation meanwhile does not cut that short.

    In a task of its own: while the calling task is being cancelled, zeroconf takes its browser's
    cancelled start for its own and leaves the sockets open, on which uvloop waits for ever.
    """
    closing = asyncio.create_task(_close(zeroconf, browser))
    try:
        await asyncio.shield(closing)
    finally:
        await asyncio.wait({closing})


async def _close(zeroconf: AsyncZeroconf, browser: AsyncServiceBrowser | None) -> None:
    if browser is not None:
        await browser.async_cancel()
    await zeroconf.async_close()
