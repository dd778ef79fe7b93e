"""One process of one thread that runs the whole model on ONNX Runtime: what a pipeline is held to.

python -m bench.one_onnx_process SPEC     SPEC is JSON: config, weights, weight_format, num_slots,
                                          max_positions, num_layers

It says {"ready": true}, then answers each line {"what": "decode" | "prefill", …} with a line of
seconds. Greedy, with nothing between two calls but the argmax.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from edgepipe.core.frame import DType, Span
from edgepipe.core.weight_format import WeightFormat
from edgepipe.engine.base import StageSpec
from edgepipe.engine.onnx.engine import OnnxEngine


def main() -> None:
    """Load, then serve lines until they end."""
    asked = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    engine = OnnxEngine("cpu", 1, cache=Path(asked["cache"]))
    engine.load(
        StageSpec(
            config=asked["config"],
            first=0,
            end=asked["num_layers"],
            embedding=True,
            head=True,
            dtype=DType.FLOAT32,
            num_slots=asked["num_slots"],
            max_positions=asked["max_positions"],
            weights=tuple(Path(path) for path in asked["weights"]),
            weight_format=WeightFormat(asked["weight_format"]),
        ),
        lambda _done, _total: None,
    )
    print(json.dumps({"ready": True, "pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        work = json.loads(line)
        print(json.dumps({"seconds": _WORK[work["what"]](engine, work)}), flush=True)


def _decode_s(engine: OnnxEngine, work: dict[str, Any]) -> float:
    """Seconds from the last first token to the end."""
    streams, prompt = work["streams"], work["prompt"]
    last = [_prefill(engine, slot, prompt) for slot in range(streams)]
    begin = time.perf_counter()
    for step in range(work["tokens"] - 1):
        spans = [Span(slot=slot, start=len(prompt) + step, count=1) for slot in range(streams)]
        last = engine.forward(spans, torch.tensor(last)).argmax(1).tolist()
    return time.perf_counter() - begin


def _prefill_s(engine: OnnxEngine, work: dict[str, Any]) -> float:
    """Seconds to the first tokens of all prompts, one after another."""
    begin = time.perf_counter()
    for slot in range(work["prompts"]):
        _prefill(engine, slot, work["prompt"])
    return time.perf_counter() - begin


def _prefill(engine: OnnxEngine, slot: int, prompt: list[int]) -> int:
    span = Span(slot=slot, start=0, count=len(prompt))
    return int(engine.forward([span], torch.tensor(prompt)).argmax())


_WORK = {"decode": _decode_s, "prefill": _prefill_s}

if __name__ == "__main__":
    main()
