"""Bad input is one clear sentence and exit code 2 or 1, and the agents stay up."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster.conftest import Cluster, Command, Edgepipe, start_agents
from cluster.in_this_process import Here, commands
from cluster.tiny_folder import CONTEXT, write_tiny

from edgepipe.core.api import API

DEADLINE_S = 20


@pytest.fixture(scope="module")
def tiny(session_home: Path) -> Path:
    return write_tiny(session_home / "models-here" / "tiny")


@pytest.fixture
def here(
    edgepipe: Edgepipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    return commands(edgepipe, monkeypatch, capsys)


def expect_sentence(done: Command, code: int, sentence: str) -> None:
    """Exactly one line on standard error, and nothing on standard output."""
    assert re.fullmatch(f"edgepipe: [^\n]*{sentence}[^\n]*\n", done.err, re.DOTALL), done.err
    assert (done.code, done.out) == (code, "")


# ------------------------------------------------------------------------- before anything starts

RUN = ("run", "TINY", "--prompt", "w1")
BENCH = ("bench", "decode", "--engine", "emulated", "--local", 2)
WRONG_USE = {
    "no prompt": (("run", "TINY"), 2, "Missing option '--prompt': see .* --help"),
    "an option that does not exist": ((*RUN, "--nope"), 2, "No such option: --nope"),
    "an empty prompt": (("run", "TINY", "--prompt", ""), 2, "--prompt is empty"),
    "temperature": ((*RUN, "--temperature", -1), 2, r"temperature must lie in \[0, 100\], not -1"),
    "top-p": ((*RUN, "--top-p", 0), 2, r"top_p must lie in \(0, 1\], not 0"),
    "max-tokens": ((*RUN, "--max-tokens", 0), 2, "--max-tokens is 0: ask for at least one"),
    "an unknown model": (("run", "no/such-model", "--prompt", "x"), 1, "no/such-model"),
    "no such folder": (("run", "./nowhere", "--prompt", "x"), 1, r"no model folder ./nowhere"),
    "no config": (("run", "EMPTY", "--prompt", "x"), 1, "holds no config.json"),
    "a split that does not rise": ((*RUN, "--split", "2,1"), 2, "must rise: 1 stands after 2"),
    "a strategy without its split": ((*RUN, "--strategy", "manual"), 2, "manual needs --split"),
    "a split of another strategy": (
        (*RUN, "--split", 2, "--strategy", "equal"), 2, "leave out --split or --strategy equal",
    ),
    "a split below": ((*RUN, "--split", "0,2"), 2, "layer 0: .* 4 layers .* between 1 and 3"),
    "a split above": ((*RUN, "--split", "4"), 2, "layer 4: .* 4 layers .* between 1 and 3"),
    "a split of words": ((*RUN, "--split", "a,b"), 2, "--split wants numbers .*, not 'a,b'"),
    "a split for other stages": (
        (*RUN, "--stages", 2, "--split", "1,2"), 2, "--stages 2 makes 2 stages, but .* makes 3",
    ),
    "a split for other agents": (
        (*RUN, "--local", 3, "--split", "1"), 2, "--local 3 makes 3 stages, but .* makes 2",
    ),
    "no stages": ((*RUN, "--stages", 0), 2, "--stages 0 makes no pipeline"),
    "more stages than layers": ((*RUN, "--local", 5), 1, "5 stages cannot share 4 layers"),
    "no agents": ((*RUN, "--local", 0), 2, "--local 0 starts no agent"),
    "no threads": ((*RUN, "--local", 2, "--threads", 0), 2, "--threads 0 computes nothing"),
    "faster": ((*RUN, "--local", 2, "--slowdown", "1,0.5"), 2, "--slowdown 0.5 is not within 1"),
    "a peer that is no address": ((*RUN, "--peer", "a b"), 2, "--peer wants HOST:PORT"),
    "no plan": ((*RUN, "--plan", "CONFIG"), 2, "config.json cannot be used: this is not a plan"),
    "no text": ((*RUN, "--plan", "WEIGHTS"), 2, "is not a plan that edgepipe saved: not text"),
    "no file": ((*RUN, "--plan", "nowhere.json"), 2, "nowhere.json cannot be read: No such file"),
    "two plans": (
        (*RUN, "--plan", "CONFIG", "--split", "1"), 2, "whole plan: leave out --nodes, --split",
    ),
    "no slots": (("plan", "TINY", "--slots", 0), 2, "--slots 0 is not within 1 to 1024"),
    "no context": (("plan", "TINY", "--context", 0), 2, "--context 0 is not within .* 1 to 4096"),
    "no streams": ((*BENCH, "--streams", "1,0"), 2, "--streams wants numbers from 1 to 1024"),
    "one token": ((*BENCH, "--tokens", 1), 2, "--tokens 1 gives no rate: ask for 2 up"),
    "no time": ((*BENCH, "--stage-ms", "nan"), 2, "--stage-ms wants numbers from 0 to 60000"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "code", "sentence"), WRONG_USE.values(), ids=WRONG_USE.keys())
def test_wrong_use_is_told_before_anything_starts(  # noqa: PLR0917 -- fixtures
    here: Here, tiny: Path, tmp_path: Path, words: tuple[object, ...], code: int, sentence: str
) -> None:
    names = {
        "TINY": tiny,
        "EMPTY": tmp_path,
        "CONFIG": tiny / "config.json",
        "WEIGHTS": tiny / "model.safetensors",
    }
    expect_sentence(here(*(names.get(str(word), word) for word in words)), code, sentence)


def test_a_prompt_longer_than_the_context(here: Here, tiny: Path) -> None:
    done = here("run", tiny, "--prompt", "w1 " * (CONTEXT + 1))
    expect_sentence(done, 1, f"{CONTEXT + 1} tokens long and the context {CONTEXT}")


AGENT = {
    "a port in use": (("--listen", "BUSY"), 1, r"port \d+ is in use: stop what listens there"),
    "memory": (("--memory", "lots"), 2, "--memory wants a size such as 6GiB"),
    "more memory than there is": (("--memory", "900TiB"), 2, "900.0 TiB, but it has only"),
    "a device": (("--device", "tpu"), 2, "no device 'tpu' here, only .*cpu"),
    "an interface": (("--interface", "eth99"), 2, "no interface 'eth99'"),
    "a peer": (("--peer", "a b:c"), 2, "--peer wants HOST:PORT"),
}


def test_an_agent_that_cannot_be(cluster: Cluster) -> None:
    """All at once: each takes a second of imports."""
    common = ("agent", "--no-mdns", "--listen", "127.0.0.1:0", "--device", "cpu")
    started = {
        name: cluster.edgepipe.popen(
            *(*common, "--name", f"bad-{index}"),
            *(cluster.agents[0].peer if word == "BUSY" else word for word in words),
        )
        for index, (name, (words, _, _)) in enumerate(AGENT.items())
    }
    for name, process in started.items():
        out, err = process.communicate(timeout=DEADLINE_S)
        _, code, sentence = AGENT[name]
        expect_sentence(Command(code=process.returncode, out=out, err=err), code, sentence)


# --------------------------------------------------------------------------------- at the agents


@pytest.fixture
def tiny_run(here: Here, cluster: Cluster, tiny: Path) -> Iterator[Callable[..., Command]]:
    """A short run on the cluster; afterwards every agent is alive and free."""
    yield lambda *more, model=tiny: here(
        *("run", model, "--prompt", "w1 w2", "--max-tokens", 3, "--json"), *cluster.flags, *more
    )
    nodes = here("nodes", "--json", *cluster.flags).json["nodes"]
    assert [(node["name"], node["state"]) for node in nodes] == [
        (agent.name, "alive") for agent in cluster.agents
    ]
    assert all("lease" not in node["devices"][0] for node in nodes)


def test_a_node_that_is_not_here(tiny_run: Callable[..., Command]) -> None:
    expect_sentence(
        tiny_run("--nodes", "ada,zoe"), 1, "node called zoe: usable nodes are ada, bob, cyd, dan"
    )


def test_a_split_for_other_nodes(tiny_run: Callable[..., Command]) -> None:
    done = tiny_run("--nodes", "ada,bob", "--split", "1,2")
    expect_sentence(done, 2, "the split makes 3 stages for 2 devices")


def test_a_peer_that_is_not_there(here: Here, tiny: Path) -> None:
    done = here("run", tiny, "--prompt", "w1", "--cluster", "nobodys", "--peer", "127.0.0.1:1")
    expect_sentence(done, 1, "no device is usable: .*tried 127.0.0.1:1.*is `edgepipe agent` run")


def _cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def _lie(file: Path) -> None:
    """A tensor with a row more than it has."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["model.norm.weight"]["shape"][0] += 1
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def _lie_consistently(file: Path) -> None:
    """What only the stage that builds the model can see: the config is of another model."""
    config = file.parent / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "intermediate_size": 64}))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_cut_off, r"safetensors is damaged at tensor [a-z0-9_.]+ \(its bytes lie outside"),
        (_lie, r"safetensors is damaged at tensor model.norm.weight \(its size does not match"),
        (_lie_consistently, r"\w+ \(cpu\): The tensor .* has the shape .*, the model wants"),
    ],
)
def test_a_damaged_safetensors_file(
    tiny_run: Callable[..., Command],
    tiny: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    sentence: str,
) -> None:
    model = shutil.copytree(tiny, tmp_path / "damaged")
    damage(model / "model.safetensors")
    expect_sentence(tiny_run(model=model), 1, sentence)


