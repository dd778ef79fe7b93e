"""A model's sizes, remembered: reading them off the meta device takes seconds of imports."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from edgepipe import __version__
from edgepipe.core import record
from edgepipe.core.model import ModelShape
from edgepipe.home import write_atomically

_METHOD = 2
"""Counts up with what is read of a model."""


def model_shape(name: str, config: dict[str, Any], *, home: Path) -> ModelShape:
    """The sizes of a model (slow the first time: call it in a thread). Raises ModelError."""
    text = json.dumps([__version__, _METHOD, name, config], sort_keys=True)
    path = home / "shapes" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
    if path.is_file():
        try:
            return record.from_json(ModelShape, json.loads(path.read_text()))
        except ValueError:
            path.unlink()
    from edgepipe.engine.torch.probe import model_shape as probe  # noqa: PLC0415 -- seconds

    shape = probe(name, config)
    write_atomically(path, json.dumps(record.to_json(shape)).encode())
    return shape
