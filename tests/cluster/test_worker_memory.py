"""A worker's memory while it trains, above its idle baseline, is what the plan says, to 15 %."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cluster.tiny_folder import write_folder
from equivalence.tiny_models import VOCABULARY, random_model
from rich.console import Console

from edgepipe.cli.training import ShownTraining
from edgepipe.coordinator.launch import Running, Where
from edgepipe.coordinator.planning import How
from edgepipe.coordinator.train_config import TrainConfig
from edgepipe.coordinator.train_config_file import read_train_config
from edgepipe.coordinator.train_job import train
from edgepipe.coordinator.train_loop import StepDone
from edgepipe.core.frame import Codec
from edgepipe.core.schedule_choice import Wish
from edgepipe.core.work import Objective, TrainMode

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks begin anew on Linux alone")

FIELDS = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 8000,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,
}
LENGTH, SEQUENCES, STEPS = 256, 8, 2
LARGE, SMALL = 4, 8
"""Microbatches of 512 rows, whose tensors are mapped, and of 256, whose tensors lie in the heap."""
DEADLINE_S = 280


@dataclass(slots=True)
class Seen:
    """What a run's stages are planned to hold, and what their workers held at most."""

    planned: list[int] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    baselines: list[int] = field(default_factory=list)


class Watching(ShownTraining):
    def __init__(self, seen: Seen) -> None:
        super().__init__(Console(stderr=True, quiet=True), quiet=True)
        self._seen = seen

    def starting(self, running: Running, config: TrainConfig) -> None:
        super().starting(running, config)
        stages, clients = running.plan.stages, running.pipeline.clients
        self._seen.planned = [stage.memory_bytes - stage.baseline_bytes for stage in stages]
        self._seen.baselines = [
            client.memory.baseline_bytes for client in clients if client.memory is not None
        ]

    def stepped(self, done: StepDone) -> None:
        self._seen.peaks = [report.peak_bytes for report in done.applied]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run, beside its model and its data."""
    folder: Path = tmp_path_factory.mktemp("trained")
    write_folder(folder / "model", random_model(FIELDS))
    draw = random.Random(0)
    lines = (
        " ".join(f"w{draw.randrange(VOCABULARY)}" for _ in range(LENGTH))
        for _ in range(SEQUENCES * STEPS)
    )
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in lines))
    (folder / "config.toml").write_text(f"""
model = "model"
steps = {STEPS}
output = "run"
[data]
path = "texts.jsonl"
eval_fraction = 0
sequence_length = {LENGTH}
[batch]
sequences = {SEQUENCES}
[run]
dtype = "float32"
""")
    return folder


@pytest.mark.parametrize(
    ("mode", "num_stages", "recompute", "microbatches"),
    [
        (TrainMode.LORA, 2, False, LARGE),
        *(
            pytest.param(mode, num_stages, recompute, microbatches, marks=pytest.mark.slow)
            for mode in TrainMode
            for num_stages in (1, 2)
            for recompute in (False, True)
            for microbatches in (LARGE, SMALL)
            if (mode, num_stages, recompute, microbatches) != (TrainMode.LORA, 2, False, LARGE)
        ),
    ],
)
async def test_a_worker_peaks_where_the_plan_says(
    folder: Path,
    session_home: Path,
    tmp_path: Path,
    *,
    mode: TrainMode,
    num_stages: int,
    recompute: bool,
    microbatches: int,
) -> None:
    settings = [
        f"mode={mode}",
        f"output={tmp_path / 'run'}",
        f"plan.recompute={recompute}".lower(),
        f"batch.microbatches={microbatches}",
    ]
    config = read_train_config(folder / "config.toml", settings)
    seen = Seen()
    how = How(objective=Objective.TRAIN, num_stages=num_stages, codec=Codec.NONE)
    where = Where(home=session_home, local=num_stages, threads=1)
    async with asyncio.timeout(DEADLINE_S):
        interface = Watching(seen)
        await train(config, where, how, wish=Wish(), resume=None, interface=interface)
    ratios = [
        (peak - baseline) / planned
        for peak, baseline, planned in zip(seen.peaks, seen.baselines, seen.planned, strict=True)
    ]
    assert all(0.85 <= ratio <= 1.15 for ratio in ratios), (ratios, seen)
