"""A resumed run's cursor counts its own data: another config's is refused, by the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepipe.coordinator.same_data import check_same_data
from edgepipe.coordinator.train_config_file import parse_train_config
from edgepipe.errors import UsageError

TEXT = """
model = "smollm2-135m"
steps = 40
[data]
path = "texts.jsonl"
sequence_length = 64
[batch]
sequences = 4
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose config has the same path, written out."""
    folder = tmp_path / "run"
    folder.mkdir()
    written = parse_train_config(TEXT, tmp_path / "asked.toml").to_toml()
    (folder / "config.toml").write_text(written)
    return folder


@pytest.mark.parametrize("setting", [(), ("steps=80",), ("batch.microbatches=2",)])
def test_the_same_data_goes_on(run: Path, setting: tuple[str, ...]) -> None:
    check_same_data(run, parse_train_config(TEXT, run.parent / "asked.toml", setting))


def test_a_path_may_be_written_in_another_way(run: Path) -> None:
    (run.parent / "link").symlink_to(run.parent)
    check_same_data(run, parse_train_config(TEXT, run.parent / "link" / "asked.toml"))


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("data.path=more.jsonl", "[data] path"),
        ("data.eval_path=held.jsonl", "[data] eval_path"),
        ("data.eval_fraction=0.25", "[data] eval_fraction"),
        ("data.format=text", "[data] format"),
        ("data.sequence_length=32", "[data] sequence_length"),
        ("data.packing=true", "[data] packing"),
        ("batch.sequences=8", "[batch] sequences"),
    ],
)
def test_other_data_is_refused_by_its_key(run: Path, setting: str, key: str) -> None:
    other = parse_train_config(TEXT, run.parent / "asked.toml", [setting])
    with pytest.raises(UsageError) as caught:
        check_same_data(run, other)
    assert str(caught.value).startswith(f"{key} is not what it was")
    assert str(run / "config.toml") in str(caught.value)
