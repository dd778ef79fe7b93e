"""The agent.toml of an installation: the annotated one or a profile, and a few settings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from edgepipe.agent.service.shipped import profile, shipped

Setting = str | int | float | bool | list[str]


def config_text(profile_name: str | None, settings: Mapping[str, Setting]) -> str:
    """What to write: `settings` stand at the end, and nowhere else.

    Raises:
        UsageError: there is no such profile.
    """
    text = shipped("agent.toml") if profile_name is None else profile(profile_name)
    for name in settings:
        text = re.sub(rf"^{name} = .*\n", "", text, flags=re.MULTILINE)
    lines = [f"{name} = {_toml(value)}\n" for name, value in settings.items()]
    told = "\n# Given to `edgepipe agent install`.\n" if lines else ""
    return text + told + "".join(lines)


def _toml(value: Setting) -> str:
    """What JSON writes of text, numbers, truth and lists of text is TOML too."""
    return json.dumps(value, ensure_ascii=False)
