"""edgepipe's image and docker/compose.yaml, from nothing to a trained adapter.

    .venv/bin/python -m bench.compose_test

Builds the image, brings up three agents of unequal CPU quotas and a server, asks it, kills an agent
and asks, lets it return and asks, and trains ten steps over the three. Says how long each part
took. Exits 1 where something is not as it should be, and 0, with SKIPPED, where there is no Docker.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai

from bench.compose_project import Project, project
from bench.docker_engine import Docker, NoDocker, engine
from bench.docker_image import IMAGE, base_image, build_image
from bench.served_api import ServedApi

MODEL = "smollm2-135m"
AGENTS = ("whole", "half", "quarter")
"""By their share of a CPU, the largest first."""
LOST = "half"
STREAMS = 8
SHAPE = ("--stages", str(len(AGENTS)), "--insecure")
SERVED = ("--weights", "int8")
STEPS = 10
UP_S, PLAN_S, TRAIN_S = 180.0, 400.0, 600.0


class Wrong(Exception):
    """Something is not as it should be."""


@dataclass(slots=True, kw_only=True)
class Story:
    """What is done, part by part, and how long each took."""

    parts: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part; told when it ends."""
        began_s = time.monotonic()
        yield
        self.parts.append((name, time.monotonic() - began_s))
        tell(f"{name}: {self.parts[-1][1]:.0f} s")

    def total_s(self) -> float:
        """Of all parts."""
        return sum(seconds for _, seconds in self.parts)


