"""What a run has trained, as others read it: a PEFT adapter, or a Hugging Face folder.

Everything here blocks on the disk, and computes: call it in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from edgepipe.coordinator.adapter import PREFIX, WEIGHTS_NAME
from edgepipe.coordinator.checkpoints import Checkpoint, latest, read_checkpoint
from edgepipe.coordinator.manifest import config_hash
from edgepipe.coordinator.model_folder import Shard, write_weights
from edgepipe.coordinator.models import Model, resolve
from edgepipe.coordinator.trained_model import Progress, write_model
from edgepipe.core.frame import DType
from edgepipe.core.lora import module_of
from edgepipe.core.training import Adapters
from edgepipe.engine.state_file import Described
from edgepipe.engine.torch.assembly import Assembly
from edgepipe.engine.torch.merging import read_adapters
from edgepipe.errors import CheckpointError, UsageError
from edgepipe.home import folder_atomically


class Kind(StrEnum):
    """What an export is."""

    ADAPTER = "adapter"
    MODEL = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written, and from what; with `is_changed` the base is not quite what was trained."""

    kind: Kind
    output: Path
    step: int
    model: str
    is_changed: bool


def export(
    run: Path, output: Path, *, home: Path, step: int | None, merge: bool, progress: Progress
) -> Exported:
    """Write what the last checkpoint of a run holds, or that of a step, to a new folder.

    With `merge`, and wherever all weights were trained, it is the whole model.

    Raises:
        UsageError: there is something at `output`.
        CheckpointError: the checkpoint is not there, or not whole, or the disk takes no more.
        ModelError: the model that was trained is not there any more, or another.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is there already: give --output a new folder")
    wanted = latest(run) if step is None else step
    checkpoint = read_checkpoint(
        run, wanted, lambda done, total: progress("reading the checkpoint", done, total)
    )
    manifest = checkpoint.manifest
    model = resolve(manifest.model, home=home)
    if merge or manifest.adapters is None:
        kind = Kind.MODEL
        with _new_folder(output) as folder:
            write_model(checkpoint, model, folder, home=home, progress=progress)
    else:
        kind = Kind.ADAPTER
        with _new_folder(output) as folder:
            _write_adapter(checkpoint, manifest.adapters, model, folder)
    return Exported(
        kind=kind,
        output=output,
        step=wanted,
        model=manifest.model,
        is_changed=config_hash(model.config) != manifest.config_sha256,
    )


def _write_adapter(checkpoint: Checkpoint, adapters: Adapters, model: Model, folder: Path) -> None:
    from peft import LoraConfig  # noqa: PLC0415 -- seconds

    tensors = read_adapters(checkpoint.paths)
    modules = {module for name in tensors if (module := module_of(name)) is not None}
    assembly = Assembly(model.config, DType.FLOAT32)
    config = LoraConfig(
        r=adapters.rank,
        lora_alpha=_whole(adapters.alpha),
        lora_dropout=adapters.dropout,
        target_modules=list(adapters.target_modules),
        fan_in_fan_out=assembly.has_transposed(modules),
        task_type="CAUSAL_LM",
        base_model_name_or_path=checkpoint.manifest.model,
        inference_mode=True,
    )
    described = [
        Described(name=PREFIX + name, dtype=tensor.dtype, shape=tuple(tensor.shape))
        for name, tensor in tensors.items()
    ]
    shard = Shard(name=WEIGHTS_NAME, tensors=tuple(described))
    write_weights(folder, [shard], ((PREFIX + name, tensors[name]) for name in tensors))
    config.save_pretrained(str(folder))


def _whole(alpha: float) -> int | float:
    """PEFT has whole numbers, as far as it goes."""
    return int(alpha) if alpha == int(alpha) else alpha


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """A folder to fill, which is at `output` once it is full."""
    try:
        with folder_atomically(output.absolute()) as aside:
            yield aside
            aside.chmod(0o755)
    except OSError as error:
        raise CheckpointError(
            f"The export cannot be written to {output} ({error.strerror}): make room there, or "
            "give another --output."
        ) from error
