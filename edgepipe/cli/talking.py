"""A conversation on a terminal, or over pipes."""

from __future__ import annotations

import asyncio
import sys

from edgepipe.cli.answering import deployed, figures, stream
from edgepipe.cli.sampling import Wish
from edgepipe.cli.show import errors
from edgepipe.coordinator.generation import ask
from edgepipe.coordinator.launch import How, Where, check_split, prepare
from edgepipe.coordinator.text import Message
from edgepipe.errors import ModelError, PromptTooLong, UsageError

DEFAULT_CONTEXT = 4096


async def talk(
    name: str, wish: Wish, where: Where, how: How, *, system: str | None, context: int | None
) -> None:
    """`edgepipe chat`: every turn holds the whole talk, until the context is full."""
    prepared = await prepare(name, home=where.home)
    check_split(how, prepared.shape)
    longest = prepared.shape.max_positions
    if context is not None and not 0 < context <= longest:
        raise UsageError(f"--context {context} is not within the model's 1 to {longest}")
    tokenizer = await asyncio.to_thread(prepared.model.tokenizer)
    if not tokenizer.has_template:
        raise ModelError(f"{name} has no chat template: use `edgepipe run --raw` instead")
    room = context or min(longest, DEFAULT_CONTEXT)
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    async with deployed(prepared, where, how, room, quiet=False) as running:
        turn = 0
        while question := await asyncio.to_thread(_read):
            turn += 1
            messages.append({"role": "user", "content": question})
            try:
                asked = wish.asked(prepared.model, tokenizer.chat_ids(messages), room, turn)
            except PromptTooLong as error:
                messages.pop()
                errors().print(str(error), style="yellow", markup=False)
                continue
            answer = ask(tokenizer, asked)
            await stream(running, answer, quiet=False)
            errors().print(figures(answer), style="dim")
            messages.append({"role": "assistant", "content": answer.text})


def _read() -> str:
    """The next line, "" at the end."""
    if sys.stdin.isatty():
        sys.stderr.write("> ")
        sys.stderr.flush()
    return sys.stdin.readline().strip()
