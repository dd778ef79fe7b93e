"""A worker's memory while it trains, measured from inside.

python train_and_measure.py ASKED.json      prints {"baseline", "peak"} in bytes
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from equivalence.load_and_measure import status_bytes

from edgepipe.core.frame import DType
from edgepipe.core.training import AdamW, Adapters, Microbatch, Purpose, Training, Update
from edgepipe.core.work import TrainMode
from edgepipe.engine.base import StageSpec
from edgepipe.engine.torch.training import TorchTrainer, warm_up
from edgepipe.engine.training import Targets

STEPS = 2


def spec_of(asked: dict[str, Any]) -> StageSpec:
    return StageSpec(
        config=asked["config"],
        first=asked["first"],
        end=asked["end"],
        embedding=asked["embedding"],
        head=asked["head"],
        dtype=DType(asked["dtype"]),
        num_slots=1,
        max_positions=1,
        weights=tuple(Path(path) for path in asked["weights"]),
    )


def training_of(asked: dict[str, Any]) -> Training:
    mode = TrainMode(asked["mode"])
    adapters = Adapters(
        rank=asked["rank"],
        alpha=16.0,
        dropout=asked["dropout"],
        target_modules=tuple(asked["target_modules"]),
    )
    return Training(
        mode=mode,
        seed=0,
        recompute=asked["recompute"],
        optimizer=AdamW(),
        adapters=adapters if mode is TrainMode.LORA else None,
        dtype=DType(asked["dtype"]),
    )


def step(engine: TorchTrainer, asked: dict[str, Any], number: int) -> None:
    """`inflight` forwards, then their backwards."""
    lengths = (asked["sequence_length"],) * asked["sequences"]
    rows = sum(lengths)
    hidden = torch.zeros(
        (rows, asked["config"]["hidden_size"]), dtype=getattr(torch, asked["dtype"])
    )
    ids = torch.zeros(rows, dtype=torch.int64)
    for index in range(asked["inflight"]):
        engine.forward(
            Microbatch(step=number, index=index, lengths=lengths),
            ids if asked["embedding"] else hidden.clone(),
            purpose=Purpose.TRAIN,
            targets=Targets(ids=ids, weight=1.0) if asked["head"] else None,
        )
    for index in range(asked["inflight"]):
        engine.backward(index, None if asked["head"] else hidden.clone())
    engine.gradients()
    engine.apply(Update(learning_rate=1e-6, scale=0.5))


def main() -> None:
    torch.set_num_threads(1)
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    warm_up()
    baseline = status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark anew
    engine = TorchTrainer("cpu")
    engine.load(spec_of(asked), training_of(asked), lambda _done, _total: None)
    loaded = status_bytes("VmHWM")
    for number in range(STEPS):
        step(engine, asked, number)
    measured = {"baseline": baseline, "peak": status_bytes("VmHWM"), "loaded": loaded}
    sys.stdout.write(json.dumps(measured))


if __name__ == "__main__":
    main()
