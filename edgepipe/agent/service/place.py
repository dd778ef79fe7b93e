"""Where an agent's service lives: for the whole machine, or for one user.

systemd, system                            systemd, user               launchd
unit         /etc/systemd/system/edgepipe-agent.service ~/.config/systemd/user/…    ~/Library/…
settings     /etc/edgepipe/agent.toml                   <home>/agent.toml           the same
home         /var/lib/edgepipe                          EDGEPIPE_HOME               the same
runs as      the user edgepipe                          the user                    the user
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

UNIT = "edgepipe-agent.service"
LABEL = "edgepipe.agent"


class Manager(StrEnum):
    """What starts a machine's services."""

    SYSTEMD = "systemd"
    LAUNCHD = "launchd"


class Scope(StrEnum):
    """Whose service it is."""

    SYSTEM = "system"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The files of one installation. `accounts` tells systemd-sysusers of the service's user."""

    manager: Manager
    scope: Scope
    unit: Path
    config: Path
    home: Path
    accounts: Path | None = None

    @property
    def template(self) -> str:
        """The shipped file that the unit is made from."""
        if self.manager is Manager.LAUNCHD:
            return f"{LABEL}.plist"
        return UNIT if self.scope is Scope.SYSTEM else "edgepipe-agent-user.service"


def system_place() -> Place:
    """Of a service of the whole machine."""
    return Place(
        manager=Manager.SYSTEMD,
        scope=Scope.SYSTEM,
        unit=Path("/etc/systemd/system") / UNIT,
        config=Path("/etc/edgepipe/agent.toml"),
        home=Path("/var/lib/edgepipe"),
        accounts=Path("/etc/sysusers.d/edgepipe.conf"),
    )


def user_place(
    manager: Manager, *, home: Path, user: Path, environment: Mapping[str, str]
) -> Place:
    """Of a service of the user whose own folder is `user`; edgepipe's `home` is another."""
    if manager is Manager.LAUNCHD:
        unit = user / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    else:
        config = Path(environment.get("XDG_CONFIG_HOME") or user / ".config")
        unit = config / "systemd" / "user" / UNIT
    return Place(
        manager=manager, scope=Scope.USER, unit=unit, config=home / "agent.toml", home=home
    )
