"""Going on with a run: from which checkpoint, and by which plan."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgepipe.coordinator.checkpoints import Checkpoint, newest_sound
from edgepipe.coordinator.manifest import config_hash
from edgepipe.coordinator.planning import How
from edgepipe.coordinator.prepared import Prepared
from edgepipe.coordinator.same_data import check_same_data
from edgepipe.coordinator.train_config import TrainConfig
from edgepipe.core.model import ModelShape
from edgepipe.core.pipeline import Plan
from edgepipe.core.training import Adapters
from edgepipe.errors import CheckpointError, PlanError


def last_checkpoint(
    resume: Path, config: TrainConfig, prepared: Prepared, adapters: Adapters | None
) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The one to go on from, and why not from a later one; None of a run that ended before.

    Raises CheckpointError where it is of another model, mode or seed, or none is sound, and
    UsageError where the config learns from something else.
    """
    found, refused = newest_sound(resume)
    if found is None:
        return None, ()
    manifest = found.manifest
    asked = {
        "mode": (config.mode, manifest.mode),
        "layers": (prepared.shape.num_layers, manifest.num_layers),
        "model": (config_hash(prepared.model.config), manifest.config_sha256),
        "lora settings": (adapters, manifest.adapters),
        "seed": (config.seed, manifest.seed),
    }
    for what, (ours, theirs) in asked.items():
        if ours != theirs:
            raise CheckpointError(
                f"{found.folder} is of another {what} than the config: go on with the run's own "
                f"{resume / 'config.toml'}, or start a new one"
            )
    check_same_data(resume, config)
    return found, refused


def keeping_plan(how: How, resume: Path, shape: ModelShape) -> How:
    """How to plan for a run that is resumed: as before, where that is what is asked for now."""
    plan = _read_plan(resume / "plan.json")
    if plan is None or how.pinned is not None or not _suits(plan, how, shape):
        return how
    return replace(how, preferred=plan)


def _read_plan(file: Path) -> Plan | None:
    """The plan of a run; None where it has none that can be read: it is planned anew."""
    try:
        return Plan.from_json(json.loads(file.read_text()))
    except (OSError, ValueError, PlanError):
        return None


def _suits(plan: Plan, how: How, shape: ModelShape) -> bool:
    """Whether a plan is of the model, and has all that is asked for."""
    asked: list[tuple[Any, Any]] = [
        (shape.name, plan.model),
        (shape.num_layers, plan.num_layers),
        (how.batch, plan.inputs.batch),
        (how.dtype, plan.inputs.dtype),
        (how.strategy, plan.strategy),
        (how.num_stages, len(plan.stages)),
        (how.nodes, tuple(stage.node for stage in plan.stages)),
        (how.split, tuple(stage.first for stage in plan.stages[1:])),
    ]
    for sender, receiver in pairwise(plan.stages):
        asked.append((how.codec, sender.codec_forward))
        asked.append((how.codec_backward, receiver.codec_backward))
    return all(wanted in {None, found} for wanted, found in asked)
