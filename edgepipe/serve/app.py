"""The endpoints. Nothing is decided here: bodies in, replies out.

/v1/models  /v1/models/NAME  /v1/chat/completions  /v1/completions     want the API key, if any
/health  /metrics                                                      are open
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgepipe import __version__
from edgepipe.errors import EdgepipeError
from edgepipe.obs.scrape import CONTENT_TYPE
from edgepipe.serve.asking import chat_prompts, completion_prompts, wanted
from edgepipe.serve.backend import Backend
from edgepipe.serve.errors import SERVER, Refusal, refusal_of
from edgepipe.serve.metrics import Metrics
from edgepipe.serve.reply import Reply, refused
from edgepipe.serve.reply import Request as Asked
from edgepipe.serve.requests import Body, ChatBody, CompletionBody, parse
from edgepipe.serve.responses import ChatShape, CompletionShape, Envelope, Json, Shape

MAX_BODY_BYTES = 4 << 20
BODY_DEADLINE_S = 60.0

_HUNG_UP = 499


def create_app(backend: Backend, *, api_key: str | None) -> ASGIApp:
    """The application of one backend; clients must show `api_key` where there is one."""
    app = FastAPI(title="edgepipe", version=__version__, openapi_url=None)
    endpoints = Endpoints(backend=backend)
    v1 = APIRouter(prefix="/v1", dependencies=[Depends(_keeper(api_key))] if api_key else [])
    v1.add_api_route("/models", endpoints.models)
    v1.add_api_route("/models/{name:path}", endpoints.model)
    v1.add_api_route("/chat/completions", endpoints.chat, methods=["POST"])
    v1.add_api_route("/completions", endpoints.completion, methods=["POST"])
    app.include_router(v1)
    app.add_api_route("/health", endpoints.health)
    app.add_api_route("/metrics", endpoints.metrics)
    app.add_exception_handler(EdgepipeError, _tell)
    app.add_exception_handler(HTTPException, _tell_http)
    app.add_exception_handler(Exception, _tell_fault)
    return _Counted(app, backend.metrics)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """What each address does."""

    backend: Backend

    async def models(self) -> Response:
        """The one model."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, name: str) -> Response:
        """The one model, by its name. Raises Refusal."""
        self.backend.served.check_name(name)
        return JSONResponse(self._model())

    def _model(self) -> Json:
        served = self.backend.served
        return {
            "id": served.name,
            "object": "model",
            "created": served.created_s,
            "owned_by": "edgepipe",
            "max_model_len": served.max_positions,
        }

    async def chat(self, request: Request) -> Response:
        """Go on with a conversation. Raises Refusal."""
        body = parse(ChatBody, await _body(request))
        self.backend.served.check_name(body.model)
        async with self.backend.tokenizing:
            prompts = await asyncio.to_thread(chat_prompts, body, self.backend.tokenizer)
        return self._reply(body, prompts, ChatShape(tells_tokens=body.num_likely is not None))

    async def completion(self, request: Request) -> Response:
        """Go on with texts. Raises Refusal."""
        body = parse(CompletionBody, await _body(request))
        served = self.backend.served
        served.check_name(body.model)
        self.backend.check_count(len(body.prompt) * body.num_choices)
        async with self.backend.tokenizing:
            prompts = await asyncio.to_thread(
                completion_prompts, body, self.backend.tokenizer, served.vocab_size
            )
        return self._reply(body, prompts, CompletionShape(tells_tokens=body.num_likely is not None))

    def _reply(self, body: Body, prompts: Sequence[Sequence[int]], shape: Shape) -> Reply:
        asked = Asked(
            wanted=wanted(body, prompts, self.backend.served),
            prompt_tokens=sum(len(prompt_ids) for prompt_ids in prompts),
            shape=shape,
            envelope=Envelope(
                id=shape.id_prefix + secrets.token_hex(12),
                created_s=int(time.time()),
                model=self.backend.served.name,
            ),
            streams=body.streams,
            includes_usage=body.includes_usage,
        )
        return Reply(self.backend, asked)

    async def health(self) -> Response:
        """Whether there is a pipeline, and on which devices. Raises Refusal."""
        if self.backend.ended is not None:
            raise self.backend.ended
        if self.backend.running is None:
            document = {"status": "planning", "reason": self.backend.reason}
            return JSONResponse(document, status_code=503)
        stages = [
            {"node": stage.node, "device": stage.device, "layers": [stage.first, stage.end]}
            for stage in self.backend.running.plan.stages
        ]
        return JSONResponse({"status": "ok", "stages": stages})

    async def metrics(self) -> Response:
        """See Metrics."""
        return Response(self.backend.metrics.text(), media_type=CONTENT_TYPE)


class _Keeper:
    """Lets those in who show the key."""

    def __init__(self, api_key: str) -> None:
        self._key = api_key.encode()

    async def __call__(self, request: Request) -> None:
        """Raises Refusal."""
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self._key):
            raise Refusal(
                401,
                "The API key is missing or wrong: send it as 'Authorization: Bearer KEY'.",
                code="invalid_api_key",
            )


def _keeper(api_key: str) -> _Keeper:
    return _Keeper(api_key)


async def _body(request: Request) -> bytes:
    """The body, of a bounded size and within a bounded time. Raises Refusal.

    A web page may send anything but JSON to an address that is not its own: that is refused.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if "origin" in request.headers and kind != "application/json":
        raise Refusal(415, "The body must be JSON: send 'Content-Type: application/json'.")
    chunks, size = [], 0
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise Refusal(
                        413, f"The body is larger than {MAX_BODY_BYTES} bytes: send less."
                    )
                chunks.append(chunk)
    except TimeoutError:
        raise Refusal(408, f"The body did not come within {BODY_DEADLINE_S:.0f} s.") from None
    except ClientDisconnect:
        raise Refusal(_HUNG_UP, "The client hung up.") from None
    return b"".join(chunks)


async def _tell(_request: Request, error: Exception) -> Response:
    assert isinstance(error, EdgepipeError)
    return refused(refusal_of(error))


async def _tell_http(request: Request, error: Exception) -> Response:
    """An address or a method that does not exist."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 405:
        response = refused(Refusal(405, f"{path} does not take {request.method}."))
        response.headers.update(error.headers or {})
        return response
    return refused(Refusal(error.status_code, f"There is nothing at {path}.", code="not_found"))


async def _tell_fault(_request: Request, _error: Exception) -> Response:
    return refused(Refusal(500, "The server has a fault: see its log.", kind=SERVER))


class _Counted:
    """Counts answers by their status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, whole = _HUNG_UP, False

        async def watched(message: Message) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)
            whole = message["type"] == "http.response.body" and not message.get("more_body")

        try:
            await self._app(scope, receive, watched)
        finally:
            route = scope.get("route")
            endpoint = getattr(route, "path", "other")
            self._metrics.requests.labels(endpoint, status if whole else _HUNG_UP).inc()
