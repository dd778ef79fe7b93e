"""Reads an agent's settings, and says in one sentence what is wrong with them."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgepipe.agent.settings import AgentSettings
from edgepipe.errors import UsageError
from edgepipe.home import default_home

FILE_NAME = "agent.toml"
_MAX_FILE_BYTES = 1 << 20
_HIGHEST_PORT = 65535 - 64


def load_settings(flags: Mapping[str, Any], file: Path | None = None) -> AgentSettings:
    """The settings of an agent. Flags that are None, False or empty were not given.

    Args:
        flags: by the names of AgentSettings' fields.
        file: a TOML file; None for `agent.toml` in the home, where there is one.

    Raises:
        UsageError: something in them is wrong: which, and where.
    """
    given = {name: value for name, value in flags.items() if _is_given(value)}
    toml_file = file or _file_at_home(given.get("home"))
    if toml_file is not None:
        _check_file(toml_file)

    class Configured(AgentSettings, toml_file=toml_file):
        pass

    try:
        settings = Configured(**given)
    except ValidationError as error:
        raise UsageError(_sentence(error)) from None
    _check_together(settings)
    return AgentSettings.model_construct(**dict(settings))


def _is_given(value: object) -> bool:
    return value is not None and value is not False and value not in ("", (), [])


def _file_at_home(flag: object) -> Path | None:
    home = Path(str(flag or os.environ.get("EDGEPIPE_HOME") or default_home()))
    return home / FILE_NAME if (home / FILE_NAME).is_file() else None


def _check_file(file: Path) -> None:
    """That it can be read, is TOML, and has no key that no setting is called by."""
    try:
        with file.open("rb") as stream:
            keys = tomllib.loads(stream.read(_MAX_FILE_BYTES).decode())
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not valid TOML: {error}.") from None
    known = AgentSettings.model_fields
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1) or [", ".join(known)]
            raise UsageError(f"{file} sets '{key}', which is no setting: try {near[0]}.")


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    message = first["msg"][:1].lower() + first["msg"][1:]
    return f"The setting '{name}' is wrong: {message}, not {str(first['input'])[:80]!r}."


def _check_together(settings: AgentSettings) -> None:
    """Parse what is parsed on use, and refuse what contradicts itself."""
    _ = settings.peers, settings.memory_limits
    for address in (settings.listen, settings.advertise):
        if address is not None and address.port > _HIGHEST_PORT:
            raise UsageError(
                f"Port {address.port} leaves no room for the workers, which take the ports that "
                f"follow: use one up to {_HIGHEST_PORT}."
            )
    if settings.advertise is not None and settings.listen.port == 0:
        raise UsageError("--advertise needs a fixed port in --listen: port 0 changes every time.")
