"""`edgepipe agent install`, `uninstall` and `status`, as far as files and systemctl's words go."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cluster.conftest import Edgepipe, start_agents
from cluster.in_this_process import Here, commands

from edgepipe.agent.configuration import load_settings
from edgepipe.agent.service import here as service_manager
from edgepipe.agent.service.installing import check_readable
from edgepipe.agent.service.state import ServiceState, from_launchctl, from_systemctl
from edgepipe.errors import ServiceError

SYSTEMCTL = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in
  --version) echo "systemd 254 (254.1)" ;;
  *show*) printf 'MainPID=%s\\nUnitFileState=enabled\\nActiveState=active\\n' $$ ;;
  *restart*) [ -z "$BROKEN" ] || { printf 'Job failed.\\nSee the journal.\\n' >&2; exit 1; } ;;
esac
"""
"""Stands for systemctl, and writes down what it is told."""


@pytest.fixture
def edgepipe(tmp_path: Path) -> Edgepipe:
    return Edgepipe(home=tmp_path / "home")


@pytest.fixture
def here(
    edgepipe: Edgepipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    monkeypatch.setenv("HOME", str(edgepipe.home.parent / "user"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return commands(edgepipe, monkeypatch, capsys)


@pytest.fixture
def unit(edgepipe: Edgepipe) -> Path:
    return edgepipe.home.parent / "user" / ".config/systemd/user/edgepipe-agent.service"


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What systemctl was told, on a machine that has one."""
    found = tmp_path / "calls"
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(SYSTEMCTL)
    systemctl.chmod(0o755)
    (tmp_path / "runtime" / "systemd").mkdir(parents=True)
    (tmp_path / "runtime" / "systemd" / "private").touch()
    monkeypatch.setenv("CALLS", str(found))
    monkeypatch.setenv("PATH", f"{systemctl.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr(service_manager, "_BOOTED", tmp_path)
    return found


@pytest.fixture(autouse=True)
def _unset(edgepipe: Edgepipe) -> Iterator[None]:
    """The settings of an installed agent would be those of every other in this home."""
    yield
    for file in edgepipe.home.glob("agent.toml*"):
        file.unlink()


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No service manager runs."""
    monkeypatch.setattr(service_manager, "_BOOTED", tmp_path / "not-booted")


def told(calls: Path) -> list[str]:
    return [line for line in calls.read_text().splitlines() if line != "--version"]


# ------------------------------------------------------------------------- with a service manager


def test_a_service_comes_and_goes(here: Here, edgepipe: Edgepipe, unit: Path, calls: Path) -> None:
    done = here("agent", "install", "--user", "--profile", "gpu-8g", "--name", "attic")
    assert done.code == 0, done.err
    config = edgepipe.home / "agent.toml"
    assert f"wrote {unit}\nwrote {config}\n" in done.out
    assert stat.S_IMODE(unit.stat().st_mode) == 0o644
    assert "RestartSteps" in unit.read_text()
    settings = load_settings({}, config)
    assert (settings.name, settings.device) == ("attic", ("cuda:0",))
    assert told(calls) == [
        "--user daemon-reload",
        "--user enable edgepipe-agent.service",
        "--user restart edgepipe-agent.service",
    ]
    calls.unlink()
    gone = here("agent", "uninstall")  # the one that is installed
    assert (gone.code, gone.out) == (0, f"removed {unit}\nkept {config}\nkept {edgepipe.home}\n")
    assert not unit.exists()
    assert told(calls) == ["--user disable --now edgepipe-agent.service", "--user daemon-reload"]
    again = here("agent", "uninstall", "--user")
    assert (again.code, again.out.startswith("the agent is not installed here\n")) == (0, True)


@pytest.mark.usefixtures("calls")
def test_a_purge_takes_what_is_the_agents_and_nothing_else(here: Here, edgepipe: Edgepipe) -> None:
    here("agent", "install", "--user")
    for name in ("nodes/attic", "weights", "profiles", "my pictures"):
        (edgepipe.home / name).mkdir(parents=True)
    done = here("agent", "uninstall", "--user", "--purge")
    assert done.code == 0, done.err
    assert {path.name for path in edgepipe.home.iterdir()} == {"profiles", "my pictures"}


@pytest.mark.usefixtures("calls")
def test_settings_are_kept_unless_others_are_asked_for(here: Here, edgepipe: Edgepipe) -> None:
    config = edgepipe.home / "agent.toml"
    here("agent", "install", "--user")
    config.write_text('name = "mine"\n')
    assert here("agent", "install", "--user").code == 0
    assert config.read_text() == 'name = "mine"\n'
    assert here("agent", "install", "--user", "--profile", "cpu-only").code == 0
    assert load_settings({}, config).device == ("cpu",)
    assert config.with_name("agent.toml.old").read_text() == 'name = "mine"\n'


@pytest.mark.usefixtures("calls")
def test_what_the_service_manager_refuses_is_said(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKEN", "1")
    done = here("agent", "install", "--user")
    assert done.code == 1
    assert done.sentence == (
        "edgepipe: `systemctl --user restart edgepipe-agent.service` failed: "
        "Job failed. See the journal."
    )


@pytest.mark.usefixtures("calls")
def test_nothing_is_written_for_settings_that_are_wrong(here: Here, unit: Path) -> None:
    done = here("agent", "install", "--user", "--memory", "much")
    assert (done.code, unit.exists()) == (2, False)
    assert done.sentence.startswith("edgepipe: --memory wants a size")


def test_a_dry_run_shows_all_and_does_nothing(here: Here, unit: Path, calls: Path) -> None:
    done = here("agent", "install", "--user", "--dry-run", "--cluster", "attics")
    assert done.code == 0, done.err
    assert f"# {unit}\n" in done.out
    assert '\ncluster = "attics"\n' in done.out
    assert done.out.endswith("$ systemctl --user restart edgepipe-agent.service\n")
    assert not unit.exists()
    assert told(calls) == []


@pytest.mark.usefixtures("calls")
def test_status_asks_the_running_agent(here: Here, edgepipe: Edgepipe) -> None:
    edgepipe.home.mkdir()
    with ExitStack() as stack:
        cluster = start_agents(stack, edgepipe, ["vic"])
        (vic,) = cluster.agents
        listen = ("--listen", vic.peer, "--cluster", cluster.name)
        here("agent", "install", "--user", "--device", "cpu", *listen)
        found = here("agent", "status", "--json")
        shown = here("agent", "status")
    document = found.json
    assert found.code == 0, found.err
    assert (document["installed"], document["enabled"], document["running"]) == (True, True, True)
    assert document["pid"] > 0
    assert document["node"]["name"] == "vic"
    assert vic.peer in document["node"]["addresses"]
    (device,) = document["node"]["devices"]
    assert (device["id"], "lease" in device) == ("cpu", False)
    assert "vic" in shown.out
    assert document["advice"] == ""


@pytest.mark.usefixtures("calls")
def test_status_of_an_agent_that_is_not_installed(here: Here) -> None:
    done = here("agent", "status", "--user", "--json")
    assert done.json["installed"] is False


# ----------------------------------------------------------------------------- without, and below


@pytest.mark.usefixtures("without")
@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_without_a_service_manager_a_sentence_says_what_to_do(
    here: Here, unit: Path, command: str
) -> None:
    done = here("agent", command, "--user")
    assert (done.code, done.out, unit.exists()) == (1, "", False)
    sentence = r"edgepipe: No systemd of your own runs here: have `edgepipe agent` started by .*\n"
    assert re.fullmatch(sentence, done.err)


@pytest.mark.usefixtures("without")
def test_status_without_a_service_manager(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPIPE_LISTEN", "127.0.0.1:1")
    done = here("agent", "status", "--user", "--json")
    assert done.code == 0
    assert (done.json["manager"], done.json["node"]) == (None, None)
    assert done.json["advice"].startswith("No systemd of your own runs here: have ")


def test_the_systems_files_below_another_root(here: Here, tmp_path: Path) -> None:
    """As a package of a distribution is made."""
    root = tmp_path / "root"
    here("agent", "install", "--system", "--profile", "cpu-only", "--root", root)
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert files == {
        "etc/systemd/system/edgepipe-agent.service",
        "etc/sysusers.d/edgepipe.conf",
        "etc/edgepipe/agent.toml",
    }
    gone = here("agent", "uninstall", "--system", "--root", root, "--purge")
    assert gone.code == 0, gone.err
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_an_installation_that_the_systems_user_cannot_read_is_refused(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    python = private / "python"
    python.touch(mode=0o755)
    with pytest.raises(ServiceError, match=r"^The user edgepipe may not read .*: install edgepipe"):
        check_readable(python)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--name", "x", "install"), "--name stands before install: put it behind, as in .*"),
        (("install", "--user", "--system"), "--user and --system exclude each other: .*"),
        (("install", "--user", "--profile", "gpu-9g"), "There is no profile 'gpu-9g': take .*"),
        (("instal",), "No such command 'instal'.*"),
    ],
)
def test_wrong_use_is_said_in_one_sentence(
    here: Here, words: tuple[str, ...], sentence: str
) -> None:
    done = here("agent", *words)
    assert done.code == 2
    assert re.fullmatch(f"edgepipe: {sentence}\n", done.err)


# -------------------------------------------------------------------------- the managers' words


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("", ServiceState()),
        ("MainPID=0\nUnitFileState=\nActiveState=inactive\n", ServiceState()),
        (
            "MainPID=7\nUnitFileState=enabled\nActiveState=active\n",
            ServiceState(enabled=True, running=True, pid=7),
        ),
        ("MainPID=0\nUnitFileState=enabled\nActiveState=failed\n", ServiceState(enabled=True)),
        ("MainPID=7\nActiveState=deactivating\n", ServiceState(running=True, pid=7)),
    ],
)
def test_what_systemctl_says(said: str, state: ServiceState) -> None:
    assert from_systemctl(said) == state


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("", ServiceState()),
        ("edgepipe.agent = {\n\tstate = waiting\n}\n", ServiceState(enabled=True)),
        (
            "edgepipe.agent = {\n\tstate = running\n\tpid = 41\n}\n",
            ServiceState(enabled=True, running=True, pid=41),
        ),
    ],
)
def test_what_launchctl_says(said: str, state: ServiceState) -> None:
    assert from_launchctl(said) == state
