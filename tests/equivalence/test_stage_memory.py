"""The contract: a worker peaks at its idle baseline + 1.3 times its weights + 64 MiB at most."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from equivalence.tiny_models import Parts, config_dict
from safetensors.torch import save_file

from edgepipe.engine.torch.probe import model_shape

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MEASURE = Path(__file__).parent / "load_and_measure.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

WIDE_LLAMA = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 16000,
    "dtype": "bfloat16",
    "tie_word_embeddings": True,
}


def measure(folder: Path, **spec: Any) -> dict[str, int]:
    described = folder / "spec.json"
    described.write_text(json.dumps(spec), encoding="utf-8")
    command = [sys.executable, str(MEASURE), str(described)]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=ENVIRONMENT
    )
    assert result.returncode == 0, result.stderr
    measured: dict[str, int] = json.loads(result.stdout)
    return measured


def check(measured: dict[str, int]) -> None:
    allowed = measured["baseline"] + 1.3 * measured["weights"] + (64 << 20)
    assert measured["peak"] <= allowed, measured


@pytest.mark.parametrize(
    ("first", "end", "embedding", "head"),
    [
        (10, 20, False, False),
        pytest.param(0, 0, True, False, marks=pytest.mark.slow),
        pytest.param(20, 30, False, True, marks=pytest.mark.slow),
    ],
)
def test_a_stage_of_a_gguf_model(
    smollm2: Parts, tmp_path: Path, first: int, end: int, *, embedding: bool, head: bool
) -> None:
    own = {"embedding": embedding, "head": head}
    measured = measure(
        tmp_path,
        config=smollm2.config,
        first=first,
        end=end,
        dtype="float32",
        num_slots=8,
        max_positions=2048,
        weights=[str(path) for path in smollm2.of(first, end, **own)],
        **own,
    )
    items = smollm2.shape.items(first, end, **own)
    assert measured["weights"] == smollm2.shape.weight_bytes(items, smollm2.shape.dtype)
    check(measured)


def test_a_stage_of_a_bfloat16_model_in_float32(tmp_path: Path) -> None:
    config = config_dict(WIDE_LLAMA)
    shape = model_shape("wide", config)
    meta = {name: shape.parameters[name] for layer in shape.layers for name in layer.tensors}
    part = tmp_path / "part.safetensors"
    tensors = {name: torch.zeros(count, dtype=torch.bfloat16) for name, count in meta.items()}
    save_file({n: t.view(*_sides(n, t.numel())) for n, t in tensors.items()}, part)
    assert part.stat().st_size > 200e6
    del tensors
    measured = measure(
        tmp_path,
        config=config,
        first=0,
        end=8,
        embedding=False,
        head=False,
        dtype="float32",
        num_slots=4,
        max_positions=1024,
        weights=[str(part)],
    )
    check(measured)


def _sides(name: str, count: int) -> tuple[int, ...]:
    """The shape of a weight of WIDE_LLAMA: all but the norms are matrices."""
    hidden, wide = WIDE_LLAMA["hidden_size"], WIDE_LLAMA["intermediate_size"]
    if count == hidden:
        return (hidden,)
    columns = wide if "down_proj" in name else hidden
    return (count // columns, columns)
