"""Going on with a run: from which checkpoint, and by which plan."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgepipe.coordinator.checkpoints import Checkpoint, latest, read_checkpoint, steps
from edgepipe.coordinator.manifest import config_hash
from edgepipe.coordinator.planning import How
from edgepipe.coordinator.prepared import Prepared
from edgepipe.coordinator.train_config import TrainConfig
from edgepipe.core.pipeline import Plan
from edgepipe.core.training import Adapters
from edgepipe.errors import CheckpointError, PlanError


def last_checkpoint(
    resume: Path, config: TrainConfig, prepared: Prepared, adapters: Adapters | None
) -> Checkpoint | None:
    """The one to go on from; None of a run that ended before its first.

    Raises CheckpointError where it is of another model, mode or seed.
    """
    if not steps(resume):
        return None
    found = read_checkpoint(resume, latest(resume))
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
    return found


def keeping_plan(how: How, resume: Path) -> How:
    """How to plan for a run that is resumed: as before, where that is what is asked for now."""
    plan = _read_plan(resume / "plan.json")
    if plan is None or how.pinned is not None or not _suits(plan, how):
        return how
    return replace(how, preferred=plan)


def _read_plan(file: Path) -> Plan | None:
    """The plan of a run; None where it has none that can be read: it is planned anew."""
    try:
        return Plan.from_json(json.loads(file.read_text()))
    except (OSError, ValueError, PlanError):
        return None


def _suits(plan: Plan, how: How) -> bool:
    """Whether a plan has all that is asked for."""
    asked: list[tuple[Any, Any]] = [
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