def main() -> int:
    """Tell the story, or why it cannot be told."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # all is taken down
    story = Story()
    with tempfile.TemporaryDirectory(prefix="edgepipe-compose-") as name:
        folder = Path(name)
        try:
            with engine(folder) as docker:
                _image(story, docker, folder)
                _run(story, docker)
        except NoDocker as reason:
            tell(f"SKIPPED ({reason})")
            return 0
        except (Wrong, TimeoutError, subprocess.SubprocessError, openai.OpenAIError) as error:
            tell(f"FAILED: {error}")
            return 1
    tell(f"passed, {story.total_s():.0f} s in all")
    return 0


def tell(sentence: str) -> None:
    sys.stdout.write(f"compose-test: {sentence}\n")
    sys.stdout.flush()


def _expect(holds: bool, sentence: str) -> None:
    if not holds:
        raise Wrong(sentence)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _image(story: Story, docker: Docker, folder: Path) -> None:
    with story.part("a base image"):
        base = base_image(docker, folder)
    with story.part("the image"):
        size_bytes = build_image(docker, base)
    tell(f"{IMAGE} on {base} has {size_bytes / 1e9:.2f} GB")


def _run(story: Story, docker: Docker) -> None:
    port = _free_port()
    api = ServedApi(port=port, model=MODEL)
    settings = {"EDGEPIPE_API": f"127.0.0.1:{port}", "EDGEPIPE_IMAGE": IMAGE}
    with (
        project(docker, f"edgepipe-test-{os.getpid()}", settings) as services,
        _explained(services),
    ):
        with story.part("three agents up"):
            services.up(*AGENTS, within_s=UP_S)
        with story.part("speeds measured, plan and bench"):
            _show_shares(services)
        _serve(story, services, api)
        with story.part(f"{STEPS} LoRA steps"):
            _train(services)
        began_s = time.monotonic()
    tell(f"everything down: {time.monotonic() - began_s:.0f} s")


@contextmanager
def _explained(services: Project) -> Iterator[None]:
    """Show what the containers logged where something goes wrong."""
    try:
        yield
    except (Wrong, TimeoutError, subprocess.SubprocessError, openai.OpenAIError):
        tell(f"the containers' last words\n{services.logs()}")
        raise


def _show_shares(services: Project) -> None:
    """The slower a container is, the less it gets to do; predicted and measured tokens/s."""
    plan = services.edgepipe(
        *("plan", MODEL, "--objective", "throughput", "--slots", str(STREAMS), *SERVED, *SHAPE),
        within_s=PLAN_S,
    )
    item_s = {each["node"]: each["item_s"] for each in plan["inputs"]["devices"]}
    _tell_speeds({name: seconds[1] for name, seconds in item_s.items()})
    _check_work(plan["stages"], item_s[AGENTS[0]])
    bench = services.edgepipe(
        *("bench", "decode", MODEL, "--streams", str(STREAMS), *SERVED, *SHAPE), within_s=PLAN_S
    )
    (figure,) = bench["decode"]
    tell(
        f"  {STREAMS} streams: {figure['tokens_per_s']:.1f} tokens/s, "
        f"predicted {figure['predicted_tokens_per_s']:.1f} ({figure['error']:+.0%})"
    )


def _tell_speeds(layer_s: Mapping[str, float]) -> None:
    fastest_s = min(layer_s.values())
    times = (f"{name} {layer_s[name] / fastest_s:.2f}" for name in AGENTS)
    tell(f"  a layer takes, of the fastest one's time: {', '.join(times)}")


def _check_work(stages: Sequence[Mapping[str, Any]], item_s: Sequence[float]) -> None:
    """Layers, and what the stages would take on one device: the head is worth several layers."""
    work_s = {stage["node"]: sum(item_s[slice(*_items(stage))]) for stage in stages}
    shares = (
        f"{name} {work_s.get(name, 0) / sum(work_s.values()):.0%} ({_layers(stages, name)} layers)"
        for name in AGENTS
    )
    tell(f"  the work: {', '.join(shares)}")
    order = sorted(work_s, key=work_s.__getitem__, reverse=True)
    _expect(order == list(AGENTS), f"the faster a container, the more it should do: not {order}")
    fastest, slowest = (_layers(stages, name) for name in (AGENTS[0], AGENTS[-1]))
    _expect(slowest < fastest, f"the slowest should have fewer layers than {fastest}")


def _items(stage: Mapping[str, Any]) -> tuple[int, int]:
    """Its items: the embedding is item 0, the head follows the layers."""
    first, end = stage["layers"]
    return first + (not stage["embedding"]), end + 1 + stage["head"]


def _layers(stages: Sequence[Mapping[str, Any]], name: str) -> int:
    return sum(end - first for first, end in (s["layers"] for s in stages if s["node"] == name))


def _serve(story: Story, services: Project, api: ServedApi) -> None:
    with story.part("the server up"):
        services.up("server", within_s=PLAN_S)
        layers = (f"{name} {_layers(api.stages(), name)}" for name in AGENTS)
        tell(f"  layers: {', '.join(layers)}")
    with story.part("an answer by all three"):
        api.ask()
        tell(f"  {STREAMS} at once: {api.tokens_per_s(STREAMS):.1f} tokens/s")
    with story.part(f"{LOST} killed, an answer by the others"):
        services.docker.run("kill", services.container(LOST))
        api.ask()
        there = {stage["node"] for stage in api.stages()}
        _expect(LOST not in there, f"{LOST} is gone, but the stages are on {sorted(there)}")
    with story.part(f"{LOST} started again, an answer by all three"):
        services.docker.run("start", services.container(LOST))
        api.wait_for(lambda stages: len(stages) == len(AGENTS), PLAN_S)
        api.ask()
    services.compose("stop", "server")


def _train(services: Project) -> None:
    settings = {"steps": STEPS, "output": "/var/lib/edgepipe/runs/compose-test"}
    flags = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    last = services.edgepipe("train", "/examples/lora.toml", *flags, *SHAPE, within_s=TRAIN_S)
    _expect(last["step"] == STEPS, f"training ended at step {last['step']}, not {STEPS}")
    tell(
        f"  loss {last['loss']:.3f}, a step {last['step_s']:.2f} s, "
        f"predicted {last['predicted_step_s']:.2f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
