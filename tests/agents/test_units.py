"""The units are those of the real command, and of this machine's systemd."""

from __future__ import annotations

import plistlib
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from cluster.conftest import Edgepipe, end, port_of

from edgepipe.agent.configuration import load_settings
from edgepipe.agent.service.config import config_text
from edgepipe.agent.service.here import systemd_version
from edgepipe.agent.service.place import Manager, Place, system_place, user_place
from edgepipe.agent.service.shipped import profile, profiles, shipped
from edgepipe.agent.service.unit import SINCE, unit_text
from edgepipe.agent.settings import AgentSettings
from edgepipe.errors import UsageError

PYTHON = Path(sys.executable)
STOP_S = 30


def places(folder: Path) -> dict[str, Place]:
    """One of each kind, with homes and settings below `folder`."""
    own = {manager: folder / f"home of {manager}, 100%" for manager in Manager}
    of_users = {
        f"user's {manager}": user_place(manager, home=home, user=folder, environment={})
        for manager, home in own.items()
    }
    home = folder / "home-of-system"
    return {"systemd": replace(system_place(), home=home, config=home / "agent.toml"), **of_users}


def command(place: Place) -> list[str]:
    """What the service manager would start."""
    text = unit_text(place, python=PYTHON)
    if place.manager is Manager.LAUNCHD:
        return list(plistlib.loads(text.encode())["ProgramArguments"])
    (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    words = shlex.split(line.partition("=")[2])
    return [word.replace("%%", "%").replace("$$", "$") for word in words]


@pytest.fixture
def edgepipe(session_home: Path) -> Edgepipe:
    return Edgepipe(home=session_home)


@contextmanager
def started(edgepipe: Edgepipe, place: Place, name: str) -> Iterator[subprocess.Popen[str]]:
    """What a unit starts, with settings for tests."""
    place.home.mkdir()
    settings = {"listen": "127.0.0.1:0", "device": ["cpu"], "threads": 1, "name": name}
    place.config.write_text(config_text("cpu-only", settings))
    environment = {**edgepipe.environment}
    del environment["EDGEPIPE_HOME"]
    process = subprocess.Popen(command(place), env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        end(process)


def test_each_units_command_starts_an_agent(edgepipe: Edgepipe, tmp_path: Path) -> None:
    names = ["sol", "tea", "urs"]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(started(edgepipe, place, name))
            for name, place in zip(names, places(tmp_path).values(), strict=True)
        ]
        for process in processes:
            assert port_of(process) > 0
        for process in processes:
            process.terminate()
        assert [process.wait(STOP_S) for process in processes] == [0, 0, 0]
    for name, place in zip(names, places(tmp_path).values(), strict=True):
        assert (place.home / "nodes" / name / "id").is_file()


@pytest.mark.parametrize("kind", ["systemd", "user's systemd"])
def test_systemd_has_nothing_to_say_against_a_unit(kind: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze, of the package systemd")
    place = places(tmp_path)[kind]
    unit = tmp_path / place.unit.name
    unit.write_text(unit_text(place, python=PYTHON, systemd_version=systemd_version()))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_systemd_makes_the_user_and_its_groups(tmp_path: Path) -> None:
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("needs systemd-sysusers, of the package systemd")
    accounts = tmp_path / "edgepipe.conf"
    accounts.write_text(shipped("edgepipe-sysusers.conf"))
    (tmp_path / "etc").mkdir()
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", accounts], check=True, timeout=60)
    users = (tmp_path / "etc" / "passwd").read_text()
    groups = (tmp_path / "etc" / "group").read_text()
    assert "edgepipe:x:" in users
    assert ":/var/lib/edgepipe:" in users
    assert all(f"{group}:x:" in groups for group in ("edgepipe", "render", "video"))


def keys(place: Place, version: int | None) -> set[str]:
    text = unit_text(place, python=PYTHON, systemd_version=version)
    return {line.partition("=")[0] for line in text.splitlines() if "=" in line}


def test_older_versions_of_systemd_are_spared_what_they_do_not_know(tmp_path: Path) -> None:
    place = places(tmp_path)["systemd"]
    assert keys(place, 252) == keys(place, 254) - set(SINCE)
    assert keys(place, 254) == keys(place, None) >= set(SINCE)


def test_a_unit_gives_the_agent_more_time_than_it_takes(tmp_path: Path) -> None:
    longest_s = load_settings({"home": tmp_path}).grace_s + 30
    for kind in ("systemd", "user's systemd"):
        text = unit_text(places(tmp_path)[kind], python=PYTHON)
        (line,) = [line for line in text.splitlines() if line.startswith("TimeoutStopSec=")]
        assert int(line.partition("=")[2]) > longest_s
    plist = unit_text(places(tmp_path)["user's launchd"], python=PYTHON)
    assert plistlib.loads(plist.encode())["ExitTimeOut"] > longest_s


def options(unit: str) -> Iterator[tuple[str, str]]:
    for line in unit.splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.startswith("#"):
            yield key, value


def test_the_systems_unit_confines_the_agent_and_leaves_it_its_devices(tmp_path: Path) -> None:
    unit = dict(options(unit_text(places(tmp_path)["systemd"], python=PYTHON)))
    assert unit["ProtectSystem"] == "strict"
    assert unit["NoNewPrivileges"] == "yes"
    assert unit["CapabilityBoundingSet"] == ""
    assert "AF_NETLINK" in unit["RestrictAddressFamilies"].split()
    closes_devices = {"PrivateDevices", "ProtectClock", "DevicePolicy", "DeviceAllow"}
    assert not closes_devices & set(unit)
    assert "MemoryDenyWriteExecute" not in unit


def test_the_windows_script_says_that_it_is_untested() -> None:
    assert "UNTESTED:" in shipped("edgepipe-agent.ps1").split()


# --------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("name", profiles())
def test_a_profile_is_valid_and_says_something(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPIPE_HOME", str(tmp_path))
    defaults = load_settings({})
    file = tmp_path / "agent.toml"
    file.write_text(profile(name))
    given = tomllib.loads(profile(name))
    settings = load_settings({}, file)
    assert settings != defaults
    assert set(given) <= set(AgentSettings.model_fields)
    assert all(
        getattr(settings, key) == (tuple(value) if isinstance(value, list) else value)
        for key, value in given.items()
    )


def test_the_profiles_are_those_that_are_promised() -> None:
    assert profiles() == ("cpu-only", "gpu-24g", "gpu-8g", "macbook")
    with pytest.raises(UsageError, match=r"^There is no profile '../x': take cpu-only, "):
        profile("../x")


@pytest.mark.parametrize("base", [None, *profiles()])
def test_settings_that_are_given_take_the_place_of_others(base: str | None) -> None:
    given = {
        "name": "attic",
        "peer": ["10.0.0.2", "[fd00::22]:27700"],
        "device": ["cpu"],
        "threads": 2,
        "insecure": True,
        "interface": "eth0 \N{GRINNING FACE} \"'\\",
    }
    text = config_text(base, given)  # type: ignore[arg-type]
    assert {**tomllib.loads(config_text(base, {})), **given} == tomllib.loads(text)
