"""One answer on its way to a client: whole, or as a stream; it ends once the client hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from edgepipe.errors import first_of
from edgepipe.serve.asking import Wanted
from edgepipe.serve.backend import Backend, Inbox
from edgepipe.serve.errors import Refusal
from edgepipe.serve.pieces import Broken, Ended, News, Piece
from edgepipe.serve.responses import DONE, Envelope, Json, Shape, Whole, sse, usage

SEND_DEADLINE_S = 120.0
"""How long a client may read nothing at all before it counts as gone."""

_EVENT_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class HungUp(Exception):
    """The client is gone: nobody is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client wants, and how it is to be written. A prompt of several choices counts once."""

    wanted: Sequence[Wanted]
    prompt_tokens: int
    shape: Shape
    envelope: Envelope
    streams: bool
    includes_usage: bool


class Reply(Response):
    """The answers to one request."""

    def __init__(self, backend: Backend, request: Request) -> None:
        super().__init__()
        self._backend = backend
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or say why not. A client that hangs up is not told anything."""
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(_until_hung_up(receive))
                await self._answer(scope, receive, _patient(send))
                watching.cancel()
        except BaseExceptionGroup as failures:
            failure = first_of(failures)
            if not isinstance(failure, HungUp):
                raise failure from failures

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        tells = self._request.shape.tells_tokens
        try:
            async with self._backend.answering(self._request.wanted, tells_tokens=tells) as inbox:
                self._backend.metrics.prompt_tokens.inc(self._request.prompt_tokens)
                if self._request.streams:
                    await self._stream(inbox, send)
                    return
                document = await self._whole(inbox)
        except Refusal as refusal:
            await refused(refusal)(scope, receive, send)
        else:
            await JSONResponse(document)(scope, receive, send)

    async def _whole(self, inbox: Inbox) -> Json:
        """All choices at once. Raises Refusal."""
        request = self._request
        choices = [Whole() for _ in request.wanted]
        while any(choice.ended is None for choice in choices):
            match await inbox.get():
                case Piece() as piece:
                    choices[piece.choice].add(piece)
                case Ended() as ended:
                    choices[ended.choice].ended = ended
                case Broken(refusal=refusal):
                    raise refusal
        written = [request.shape.whole(index, choice) for index, choice in enumerate(choices)]
        num_tokens = sum(choice.ended.num_tokens for choice in choices if choice.ended)
        return request.envelope.around(
            request.shape.whole_object, written, usage=usage(request.prompt_tokens, num_tokens)
        )

    async def _stream(self, inbox: Inbox, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
        chunks = _Chunks(request=self._request)
        while not chunks.over:
            body = b"".join([chunks.write(news) async for news in _at_hand(inbox)])
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@dataclass(slots=True, kw_only=True)
class _Chunks:
    """The events of one stream."""

    request: Request
    over: bool = False
    _open: set[int] = field(default_factory=set)
    _num_ended: int = 0
    _num_tokens: int = 0

    def write(self, news: News) -> bytes:
        """What a client reads of some news: the last choice's end closes the stream."""
        match news:
            case Piece():
                return self._opening(news.choice) + self._chunk(self.request.shape.piece(news))
            case Ended():
                closing = self._chunk(self.request.shape.closing(news))
                return self._opening(news.choice) + closing + self._end(news)
            case Broken(refusal=refusal):
                self.over = True
                return sse(refusal.body())

    def _opening(self, choice: int) -> bytes:
        if choice in self._open:
            return b""
        self._open.add(choice)
        opening = self.request.shape.opening(choice)
        return b"" if opening is None else self._chunk(opening)

    def _end(self, ended: Ended) -> bytes:
        self._num_ended += 1
        self._num_tokens += ended.num_tokens
        if self._num_ended < len(self.request.wanted):
            return b""
        self.over = True
        counted = usage(self.request.prompt_tokens, self._num_tokens)
        last = sse(self._around([], usage=counted)) if self.request.includes_usage else b""
        return last + DONE

    def _chunk(self, choice: Json) -> bytes:
        more = {"usage": None} if self.request.includes_usage else {}
        return sse(self._around([choice], **more))

    def _around(self, choices: Sequence[Json], **more: Json | None) -> Json:
        shape = self.request.shape
        return self.request.envelope.around(shape.chunk_object, choices, **more)


async def _at_hand(inbox: Inbox) -> AsyncIterator[News]:
    """The next news, and all that came with it."""
    yield await inbox.get()
    while not inbox.empty():
        yield inbox.get_nowait()


async def _until_hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    raise HungUp


def _patient(send: Send) -> Send:
    """Sends, as long as the client reads. Raises HungUp."""

    async def patient(message: Message) -> None:
        try:
            async with asyncio.timeout(SEND_DEADLINE_S):
                await send(message)
        except TimeoutError:
            raise HungUp from None

    return patient


def refused(refusal: Refusal) -> Response:
    """The error object as a response."""
    headers = {}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    return JSONResponse(refusal.body(), status_code=refusal.status, headers=headers)
