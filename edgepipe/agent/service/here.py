"""This machine's service manager: which it is, and how it is told."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgepipe.agent.service.place import LABEL, UNIT, Manager, Place, Scope
from edgepipe.agent.service.state import SHOWN, ServiceState, from_launchctl, from_systemctl
from edgepipe.errors import ServiceError, UsageError

COMMAND_DEADLINE_S = 240.0
"""`systemctl restart` returns once the agent is ready, which its unit gives 180 s."""
_BOOTED = Path("/run/systemd/system")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One call of the service manager. `may_fail`: there may be nothing that it could do."""

    words: tuple[str, ...]
    may_fail: bool = False

    def __str__(self) -> str:
        """As one would type it."""
        return shlex.join(self.words)


def manager_of_platform() -> Manager:
    """What starts services on this system. Raises ServiceError where we have no files for it."""
    if sys.platform == "linux":
        return Manager.SYSTEMD
    if sys.platform == "darwin":
        return Manager.LAUNCHD
    raise ServiceError(
        "edgepipe has no service for this system of its own: on Windows run edgepipe-agent.ps1 of "
        "the package's folder agents, elsewhere have `edgepipe agent` started with the machine."
    )


def default_scope(manager: Manager) -> Scope:
    """Of the whole machine for root on Linux, else of the user."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    return Scope.SYSTEM if is_root and manager is Manager.SYSTEMD else Scope.USER


def check_scope(manager: Manager, scope: Scope) -> None:
    """Raises UsageError where this user cannot have such a service here."""
    if scope is not Scope.SYSTEM:
        return
    if manager is Manager.LAUNCHD:
        raise UsageError("On macOS the agent is a service of its user: leave --system out.")
    if os.geteuid() != 0:
        raise UsageError("--system needs root: run it with sudo, or use --user.")


def is_running(manager: Manager, scope: Scope) -> bool:
    """Whether the service manager runs here, and can be told something."""
    if manager is Manager.LAUNCHD:
        return shutil.which("launchctl") is not None
    if shutil.which("systemctl") is None or not _BOOTED.is_dir():
        return False
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return scope is Scope.SYSTEM or (Path(runtime) / "systemd" / "private").exists()


def require_running(manager: Manager, scope: Scope) -> None:
    """Raises ServiceError, with what to do instead, where no service manager runs here."""
    if not is_running(manager, scope):
        raise ServiceError(without(manager, scope))


def without(manager: Manager, scope: Scope) -> str:
    """What to do where no service manager runs."""
    whose = " of your own" if scope is Scope.USER else ""
    return (
        f"No {manager}{whose} runs here: have `edgepipe agent` started by whatever starts programs "
        "on this machine, such as a container's entry point or cron's @reboot."
    )


def systemd_version() -> int | None:
    """Of the systemd here, None where it does not say."""
    if shutil.which("systemctl") is None:
        return None
    said = run(Command(words=("systemctl", "--version"), may_fail=True))
    found = re.match(r"systemd (\d+)", said)
    return int(found[1]) if found else None


def start_commands(place: Place) -> Sequence[Command]:
    """Enable and start what is installed, anew where it runs."""
    if place.manager is Manager.LAUNCHD:
        return (
            Command(words=("launchctl", "bootout", f"{_domain()}/{LABEL}"), may_fail=True),
            Command(words=("launchctl", "bootstrap", _domain(), str(place.unit))),
        )
    systemctl = _systemctl(place)
    paths = () if place.accounts is None else (str(place.accounts),)
    return (
        *(Command(words=("systemd-sysusers", path)) for path in paths),
        Command(words=(*systemctl, "daemon-reload")),
        Command(words=(*systemctl, "enable", UNIT)),
        Command(words=(*systemctl, "restart", UNIT)),
    )


def stop_commands(place: Place) -> Sequence[Command]:
    """Stop it, for good."""
    if place.manager is Manager.LAUNCHD:
        return (Command(words=("launchctl", "bootout", f"{_domain()}/{LABEL}"), may_fail=True),)
    return (Command(words=(*_systemctl(place), "disable", "--now", UNIT)),)


def forget_commands(place: Place) -> Sequence[Command]:
    """Once its unit is gone."""
    if place.manager is Manager.LAUNCHD:
        return ()
    return (Command(words=(*_systemctl(place), "daemon-reload")),)


def state(place: Place) -> ServiceState:
    """What the service manager says of it."""
    if place.manager is Manager.LAUNCHD:
        asked = Command(words=("launchctl", "print", f"{_domain()}/{LABEL}"), may_fail=True)
        return from_launchctl(run(asked))
    asked = Command(words=(*_systemctl(place), "show", UNIT, "--property", SHOWN), may_fail=True)
    return from_systemctl(run(asked))


def run(command: Command) -> str:
    """Its standard output. Raises ServiceError unless it succeeds, or may fail."""
    try:
        done = subprocess.run(  # noqa: S603 -- our own words
            command.words,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_DEADLINE_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceError(f"`{command}` does not work here: {error}.") from None
    if done.returncode != 0 and not command.may_fail:
        said = " ".join(done.stderr.split()) or f"it ended with code {done.returncode}"
        raise ServiceError(f"`{command}` failed: {said}")
    return done.stdout


def _systemctl(place: Place) -> tuple[str, ...]:
    return ("systemctl",) if place.scope is Scope.SYSTEM else ("systemctl", "--user")


def _domain() -> str:
    return f"gui/{os.getuid()}"
