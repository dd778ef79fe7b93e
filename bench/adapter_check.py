"""A run's exported adapter in one process, by peft and transformers alone, beside the run's loss.

    .venv/bin/python -m bench.adapter_check RUN ADAPTER

Exits 1 where the held-out loss differs by more than MAX_DIFFERENCE.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from rich.console import Console
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from edgepipe.coordinator.models import Model, resolve
from edgepipe.coordinator.train_config_file import read_train_config
from edgepipe.coordinator.train_data.loading import load_data
from edgepipe.core.dataset import Example
from edgepipe.home import default_home

MAX_DIFFERENCE = 1e-3


def main() -> None:
    """Compare, and say so."""
    disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    parser = argparse.ArgumentParser(prog="bench.adapter_check")
    parser.add_argument("run", type=Path)
    parser.add_argument("adapter", type=Path)
    options = parser.parse_args()
    before, after = told_losses(options.run)
    alone = alone_loss(options.run, options.adapter)
    difference = abs(alone - after)
    Console().print(
        f"held-out loss: {before:.4f} before, {after:.4f} after ({after / before - 1:+.1%}); "
        f"by PeftModel in one process {alone:.4f}, {difference:.1e} apart",
        highlight=False,
    )
    sys.exit(difference > MAX_DIFFERENCE)


def told_losses(run: Path) -> tuple[float, float]:
    """The held-out loss before the first step and after the last, as the run tells it."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return lines[0]["eval_loss_before"], lines[-1]["eval_loss"]


def alone_loss(run: Path, adapter: Path) -> float:
    """The held-out loss per target of the base model with the adapter, one sequence at a time."""
    config = read_train_config(run / "config.toml")
    found = resolve(config.model, home=default_home())
    data = asyncio.run(load_data(config.data, found.tokenizer(), seed=config.seed))
    assert data.held_out is not None, "the run holds something out"
    model = PeftModel.from_pretrained(whole_model(found), adapter).eval()
    return loss_of(model, data.held_out.examples)


def whole_model(found: Model) -> torch.nn.Module:
    """The base model, loaded by transformers."""
    if found.gguf is None:
        folder, file = found.folder, None
    else:
        folder, file = found.gguf.parent, found.gguf.name
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.float32
    )
    return model


@torch.inference_mode()
def loss_of(model: torch.nn.Module, examples: Sequence[Example]) -> float:
    """Cross entropy per target, in nats."""
    total, targets = 0.0, 0
    for example in examples:
        logits = model(torch.from_numpy(example.token_ids).long()[None]).logits[0].float()
        wanted = torch.from_numpy(example.targets).long()
        total += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
        targets += example.num_targets
    return total / targets


if __name__ == "__main__":
    main()
