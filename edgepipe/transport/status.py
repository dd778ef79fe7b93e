"""The error tree across gRPC, once: a status code, the sentence, and the error's class.

A servicer wraps its body in `aborting(context)`, a caller its call in `calling(peer)`; what was
raised on one side is raised on the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc

from edgepipe import errors
from edgepipe.errors import (
    EdgepipeError,
    LeaseError,
    ModelError,
    NodeError,
    PlanError,
    StageError,
    StageLost,
    Unreachable,
    UsageError,
    VersionMismatch,
    WireError,
)

ERROR_KEY = "edgepipe-error"
MAX_MESSAGE_CHARS = 1024
Context = grpc.aio.ServicerContext[Any, Any]

CODES: dict[type[EdgepipeError], grpc.StatusCode] = {
    UsageError: grpc.StatusCode.INVALID_ARGUMENT,
    WireError: grpc.StatusCode.INVALID_ARGUMENT,
    ModelError: grpc.StatusCode.FAILED_PRECONDITION,
    PlanError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    VersionMismatch: grpc.StatusCode.UNIMPLEMENTED,
    NodeError: grpc.StatusCode.UNAVAILABLE,
    LeaseError: grpc.StatusCode.PERMISSION_DENIED,
    StageLost: grpc.StatusCode.UNAVAILABLE,
    StageError: grpc.StatusCode.ABORTED,
    EdgepipeError: grpc.StatusCode.UNKNOWN,
}


def _tree(root: type[EdgepipeError]) -> dict[str, type[EdgepipeError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


CLASSES = {name: kind for name, kind in _tree(EdgepipeError).items() if hasattr(errors, name)}


def code_of(error: EdgepipeError) -> grpc.StatusCode:
    """The status of an error: its own class's, else its nearest ancestor's."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


async def abort(context: Context, error: EdgepipeError) -> None:
    """End an RPC with an error; does not return."""
    await context.abort(
        code_of(error),
        str(error)[:MAX_MESSAGE_CHARS],
        trailing_metadata=((ERROR_KEY, type(error).__name__),),
    )


@asynccontextmanager
async def aborting(context: Context) -> AsyncIterator[None]:
    """Turns what the body raises from the error tree into the RPC's status."""
    try:
        yield
    except EdgepipeError as error:
        await abort(context, error)


def error_of(kind: str, message: str) -> EdgepipeError:
    """An error by the name of its class; StageError for a name that this version lacks."""
    return CLASSES.get(kind, StageError)(message)


def raise_cancellation() -> None:
    """Where the current task is being cancelled, go on with that.

    A call that ends in the very moment of a cancellation swallows it, and reports an error.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def from_rpc_error(error: grpc.aio.AioRpcError, peer: str) -> EdgepipeError:
    """The error that the far side raised; else one sentence about `peer`."""
    kind = CLASSES.get(str(dict(error.trailing_metadata() or ()).get(ERROR_KEY)))
    details = (error.details() or error.code().name)[:MAX_MESSAGE_CHARS]
    if kind is not None:
        return kind(details)
    match error.code():
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unreachable(f"{peer} does not answer ({details}): is its agent running?")
        case grpc.StatusCode.UNIMPLEMENTED:
            return VersionMismatch(f"{peer} lacks a call that we need: run one version everywhere")
        case grpc.StatusCode.CANCELLED:
            return StageLost(f"{peer} broke the connection off; run it again")
        case grpc.StatusCode.INTERNAL if "Internal error from Core" in details:
            # What grpc.aio says where a call ended while we were writing to it.
            return StageLost(f"{peer} ended the call while it was written to; run it again")
        case _:
            return StageError(f"{peer} failed with {error.code().name} ({details}): see its log")


@contextmanager
def calling(peer: str) -> Iterator[None]:
    """Turns the gRPC errors of the body into errors of the tree."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, peer) from None
