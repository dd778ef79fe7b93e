"""A run that is resumed goes on where it was in its data: which must be the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgepipe.coordinator.train_config import TrainConfig
from edgepipe.coordinator.train_config_file import read_train_config
from edgepipe.errors import UsageError


def check_same_data(resume: Path, config: TrainConfig) -> None:
    """Raise UsageError where a config's batches are not those of the run that it goes on with."""
    own = resume / "config.toml"
    before, now = _of(read_train_config(own)), _of(config)
    for key, value in now.items():
        if value != before[key]:
            raise UsageError(
                f"{key} is not what it was when the run was at its checkpoint: go on with the "
                f"run's own {own}, or start a new run"
            )


def _of(config: TrainConfig) -> dict[str, Any]:
    """What decides which examples a step learns from, beside the seed."""
    data = config.data
    return {
        "[data] path": [path.resolve() for path in data.path],
        "[data] eval_path": data.eval_path.resolve() if data.eval_path is not None else None,
        "[data] eval_fraction": data.eval_fraction,
        "[data] format": data.format,
        "[data] sequence_length": data.sequence_length,
        "[data] packing": data.packing,
        "[batch] sequences": config.batch.sequences,
    }
