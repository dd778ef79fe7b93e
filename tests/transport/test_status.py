"""One error, both sides of gRPC."""

import grpc
import pytest
from carriers import serving

from edgepipe import errors
from edgepipe.errors import EdgepipeError, StageError, Unreachable, VersionMismatch
from edgepipe.transport.channel import open_channel
from edgepipe.transport.grpc_link import SERVICE
from edgepipe.transport.status import CLASSES, MAX_MESSAGE_CHARS, aborting, calling, error_of

DEADLINE_S = 10


async def call(body, peer="desk"):
    """What a caller gets for what a servicer's body raises."""

    async def serve(_request, context):
        async with aborting(context):
            await body(context)
        return b""

    handlers = {"Call": grpc.unary_unary_rpc_method_handler(serve)}
    async with serving(handlers) as address, open_channel(address, None) as channel:
        with calling(peer):
            await channel.unary_unary(f"/{SERVICE}/Call")(b"", timeout=DEADLINE_S)


def raising(error):
    async def body(_context):
        raise error

    return body


def test_the_whole_tree_is_known_by_name():
    tree = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, EdgepipeError)
    }
    assert set(CLASSES) == tree


@pytest.mark.parametrize("kind", CLASSES.values())
async def test_an_error_arrives_as_what_it_was(kind):
    sentence = "Gerät 0 is held by job x: wait, or choose another"
    with pytest.raises(kind) as caught:
        await call(raising(kind(sentence)))
    assert type(caught.value) is kind
    assert str(caught.value) == sentence


async def test_an_endless_message_is_cut():
    with pytest.raises(StageError) as caught:
        await call(raising(StageError("x" * 10**6)))
    assert len(str(caught.value)) == MAX_MESSAGE_CHARS


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, Unreachable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Unreachable),
        (grpc.StatusCode.UNIMPLEMENTED, VersionMismatch),
        (grpc.StatusCode.INTERNAL, StageError),
        (grpc.StatusCode.CANCELLED, StageError),
    ],
)
async def test_any_other_status_is_one_sentence_that_names_the_peer(code, kind):
    async def body(context):
        await context.abort(code, "details")

    with pytest.raises(kind, match=r"^desk ") as caught:
        await call(body)
    assert "\n" not in str(caught.value)


async def test_a_name_from_nowhere_is_not_looked_up():
    async def body(context):
        metadata = (("edgepipe-error", "SystemExit"),)
        await context.abort(grpc.StatusCode.ABORTED, "oh", trailing_metadata=metadata)

    with pytest.raises(StageError, match="desk failed with ABORTED"):
        await call(body)
    assert type(error_of("SystemExit", "oh")) is StageError
