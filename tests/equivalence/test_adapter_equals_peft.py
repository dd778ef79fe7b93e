"""An adapter across stages gives the logits of PeftModel in one process, however it is cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from equivalence.adapted_models import TARGETS, write_adapter, write_model
from equivalence.tiny_models import NUM_LAYERS, random_tokens, reference_logits

from edgepipe.coordinator.launch import weight_parts
from edgepipe.coordinator.parts import parts_for
from edgepipe.coordinator.prepared import Prepared, prepare
from edgepipe.core.frame import DType, Span
from edgepipe.engine.base import StageSpec
from edgepipe.engine.torch.engine import TorchEngine
from edgepipe.errors import DamagedWeights, ModelError


async def stage_specs(
    prepared: Prepared, cuts: Sequence[int], home: Path, dtype: DType = DType.FLOAT32
) -> list[StageSpec]:
    """What a deployment tells its stages."""
    parts = await weight_parts(prepared, home=home, progress=lambda _done, _total: None)
    files = {part.sha256: part.write(home) for part in parts}
    specs = []
    for first, end in pairwise([0, *cuts, NUM_LAYERS]):
        ends = {"embedding": first == 0, "head": end == NUM_LAYERS}
        items = prepared.shape.items(first, end, **ends)
        own = parts_for(parts, prepared.tensors(items))
        specs.append(
            StageSpec(
                config=prepared.model.config,
                first=first,
                end=end,
                dtype=dtype,
                num_slots=1,
                max_positions=64,
                weights=tuple(files[part.sha256] for part in own),
                options=prepared.options,
                **ends,
            )
        )
    return specs


def run(specs: Sequence[StageSpec], tokens: torch.Tensor) -> torch.Tensor:
    rows, span = tokens, [Span(slot=0, start=0, count=len(tokens))]
    for spec in specs:
        engine = TorchEngine("cpu")
        engine.load(spec, lambda _done, _total: None)
        rows = engine.forward(span, rows, all_logits=spec.head)
    return rows


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("changes", [{}, {"use_rslora": True}], ids=["plain", "rank stabilised"])
async def test_logits_equal_those_of_peft(
    tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    model = write_model(tmp_path / "model", kind)
    tokens = random_tokens(20)
    plain = reference_logits(model, tokens)
    adapted = write_adapter(tmp_path / "adapter", model, *TARGETS[kind], **changes)
    expected = reference_logits(adapted, tokens)
    assert (expected - plain).abs().max() > 0.1
    name = str(tmp_path / "model")
    prepared = await prepare(name, home=tmp_path, adapter=tmp_path / "adapter")
    for cuts in ((), (2,)):
        actual = run(await stage_specs(prepared, cuts, tmp_path), tokens)
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


async def test_what_is_merged_is_rounded_once(tmp_path: Path) -> None:
    """W + scale · B A is float32 until it becomes the stage's type."""
    model = write_model(tmp_path / "model", "llama, tied")
    adapted = write_adapter(tmp_path / "adapter", model, "q_proj")
    prepared = await prepare(str(tmp_path / "model"), home=tmp_path, adapter=tmp_path / "adapter")
    (spec,) = await stage_specs(prepared, (), tmp_path, DType.BFLOAT16)
    engine = TorchEngine("cpu")
    engine.load(spec, lambda _done, _total: None)
    name = "model.layers.2.self_attn.q_proj"
    assert engine._stage is not None
    merged = engine._stage._model.get_submodule(name).weight
    wrapped = adapted.base_model.model.get_submodule(name)
    whole = wrapped.base_layer.weight + wrapped.get_delta_weight("default")
    assert torch.equal(merged, whole.to(torch.bfloat16))


async def test_a_stage_is_sent_its_own_layers_of_the_adapter(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", "llama, tied")
    write_adapter(tmp_path / "adapter", model, "q_proj")
    name = str(tmp_path / "model")
    plain = await prepare(name, home=tmp_path)
    prepared = await prepare(name, home=tmp_path, adapter=tmp_path / "adapter")
    for with_adapter, without in zip(
        await stage_specs(prepared, (1,), tmp_path),
        await stage_specs(plain, (1,), tmp_path),
        strict=True,
    ):
        extra = set(with_adapter.weights) - set(without.weights)
        assert len(extra) == with_adapter.end - with_adapter.first


async def test_an_adapter_that_finds_no_weight_is_refused_by_the_stage(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", "llama, tied")
    write_adapter(tmp_path / "adapter", model, "q_proj")
    name = str(tmp_path / "model")
    prepared = await prepare(name, home=tmp_path, adapter=tmp_path / "adapter")
    first, second = await stage_specs(prepared, (2,), tmp_path)
    foreign = StageSpec(
        config=first.config, first=0, end=2, embedding=True, head=False, dtype=first.dtype,
        num_slots=1, max_positions=8, weights=(*first.weights, *second.weights),
        options=first.options,
    )  # fmt: skip
    with pytest.raises(
        DamagedWeights, match=r"adapter changes model\.layers\.2\.self_attn\.q_proj"
    ):
        TorchEngine("cpu").load(foreign, lambda _done, _total: None)


@pytest.mark.parametrize("scale", ["2", float("nan"), True])
async def test_a_scale_that_is_no_number_is_refused(tmp_path: Path, scale: object) -> None:
    write_model(tmp_path / "model", "llama, tied")
    prepared = await prepare(str(tmp_path / "model"), home=tmp_path)
    (spec,) = await stage_specs(prepared, (), tmp_path)
    options = {"adapter_scale": scale}
    wrong = StageSpec(
        config=spec.config, first=0, end=NUM_LAYERS, embedding=True, head=True, dtype=spec.dtype,
        num_slots=1, max_positions=8, weights=spec.weights, options=options,
    )  # fmt: skip
    with pytest.raises(ModelError, match="scale of the adapter is not a number"):
        TorchEngine("cpu").load(wrong, lambda _done, _total: None)
