"""A model behind HTTP, from its plan to its end."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from json import dumps
from pathlib import Path

from edgepipe.cli.answering import Shown, stages_json
from edgepipe.cli.show import errors
from edgepipe.coordinator.launch import Running, Where
from edgepipe.coordinator.planning import How, check_cut
from edgepipe.coordinator.prepared import Prepared, prepare
from edgepipe.coordinator.standing import Wish, standing
from edgepipe.coordinator.text import Tokenizer
from edgepipe.core.admission import FrontDesk
from edgepipe.core.reach import is_loopback
from edgepipe.core.standing import Why
from edgepipe.errors import UsageError
from edgepipe.serve.asking import Served
from edgepipe.serve.backend import Backend
from edgepipe.serve.metrics import Metrics
from edgepipe.serve.server import address, bind, serve

DEFAULT_CONTEXT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Where to serve, and to how many. `context` is of one slot; None is for the default."""

    host: str
    port: int
    queue: int
    context: int | None
    api_key: str | None


async def serve_model(
    name: str, service: Service, where: Where, how: How, *, adapter: Path | None, json: bool
) -> None:
    """`edgepipe serve`, until it is told to stop. Raises what keeps it from beginning to serve."""
    with bind(service.host, service.port) as listener:
        prepared = await prepare(name, home=where.home, adapter=adapter)
        check_cut(how, prepared.shape)
        longest = prepared.shape.max_positions
        if service.context is not None and not 1 < service.context <= longest:
            raise UsageError(
                f"--context {service.context} is not within the model's 2 to {longest}"
            )
        room = service.context or min(longest, DEFAULT_CONTEXT)
        if how.pinned is not None:
            room = max(room, how.pinned.inputs.max_positions)
        tokenizer = await asyncio.to_thread(prepared.model.tokenizer)
        tokenizer.prompt_ids("a", raw=True)  # the first call sets it up, which threads must not do
        backend = _backend(
            name,
            prepared,
            tokenizer,
            room,
            FrontDesk(num_slots=how.num_slots, max_waiting=service.queue),
        )
        wish = Wish(prepared=prepared, how=how, max_positions=room, where=where)
        console = errors()

        def shown(why: Why) -> Shown:
            return Shown(console, quiet=json or why is not Why.STARTED)

        def say(sentence: str) -> None:
            console.print(f"edgepipe: {sentence}", markup=False, highlight=False, soft_wrap=True)

        async with standing(wish, backend, interface=shown, tell=say) as running:

            def tell() -> None:
                _tell(backend, running, *address(listener), service, json=json)

            await serve(backend, listener, api_key=service.api_key, on_ready=tell)


def _backend(
    name: str, prepared: Prepared, tokenizer: Tokenizer, room: int, desk: FrontDesk
) -> Backend:
    model = prepared.model
    return Backend(
        tokenizer=tokenizer,
        served=Served(
            name=model.name,
            names={model.name, name},
            created_s=int(time.time()),
            max_positions=room,
            vocab_size=prepared.shape.vocab_size,
            eos_ids=model.eos_ids,
            generation=model.generation,
        ),
        desk=desk,
        metrics=Metrics(desk),
    )


def _tell(
    backend: Backend, running: Running, host: str, port: int, service: Service, *, json: bool
) -> None:
    url, served = f"http://{host}:{port}/v1", backend.served
    if json:
        document = {
            "url": url,
            "host": host,
            "port": port,
            "model": served.name,
            "slots": backend.desk.num_slots,
            "context": served.max_positions,
            "plan": stages_json(running),
        }
        sys.stdout.write(dumps(document) + "\n")
        sys.stdout.flush()
    console = errors()
    if service.api_key is None and not is_loopback(service.host):
        console.print(
            "Whoever reaches this address may use the model: set --api-key to let in those only "
            "who have it.",
            style="yellow",
        )
    console.print(
        f"Serving {served.name} at {url}: {backend.desk.num_slots} answers of up to "
        f"{served.max_positions} tokens at once. Ctrl-C stops it.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
