"""Tokens per second of a whole model on ONNX Runtime, in one process and one thread.

    python -m bench.onnx_decode --home FOLDER [--model smollm2-135m] [--held int4 int8 float32]

The formats take turns, and each figure is the median of their calls.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from edgepipe.coordinator.models import resolve
from edgepipe.coordinator.parts import build_parts
from edgepipe.coordinator.shape import model_shape
from edgepipe.core.frame import DType, Span
from edgepipe.core.weight_format import WeightFormat
from edgepipe.engine.base import StageSpec
from edgepipe.engine.onnx.engine import OnnxEngine

BATCHES = (1, 2, 4, 8)
PROMPT = 32
STEPS = 40
ROUNDS = 3
PREFILL = 128


def whole_model(name: str, home: Path) -> StageSpec:
    """All of a model, its parts written to `home`."""
    model = resolve(name, home=home)
    shape = model_shape(model.name, model.config, home=home)
    folder = home / "bench-parts"
    folder.mkdir(parents=True, exist_ok=True)
    parts = build_parts(model.tensors(), shape.parameters, home=home)
    return StageSpec(
        config=model.config,
        first=0,
        end=shape.num_layers,
        embedding=True,
        head=True,
        dtype=DType.FLOAT32,
        num_slots=max(BATCHES),
        max_positions=512,
        weights=tuple(part.write(folder) for part in parts),
    )


def decode_s(engine: OnnxEngine, num_rows: int) -> float:
    """Seconds of a call with one token of each row, greedily."""
    for slot in range(num_rows):
        engine.forward([Span(slot=slot, start=0, count=PROMPT)], torch.arange(PROMPT))
    tokens, seconds = torch.arange(num_rows), []
    for step in range(STEPS):
        spans = [Span(slot=slot, start=PROMPT + step, count=1) for slot in range(num_rows)]
        begin = time.perf_counter()
        tokens = engine.forward(spans, tokens).argmax(-1)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def prefill_s(engine: OnnxEngine) -> float:
    """Seconds of a chunk."""
    begin = time.perf_counter()
    engine.forward([Span(slot=0, start=0, count=PREFILL)], torch.arange(PREFILL))
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--held", nargs="+", type=WeightFormat, default=["int4", "int8", "float32"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    spec = whole_model(options.model, options.home)
    engines = {}
    for held in options.held:
        engines[held] = OnnxEngine("cpu", threads=1, cache=options.home / "onnx")
        begin = time.perf_counter()
        loaded = engines[held].load(replace(spec, weight_format=held), lambda _done, _total: None)
        took = time.perf_counter() - begin
        print(f"{held}: loaded in {took:.2f} s, {loaded.weight_bytes / 1e6:.0f} MB")
    for _ in range(ROUNDS):
        for held, engine in engines.items():
            decoded = [f"{rows / decode_s(engine, rows):6.1f}" for rows in BATCHES]
            print(
                f"{held}: {' '.join(decoded)} tokens/s, prefill {PREFILL / prefill_s(engine):.0f}"
            )


if __name__ == "__main__":
    main()