@pytest.fixture(scope="module")
def small(edgepipe: Edgepipe) -> Iterator[Cluster]:
    """One agent with less memory than its own worker takes."""
    with ExitStack() as stack:
        yield start_agents(stack, edgepipe, ["tom"], "--memory", "200MiB")


def test_a_model_that_does_not_fit(here: Here, small: Cluster, tiny: Path) -> None:
    done = here("run", tiny, "--prompt", "w1", *small.flags)
    expect_sentence(
        done,
        1,
        r"tiny needs [\d.]+ MiB more on tom \(cpu\): [\d.]+ MiB of 200.0 MiB; .* would help",
    )
    plan = here("plan", tiny, "--json", *small.flags)
    assert (plan.code, plan.err) == (1, "")
    assert plan.json["feasible"] is False
    assert plan.json["short_by_bytes"] > 0
    assert plan.json["shortages"][0]["node"] == "tom"


@dataclass(frozen=True, slots=True, kw_only=True)
class Future(Edgepipe):
    """An edgepipe that speaks a later version of the wire."""

    def popen(self, *args: object, **options: Any) -> subprocess.Popen[str]:
        later = "import edgepipe.core.api as api; api.API = 99; from edgepipe.cli import main; "
        words = [sys.executable, "-c", later + "main()", *(str(arg) for arg in args)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
        return subprocess.Popen(words, env=self.environment, text=True, **{**pipes, **options})


def test_an_agent_of_another_version(here: Here, edgepipe: Edgepipe, tiny: Path) -> None:
    with ExitStack() as stack:
        cluster = start_agents(stack, Future(home=edgepipe.home), ["zed"])
        done = here("run", tiny, "--prompt", "w1", *cluster.flags)
        expect_sentence(
            done, 1, f"no device is usable: zed: speaks wire version 99, this edgepipe {API}"
        )
        (zed,) = here("nodes", "--json", *cluster.flags).json["nodes"]
        assert (zed["name"], zed["state"]) == ("zed", "unusable")
        assert "update this edgepipe" in zed["reason"]


def test_after_all_of_that_a_run_works(tiny_run: Callable[..., Command]) -> None:
    done = tiny_run("--strategy", "equal")
    assert done.code == 0, done.err
    assert len(done.json["token_ids"]) == 3
    assert len(done.json["plan"]) == 4
