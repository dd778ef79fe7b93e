"""Clients of one kind or another, who ask an `edgepipe serve` over plain HTTP again and again.

A third hang up midway, some read slowly; whatever is answered to its end is compared with what the
same server answered when it had nothing else to do.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any

PATH = "/v1/completions"
NEAR_TIE = 1e-3
"""Logits that are this near may change places from one batch to another."""
DEADLINE_S = 600
SLOW_BUFFER_BYTES = 2048
SLOW_PAUSE_S = 0.02


class Kind(StrEnum):
    """What a client does."""

    WHOLE = "whole"
    STREAM = "stream"
    SLOW = "slow"
    HANGS_UP = "hangs up"


KINDS = [*[Kind.HANGS_UP] * 4, *[Kind.SLOW] * 2, *[Kind.STREAM] * 4, *[Kind.WHOLE] * 2]
"""A third of all hang up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A prompt, its right answer, and how much of that is certain whatever else is in its batch."""

    body: dict[str, Any]
    text: str
    certain: str
    num_tokens: int

    def fits(self, text: str, num_tokens: int) -> bool:
        """Whether an answer is this question's."""
        if self.certain == self.text:
            return (text, num_tokens) == (self.text, self.num_tokens)
        return text.startswith(self.certain)


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of all requests."""

    ended: Counter[Kind] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    refused: int = 0
    num_tokens: int = 0
    ttft_s: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where to ask."""

    host: str
    port: int
    model: str

    async def get(self, path: str) -> str:
        """The body of one page."""
        async with self._open("GET", path, b"") as (_, reader):
            return (await reader.read()).decode()

    async def metric(self, name: str) -> float:
        """A gauge's value."""
        lines = (await self.get("/metrics")).splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    @asynccontextmanager
    async def ask(
        self, body: dict[str, Any], *, buffer_bytes: int | None = None
    ) -> AsyncIterator[tuple[int, asyncio.StreamReader]]:
        """A status and what follows it; leaving hangs up."""
        raw = json.dumps({"model": self.model, **body}).encode()
        async with self._open("POST", PATH, raw, buffer_bytes=buffer_bytes) as answer:
            yield answer

    @asynccontextmanager
    async def _open(
        self, method: str, path: str, body: bytes, *, buffer_bytes: int | None = None
    ) -> AsyncIterator[tuple[int, asyncio.StreamReader]]:
        """HTTP 1.0: the answer ends where the connection does."""
        connection = socket.socket()
        connection.setblocking(False)
        if buffer_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        await asyncio.get_running_loop().sock_connect(connection, (self.host, self.port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=1 << 20)
        try:
            head = f"{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            status = int((await reader.readline()).split()[1])
            while (await reader.readline()).strip():
                pass
            yield status, reader
        finally:
            writer.transport.abort()


async def questions(server: Server, rng: Random, *, num: int, longest: int) -> list[Question]:
    """Questions of many lengths, each asked alone and greedily."""
    found = []
    for index in range(num):
        prompt = [rng.randrange(3, 90) for _ in range(rng.randrange(1, 60))]
        max_tokens = longest * (index + 1) // num
        body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        async with server.ask({**body, "logprobs": 2}) as (status, reader):
            answer = json.loads(await reader.read())
        assert status == 200, answer
        choice = answer["choices"][0]
        found.append(
            Question(
                body=body,
                text=choice["text"],
                certain=choice["text"][: _certain(choice["logprobs"], len(choice["text"]))],
                num_tokens=answer["usage"]["completion_tokens"],
            )
        )
    return found


def _certain(logprobs: dict[str, Any], length: int) -> int:
    """Characters before the first token that another might have beaten."""
    for offset, top in zip(logprobs["text_offset"], logprobs["top_logprobs"], strict=True):
        best = sorted(top.values(), reverse=True)
        if len(best) > 1 and best[0] - best[1] < NEAR_TIE:
            return int(offset)
    return length


async def client(
    server: Server, asked: Sequence[Question], tally: Tally, rng: Random, until_s: float
) -> None:
    """Ask until then, one question after another."""
    while time.monotonic() < until_s:
        question, kind = rng.choice(asked), rng.choice(KINDS)
        streams = kind is Kind.SLOW or (kind is not Kind.WHOLE and rng.random() < 0.8)
        async with asyncio.timeout(DEADLINE_S):
            await _once(server, question, kind, tally, rng, streams=streams)


async def _once(
    server: Server, question: Question, kind: Kind, tally: Tally, rng: Random, *, streams: bool
) -> None:
    extra = {"stream": True, "stream_options": {"include_usage": True}} if streams else {}
    began_s = time.perf_counter()
    buffer_bytes = SLOW_BUFFER_BYTES if kind is Kind.SLOW else None
    async with server.ask({**question.body, **extra}, buffer_bytes=buffer_bytes) as answer:
        status, reader = answer
        if status == 429:
            tally.refused += 1
            await asyncio.sleep(rng.random())
            return
        if status != 200:
            tally.wrong.append(f"{status}: {(await reader.read())[:200]!r}")
            return
        if kind is Kind.HANGS_UP:
            await _hang_up(reader, question, rng, streams=streams)
            tally.ended[kind] += 1
            return
        text, num_tokens = await (_stream if streams else _whole)(reader, kind, tally, began_s)
    tally.ended[kind] += 1
    tally.num_tokens += num_tokens
    if not question.fits(text, num_tokens):
        tally.wrong.append(f"{kind}: {text[:80]!r} instead of {question.text[:80]!r}")


async def _hang_up(
    reader: asyncio.StreamReader, question: Question, rng: Random, *, streams: bool
) -> None:
    """Leave somewhere between the first token and the last."""
    if streams:
        for _ in range(2 * rng.randrange(question.num_tokens + 1)):
            await reader.readline()


async def _whole(
    reader: asyncio.StreamReader, _kind: Kind, _tally: Tally, _began_s: float
) -> tuple[str, int]:
    answer = json.loads(await reader.read())
    return answer["choices"][0]["text"], answer["usage"]["completion_tokens"]


async def _stream(
    reader: asyncio.StreamReader, kind: Kind, tally: Tally, began_s: float
) -> tuple[str, int]:
    """The text and its length; ("", 0) of a stream that does not end as it should."""
    texts: list[str] = []
    num_tokens = 0
    while line := await reader.readline():
        event = line.decode().removeprefix("data: ").strip()
        if event == "[DONE]":
            return "".join(texts), num_tokens
        if not event:
            continue
        document = json.loads(event)
        if not texts:
            tally.ttft_s.append(time.perf_counter() - began_s)
        texts += [choice["text"] for choice in document.get("choices", ())]
        num_tokens = (document.get("usage") or {}).get("completion_tokens", 0)
        if kind is Kind.SLOW:
            await asyncio.sleep(SLOW_PAUSE_S)
    return "", 0
