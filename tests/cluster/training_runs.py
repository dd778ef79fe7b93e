"""Training runs over real agents, and the same batches for a plain loop."""

from __future__ import annotations

import copy
import json
import random
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cluster.tiny_folder import write_folder
from equivalence.plain_training import Settings, plain_training
from equivalence.tiny_models import VOCABULARY
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from edgepipe.coordinator.checkpoints import Checkpoint, latest, read_checkpoint
from edgepipe.core.dataset import microbatches
from edgepipe.core.shuffle import Cursor, next_batch

SEED = 7
SEQUENCES = 8
MICROBATCHES = 3
NUM_TEXTS = 21
"""An epoch is of batches of 8, 8 and 5 sequences."""
PLAIN = Settings(steps=20, learning_rate=1e-4, warmup_steps=3, weight_decay=0.1, clip_norm=1.0)
RANK, ALPHA = 4, 8
CONFIG = f"""
seed = {SEED}
steps = {PLAIN.steps}
output = "run"

[data]
path = "texts.jsonl"
eval_fraction = 0
sequence_length = 64

[batch]
sequences = {SEQUENCES}
microbatches = {MICROBATCHES}

[optimizer]
learning_rate = {PLAIN.learning_rate}
warmup_steps = {PLAIN.warmup_steps}
weight_decay = {PLAIN.weight_decay}
clip_norm = {PLAIN.clip_norm}

[run]
dtype = "float32"
checkpoint_every = 5
keep_checkpoints = 0

[plan]
codec = "none"
"""
LORA = f"""
[lora]
rank = {RANK}
alpha = {ALPHA}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is learned, by which model: config files for both modes, and the texts' tokens."""

    folder: Path
    texts: Sequence[Sequence[int]]

    @property
    def full(self) -> Path:
        return self.folder / "full.toml"

    @property
    def lora(self) -> Path:
        return self.folder / "lora.toml"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def batches(self) -> Iterator[Sequence[Sequence[Sequence[int]]]]:
        """The microbatches of every step."""
        cursor = Cursor()
        for _ in range(PLAIN.steps):
            indices, cursor = next_batch(cursor, len(self.texts), SEQUENCES, seed=SEED)
            chosen = [self.texts[index] for index in indices]
            yield microbatches(chosen, min(MICROBATCHES, len(chosen)))


def course(folder: Path, model: Any) -> Course:
    """Of a tiny model, and texts of unequal lengths."""
    draw = random.Random(SEED)
    texts = [
        [draw.randrange(VOCABULARY) for _ in range(draw.randrange(3, 20))] for _ in range(NUM_TEXTS)
    ]
    write_folder(folder / "model", model)
    return write_course(folder, texts, [" ".join(f"w{token}" for token in text) for text in texts])


def write_course(
    folder: Path, texts: Sequence[Sequence[int]], lines: Sequence[str], *, model: str = "model"
) -> Course:
    """`lines` are the texts as they read, `model` is in the folder or has a name."""
    data = "".join(json.dumps({"text": line}) + "\n" for line in lines)
    (folder / "texts.jsonl").write_text(data)
    found = Course(folder=folder, texts=texts)
    found.full.write_text(f'model = "{model}"\nmode = "full"\n{CONFIG}')
    found.lora.write_text(f'model = "{model}"\nmode = "lora"\n{CONFIG}{LORA}')
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the plain loop came to."""

    losses: list[float]
    weights: Mapping[str, torch.Tensor]


def expected(model: Any, found: Course) -> Expected:
    """Train a copy of a whole model."""
    model = copy.deepcopy(model)
    losses = plain_training(model, found.batches(), PLAIN)
    weights = {plain(name): p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return Expected(losses=losses, weights=weights)


def adapted(model: Any, adapters: Mapping[str, torch.Tensor]) -> Any:
    """PEFT's own model of a copy, which begins with these adapters."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own deprecations
        whole = get_peft_model(copy.deepcopy(model), config)
    own = {plain(name): p for name, p in whole.named_parameters() if p.requires_grad}
    assert own.keys() == adapters.keys()
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(adapters[name])
    return whole


def plain(name: str) -> str:
    """A parameter's name without what PEFT adds to it."""
    return name.removeprefix("base_model.model.").replace(".default.", ".")


# ----------------------------------------------------------------------------------- what is left


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run's folder."""

    path: Path

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]

    @property
    def losses(self) -> list[float]:
        return [line["loss"] for line in self.metrics]

    @property
    def stages(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.path / "plan.json").read_text())["stages"]
        return found

    def checkpoint(self, step: int | None = None) -> Checkpoint:
        """That of a step, or the last; every file's hash is checked."""
        return read_checkpoint(self.path, latest(self.path) if step is None else step)

    def weights(self, step: int | None = None) -> dict[str, torch.Tensor]:
        """What is trained, without the optimizer's moments."""
        files = (load_file(path) for path in self.checkpoint(step).paths)
        return {name: value for file in files for name, value in file.items() if "#" not in name}

    def stopped_after(self, step: int, path: Path) -> Run:
        """A copy, as if it had been killed after a checkpoint."""
        shutil.copytree(self.path, path)
        for folder in (path / "checkpoints").iterdir():
            if int(folder.name.removeprefix("step-")) > step:
                shutil.rmtree(folder)
        return Run(path=path)


def expect_equal(run: Run, want: Expected) -> None:
    """Losses to 1e-5, and every parameter to 1e-4."""
    expect_losses(run.losses, want.losses)
    weights = run.weights()
    assert weights.keys() == want.weights.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, want.weights[name], atol=1e-4, rtol=0, msg=name)


def expect_losses(losses: Sequence[float], want: Sequence[float]) -> None:
    """To 1e-5, step by step."""
    one, two = (torch.tensor(each, dtype=torch.float64) for each in (losses, want))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
