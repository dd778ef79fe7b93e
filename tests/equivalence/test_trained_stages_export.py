"""What two stages have trained goes through a checkpoint to three stages, and to transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from coordinator.written_checkpoints import FACTS
from equivalence.adapted_models import TARGETS, load_adapter, write_model
from equivalence.tiny_models import CONFIGS, random_model, write_parts
from equivalence.training_chain import UNEVEN, Chain, batch_of, training_of
from transformers import AutoModelForCausalLM

from edgepipe.coordinator.checkpoint_writer import CheckpointWriter
from edgepipe.coordinator.checkpoints import Checkpoint, read_checkpoint
from edgepipe.coordinator.exporting import export
from edgepipe.coordinator.manifest import config_hash
from edgepipe.core.frame import DType
from edgepipe.core.training import Adapters
from edgepipe.core.work import TrainMode
from edgepipe.engine.state_file import chunks_of, tensors_of

HELD_OUT = batch_of(77, UNEVEN)
STEP = 2


def adapters_of(kind: str, mode: TrainMode) -> Adapters | None:
    """A scale that is not 1, so that one which is forgotten shows."""
    adapters = Adapters(rank=4, alpha=10.0, dropout=0.0, target_modules=TARGETS[kind])
    return adapters if mode is TrainMode.LORA else None


def write_checkpoint(run: Path, base: Path, chain: Chain) -> Checkpoint:
    training = chain.training
    facts = replace(
        FACTS, step=STEP, mode=training.mode, model=str(base), dtype=DType.FLOAT32,
        num_layers=chain.parts.shape.num_layers, config_sha256=config_hash(chain.parts.config),
        adapters=training.adapters,
    )  # fmt: skip
    units = [unit for engine in chain.engines for unit in engine.units()]
    with CheckpointWriter(run, facts, units) as writer:
        for engine in chain.engines:
            for unit in engine.units():
                for piece in chunks_of(engine.export_state(unit)):
                    writer.append(unit, piece)
                writer.finish(unit)
        writer.commit()
    return read_checkpoint(run, STEP)


def resume(checkpoint: Checkpoint, chain: Chain) -> None:
    for engine in chain.engines:
        for unit in engine.units():
            data = bytearray(b"".join(checkpoint.chunks(unit)))
            engine.import_state(unit, tensors_of(data, unit))
    if chain.exchanges:  # as every step begins: the first stage is sent its rows
        ids = torch.arange(chain.parts.shape.vocab_size)
        chain.engines[0].set_embedding_rows(ids, chain.engines[-1].embedding_rows(ids))


def held_out_loss(model: Any) -> float:
    """transformers and torch alone."""
    total = 0.0
    for sequences in HELD_OUT:
        for tokens, targets in zip(sequences.tokens, sequences.targets, strict=True):
            with torch.inference_mode():
                logits = model.eval()(input_ids=tokens[None]).logits[0]
            total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
    return total / sum(each.num_targets for each in HELD_OUT)


@pytest.mark.parametrize("mode", TrainMode)
@pytest.mark.parametrize("kind", TARGETS)
def test_a_checkpoint_is_gone_on_from_and_exported(
    tmp_path: Path, kind: str, mode: TrainMode
) -> None:
    base = tmp_path / "base"
    parts = write_parts(write_model(base, kind), tmp_path)
    training = training_of(mode=mode, adapters=adapters_of(kind, mode))
    two = Chain(parts, training, (2,))
    before = two.evaluate(HELD_OUT)
    for step in range(STEP):
        two.step(step, batch_of(step))
    after = two.evaluate(HELD_OUT)
    assert abs(after - before) > 1e-4

    checkpoint = write_checkpoint(tmp_path / "run", base, two)
    three = Chain(parts, training, (1, 3))
    resume(checkpoint, three)
    assert three.evaluate(HELD_OUT) == pytest.approx(after, abs=1e-5)
    assert three.step(STEP, batch_of(STEP)) == pytest.approx(
        two.step(STEP, batch_of(STEP)), abs=1e-5
    )
    assert three.evaluate(HELD_OUT) == pytest.approx(two.evaluate(HELD_OUT), abs=1e-5)

    for merge in (True, False):
        out = tmp_path / f"out-{merge}"
        export(
            tmp_path / "run", out, home=tmp_path, step=None, merge=merge,
            progress=lambda _what, _done, _total: None,
        )  # fmt: skip
        if merge or mode is TrainMode.FULL:
            model = AutoModelForCausalLM.from_pretrained(out)
        else:
            model = load_adapter(random_model(CONFIGS[kind]), out)
        assert held_out_loss(model) == pytest.approx(after, abs=1e-5)
