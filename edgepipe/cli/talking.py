"""A conversation on a terminal, or over pipes."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import suppress
from io import FileIO
from pathlib import Path

from edgepipe.cli.answering import deployed, stream
from edgepipe.cli.comparing import compared_with, tell
from edgepipe.cli.show import errors
from edgepipe.coordinator.answer_wish import Wish
from edgepipe.coordinator.context import context_of
from edgepipe.coordinator.generation import ask
from edgepipe.coordinator.launch import Where
from edgepipe.coordinator.planning import How, check_cut
from edgepipe.coordinator.prepared import prepare
from edgepipe.coordinator.text import Message
from edgepipe.errors import ModelError, PromptTooLong


async def talk(
    name: str,
    wish: Wish,
    where: Where,
    how: How,
    *,
    adapter: Path | None,
    system: str | None,
    context: int | None,
) -> None:
    """`edgepipe chat`: every turn holds the whole talk, until the context is full."""
    prepared = await prepare(name, home=where.home, adapter=adapter)
    check_cut(how, prepared.shape)
    room = context_of(context, prepared.shape.max_positions)
    tokenizer = await asyncio.to_thread(prepared.model.tokenizer)
    if not tokenizer.has_template:
        raise ModelError(f"{name} has no chat template: use `edgepipe run --raw` instead")
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    async with deployed(prepared, where, how, room, quiet=False) as running:
        turn = 0
        while question := await _question():
            turn += 1
            messages.append({"role": "user", "content": question})
            try:
                asked = wish.asked(prepared.model, tokenizer.chat_ids(messages), room, turn)
            except PromptTooLong as error:
                messages.pop()
                errors().print(str(error), style="yellow", markup=False)
                continue
            answer = ask(tokenizer, asked)
            watch = await stream(running, answer, quiet=False)
            tell(answer, compared_with(watch, answer, where.home))
            messages.append({"role": "assistant", "content": answer.text})


async def _question() -> str:
    """The next line, "" at the end."""
    if sys.stdin.isatty():
        sys.stderr.write("> ")
        sys.stderr.flush()
    loop = asyncio.get_running_loop()
    line: asyncio.Future[bytes] = loop.create_future()
    threading.Thread(target=_read, args=(loop, line), daemon=True).start()
    return (await line).decode(errors="replace").strip()


def _read(loop: asyncio.AbstractEventLoop, line: asyncio.Future[bytes]) -> None:
    """Read a line on a thread that Ctrl-C need not wait for: unbuffered, so it holds no lock."""
    text = FileIO(sys.stdin.fileno(), closefd=False).readline()
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(lambda: None if line.done() else line.set_result(text))
