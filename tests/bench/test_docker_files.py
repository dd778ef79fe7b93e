"""docker/: the settings are the ones that are listed, and the commands are real ones."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from edgepipe.cli import app

DOCKER = Path(__file__).parents[2] / "docker"
PROJECTS = [DOCKER / "compose.yaml", DOCKER / "compose.gpu.yaml"]
SETTING = re.compile(r"\$\{(\w+):-([^}]*)\}")
BY_COMPOSE = {"COMPOSE_PROJECT_NAME"}
BY_PROJECT = {"EDGEPIPE_IMAGE"}
"""Whose default is another one in compose.gpu.yaml."""


def services(project: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(SETTING.sub(r"\2", project.read_text()))["services"]
    return found


def test_every_setting_is_listed_with_its_default() -> None:
    listed = dict(re.findall(r"^#(\w+)=(.*)$", (DOCKER / ".env.example").read_text(), re.MULTILINE))
    assert {*listed} - BY_COMPOSE == {
        name for project in PROJECTS for name, _ in SETTING.findall(project.read_text())
    }
    for name, default in SETTING.findall(PROJECTS[0].read_text()):
        assert listed[name] == default, name
    for name, default in SETTING.findall(PROJECTS[1].read_text()):
        assert name in BY_PROJECT or listed[name] == default, name


@pytest.mark.parametrize("project", PROJECTS, ids=lambda path: path.name)
def test_the_containers_run_commands_with_options_that_there_are(project: Path) -> None:
    group: Any = typer.main.get_command(app)
    for service in services(project).values():
        command = service["command"]
        name, *rest = shlex.split(command) if isinstance(command, str) else command
        group.commands[name].make_context(name, list(rest))
