"""A worker's memory, measured from inside: load one stage, run it, print what was held.

python load_and_measure.py SPEC.json      prints {"baseline", "peak", "weights", "kv"} in bytes
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from edgepipe.core.frame import DType, Span
from edgepipe.engine.base import StageSpec
from edgepipe.engine.torch.engine import TorchEngine, warm_up

NUM_TOKENS = 32


def status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = [line for line in lines if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


def main() -> None:
    described = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    warm_up()
    baseline = status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark anew
    spec = StageSpec(
        **{
            **described,
            "dtype": DType(described["dtype"]),
            "weights": tuple(Path(path) for path in described["weights"]),
        }
    )
    engine = TorchEngine("cpu")
    loaded = engine.load(spec, lambda _done, _total: None)
    rows = torch.zeros((NUM_TOKENS, spec.config["hidden_size"]), dtype=getattr(torch, spec.dtype))
    inputs = torch.zeros(NUM_TOKENS, dtype=torch.int64) if spec.embedding else rows
    engine.forward([Span(slot=0, start=0, count=NUM_TOKENS)], inputs)
    measured = {
        "baseline": baseline,
        "peak": status_bytes("VmHWM"),
        "weights": loaded.weight_bytes,
        "kv": loaded.kv_bytes,
    }
    sys.stdout.write(json.dumps(measured))


if __name__ == "__main__":
    main()
