"""What a stage takes while it trains is what the plan says, with a heap as workers have it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from equivalence.tiny_models import config_dict
from safetensors.torch import save_file

from edgepipe.agent.worker_process import UNCACHED_HEAP
from edgepipe.core.frame import DType
from edgepipe.core.training_fit import (
    LIBRARY_BYTES,
    MAPPED_BYTES,
    Footprint,
    held_bytes,
    inflight_bytes,
)
from edgepipe.core.work import Batch, TrainMode
from edgepipe.engine.torch.architecture import build_on_meta, read_config
from edgepipe.engine.torch.probe import model_shape

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.slow,
]

MEASURE = Path(__file__).parent / "train_and_measure.py"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(sys.path),
    "OMP_NUM_THREADS": "1",
    "GLIBC_TUNABLES": UNCACHED_HEAP,
    "MALLOC_MMAP_THRESHOLD_": str(MAPPED_BYTES),
    "THP_MEM_ALLOC_ENABLE": "1",
}
MIB = 1 << 20
LAYERS = 8
FIELDS = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 16000,
    "bos_token_id": None,
    "eos_token_id": None,
}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LENGTH, RANK = 256, 16


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = build_on_meta(read_config(config_dict(FIELDS)), DType.FLOAT32)
    path: Path = tmp_path_factory.mktemp("parts") / "model.safetensors"
    state = model.state_dict().items()
    save_file({name: 0.02 * torch.randn(meta.shape) for name, meta in state}, path)
    return path


def measured_bytes(asked: dict[str, Any], folder: Path) -> int:
    described = folder / "asked.json"
    described.write_text(json.dumps(asked), encoding="utf-8")
    command = [sys.executable, str(MEASURE), str(described)]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=280, check=False, env=ENVIRONMENT
    )
    assert result.returncode == 0, result.stderr
    measured = json.loads(result.stdout)
    return int(measured["peak"] - measured["baseline"])


@pytest.mark.parametrize("sequences", [1, 4])
@pytest.mark.parametrize(("first", "end"), [(2, 6), (4, 8)])
@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("mode", TrainMode)
def test_the_peak_is_within_15_percent_of_the_plan(
    weights: Path,
    tmp_path: Path,
    *,
    mode: TrainMode,
    recompute: bool,
    first: int,
    end: int,
    sequences: int,
) -> None:
    config = config_dict(FIELDS)
    inflight = 2
    asked = {
        "config": config,
        "first": first,
        "end": end,
        "embedding": first == 0,
        "head": end == LAYERS,
        "dtype": "float32",
        "weights": [str(weights)],
        "mode": mode,
        "recompute": recompute,
        "inflight": inflight,
        "sequences": sequences,
        "sequence_length": LENGTH,
        "rank": RANK,
        "dropout": 0.0,
        "target_modules": LINEAR,
    }
    footprint = Footprint(
        model=model_shape("wide", config),
        dtype=DType.FLOAT32,
        batch=Batch(mode=mode, sequences=8, sequence_length=LENGTH, rank=RANK),
        rows=sequences * LENGTH,
        recompute=recompute,
    )
    planned = held_bytes(footprint)[first, end] + inflight * inflight_bytes(footprint)[first, end]
    planned -= LIBRARY_BYTES  # its warm-up is of training
    ratio = measured_bytes(asked, tmp_path) / int(planned)
    assert 0.85 <= ratio <= 1.15, f"{ratio:.2f} of {int(planned) / MIB:.0f} MiB"
