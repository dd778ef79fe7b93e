"""The annotated examples: they load, name every setting, and tell the truth about defaults."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from edgepipe.coordinator.train_config import LoraConfig, TrainConfig
from edgepipe.coordinator.train_config_file import parse_train_config, read_train_config
from edgepipe.core.work import TrainMode

FOLDER = Path(__file__).parents[2] / "docs" / "examples"
LORA, FULL = FOLDER / "lora.toml", FOLDER / "full.toml"
SETTING = re.compile(r"#?(?P<key>\w+) = (?P<value>.+?) +# (?P<comment>.+)")


def written(file: Path) -> Iterator[tuple[str, str, str]]:
    """Each setting as `section.key`, its value and its comment, commented out or not."""
    section = ""
    for line in file.read_text().splitlines():
        if line.startswith("["):
            section = line[1 : line.index("]")] + "."
        elif (match := SETTING.fullmatch(line)) is not None:
            yield section + match["key"], match["value"], match["comment"]
        else:
            assert not line or line.startswith(("# ", "#\n")) or line == "#", line


def keys(kind: type) -> Iterator[str]:
    hints = get_type_hints(kind)
    for field in fields(kind):
        inner = LoraConfig if field.name == "lora" else hints[field.name]
        if is_dataclass(inner) and kind is TrainConfig:
            yield from (f"{field.name}.{key}" for key in keys(inner))  # type: ignore[arg-type]
        else:
            yield field.name


@pytest.mark.parametrize(("file", "mode"), [(LORA, TrainMode.LORA), (FULL, TrainMode.FULL)])
def test_an_example_is_a_config(file: Path, mode: TrainMode) -> None:
    config = read_train_config(file)
    assert config.mode is mode
    assert config.output.parent == FOLDER / "runs"
    assert all(path.is_file() for path in config.data.path)


def test_every_setting_is_in_one_of_them() -> None:
    there = {key for file in (LORA, FULL) for key, _, _ in written(file)}
    assert there == set(keys(TrainConfig))


@pytest.mark.parametrize("file", [LORA, FULL])
def test_what_is_commented_out_is_valid_too(file: Path) -> None:
    text = re.sub(r"^#(\w+ = )", r"\1", file.read_text(), flags=re.MULTILINE)
    exclusive = re.sub(r"^(eval_fraction|strategy) = .*$", "", text, flags=re.MULTILINE)
    assert parse_train_config(exclusive, file).plan is not None


def defaults() -> dict[str, Any]:
    """What the config has where only the model and the data are named, as TOML has it."""
    config = parse_train_config('model = "m"\n[data]\npath = "p"\n', Path("/x.toml"))
    document = tomllib.loads(config.to_toml())
    flat: dict[str, Any] = {}
    for key, value in document.items():
        inner = value if isinstance(value, dict) else {"": value}
        flat |= {f"{key}.{name}".rstrip("."): each for name, each in inner.items()}
    return flat | {"plan.codec": "auto"}


BY_RULE = {"output", "optimizer.learning_rate", "optimizer.warmup_steps"}
REQUIRED = {"model", "data.path"}


@pytest.mark.parametrize("file", [LORA, FULL])
def test_each_comment_tells_the_default(file: Path) -> None:
    actual = defaults()
    for key, value, comment in written(file):
        if key in REQUIRED:
            assert comment.endswith("Required.")
        elif key not in BY_RULE:
            default = comment.partition(" Default: ")[2].removesuffix(".")
            stated = None if default == "none" else tomllib.loads(f"x = {default}")["x"]
            assert (key, stated) == (key, actual.get(key))
            assert file.read_text().count(f"#{key.rpartition('.')[2]} = ") == 0 or (
                stated is None or tomllib.loads(f"x = {value}")["x"] == stated
            )
