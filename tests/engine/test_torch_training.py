from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from equivalence.tiny_models import CONFIGS, Parts, random_model, write_parts
from equivalence.training_chain import LEARNING_RATE, Chain, Sequences, batch_of, training_of

from edgepipe.core.frame import DType
from edgepipe.core.training import AdamW, Adapters, Broken, Microbatch, Purpose, Training, Update
from edgepipe.core.work import TrainMode
from edgepipe.engine.torch.training import TorchTrainer, warm_up
from edgepipe.engine.training import Targets, TrainingEngine
from edgepipe.errors import DamagedWeights, ModelError

ADAPTERS = Adapters(rank=4, alpha=8.0, dropout=0.0, target_modules=("q_proj", "down_proj"))
LORA = {"mode": TrainMode.LORA, "adapters": ADAPTERS}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    folder: Path = tmp_path_factory.mktemp("parts")
    return write_parts(random_model(CONFIGS["llama, tied"]), folder)


def units(chain: Chain) -> list[tuple[str, ...]]:
    return [engine.units() for engine in chain.engines]


def test_it_is_a_training_engine() -> None:
    engine: TrainingEngine = TorchTrainer("cpu")
    assert engine


def test_a_tied_embedding_is_the_heads_unit_on_any_cut(parts: Parts) -> None:
    names = [f"layer-0000{index}" for index in range(4)]
    whole = Chain(parts, training_of())
    assert units(whole) == [(*names, "head")]
    cut = Chain(parts, training_of(), (1,), apart=True)
    assert units(cut) == [(), (names[0],), tuple(names[1:]), ("head",)]
    head = whole.state()["head"]
    assert head.keys() == cut.state()["head"].keys()
    assert {name for name in head if "#" not in name} == {
        "model.embed_tokens.weight",
        "model.norm.weight",
    }


def test_positions_are_the_embeddings_unit(tmp_path: Path) -> None:
    gpt2 = write_parts(random_model(CONFIGS["gpt2, learned positions"]), tmp_path)
    state = Chain(gpt2, training_of(), (2,)).state()
    layers = [f"layer-0000{index}" for index in range(4)]
    assert list(state) == ["embedding", *layers, "head"]
    assert {name for name in state["embedding"] if "#" not in name} == {"transformer.wpe.weight"}
    assert "transformer.wte.weight" in state["head"]


def test_only_layers_with_adapters_have_units(parts: Parts) -> None:
    chain = Chain(parts, training_of(**LORA), (2,), apart=True)
    assert units(chain) == [(), ("layer-00000", "layer-00001"), ("layer-00002", "layer-00003"), ()]
    layer = chain.state()["layer-00002"]
    name = "model.layers.2.self_attn.q_proj.lora_A.weight"
    assert layer[name].shape == (4, 48)
    assert layer[f"{name}#exp_avg"].shape == layer[f"{name}#exp_avg_sq"].shape == (4, 48)
    assert layer["#step"].tolist() == [0]
    assert len(layer) == 13


@pytest.mark.parametrize("settings", [{}, LORA], ids=["full", "lora"])
def test_a_state_goes_on_bit_exactly(parts: Parts, settings: dict[str, Any]) -> None:
    """On the same cut the same bits; on another, the same to rounding."""
    chain = Chain(parts, training_of(**settings), (2,))
    for step in range(2):
        chain.step(step, batch_of(step))
    state = chain.state()
    assert all(unit["#step"].tolist() == [2] for unit in state.values())
    expected = [chain.step(step, batch_of(step)) for step in (2, 3)]
    for cuts, tolerance in (((2,), 0.0), ((1, 3), 1e-5)):
        other = Chain(parts, training_of(**settings), cuts)
        restore(other, state)
        actual = [other.step(step, batch_of(step)) for step in (2, 3)]
        assert actual == pytest.approx(expected, abs=tolerance, rel=0.0)
        for name, tensor in other.weights().items():
            difference = (tensor - chain.weights()[name]).abs().max()
            assert difference <= 10 * tolerance, name


@pytest.mark.parametrize("settings", [{}, LORA], ids=["full", "lora"])
def test_weights_are_cast_anew_once_they_have_changed(
    parts: Parts, settings: dict[str, Any]
) -> None:
    training = training_of(dtype=DType.BFLOAT16, **settings)
    chain = Chain(parts, training, (2,))
    chain.step(0, batch_of(0))
    fresh = Chain(parts, training, (2,))
    restore(fresh, chain.state())
    assert chain.gradients(1, batch_of(0)) == fresh.gradients(1, batch_of(0))


def restore(chain: Chain, state: dict[str, dict[str, torch.Tensor]]) -> None:
    for engine in chain.engines:
        for unit in engine.units():
            engine.import_state(unit, state[unit])
    if chain.exchanges:
        ids = torch.arange(chain.parts.shape.vocab_size)
        chain.engines[0].set_embedding_rows(ids, chain.engines[-1].embedding_rows(ids))


def test_a_foreign_state_is_refused_before_anything_changes(parts: Parts) -> None:
    chain = Chain(parts, training_of())
    state, (engine,) = chain.state(), chain.engines
    name = "model.layers.1.mlp.up_proj.weight"
    for damaged in (
        state["layer-00002"],
        {each: tensor for each, tensor in state["layer-00001"].items() if each != "#step"},
        {**state["layer-00001"], name: torch.ones(2, 2)},
        {**state["layer-00001"], f"{name}#exp_avg": torch.ones(2, 2)},
        {each: t for each, t in state["layer-00001"].items() if each != f"{name}#exp_avg"},
    ):
        with pytest.raises(DamagedWeights, match="layer-00001"):
            engine.import_state("layer-00001", damaged)
    assert all(
        torch.equal(tensor, state["layer-00001"][each])
        for each, tensor in engine.export_state("layer-00001").items()
    )


def test_discard_forgets_gradients_and_forwards(parts: Parts) -> None:
    chain = Chain(parts, training_of(), (2,))
    before = chain.weights()
    chain.gradients(0, batch_of(0))
    chain.forward(Microbatch(step=0, index=7, lengths=batch_of(0)[0].lengths), batch_of(0)[0], 1.0)
    for engine in chain.engines:
        engine.discard()
        engine.apply(Update(learning_rate=1.0, scale=1.0))
    assert chain.norm() == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in chain.weights().items())
    with pytest.raises(KeyError):
        chain.engines[1].backward(7, None)


def test_a_rehearsal_compares_gradients_and_applies_nothing(parts: Parts) -> None:
    chain = Chain(parts, training_of(), (2,))
    before = chain.weights()
    products, sums = [], []
    for step in (0, 0, 1, 0):
        chain.gradients(step, batch_of(step))
        sums.append([engine.gradients().sum_of_squares for engine in chain.engines])
        products.append([engine.rehearse() for engine in chain.engines])
    assert products[0] == products[2] == [0.0, 0.0]
    assert products[1] == pytest.approx(sums[1], rel=1e-5)
    assert all(abs(dot) < total for dot, total in zip(products[3], sums[3], strict=True))
    assert chain.norm() == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in chain.weights().items())


def test_the_embeddings_gradient_is_of_the_tokens_seen_and_counted_once(parts: Parts) -> None:
    whole, cut = Chain(parts, training_of()), Chain(parts, training_of(), (2,))
    batch = batch_of(0)
    whole.gradients(0, batch)
    cut.gradients(0, batch)
    ids, rows = cut.engines[0].embedding_gradient()
    assert set(ids.tolist()) <= set(torch.cat([t for each in batch for t in each.tokens]).tolist())
    assert ids.tolist() == sorted(ids.tolist())
    assert rows.shape == (len(ids), 48)
    assert rows.dtype is torch.float32
    assert cut.norm() == pytest.approx(whole.norm(), rel=1e-5)


def test_an_embedding_whose_gradients_vanished_tells_one_row_of_zeros(parts: Parts) -> None:
    (first, _) = Chain(parts, training_of(), (2,)).engines
    assert_one_row_of_zeros(*first.embedding_gradient())
    microbatch = Microbatch(step=0, index=0, lengths=(3,))
    first.forward(microbatch, torch.tensor([5, 2, 9]), purpose=Purpose.TRAIN, targets=None)
    first.backward(0, torch.zeros(3, 48))
    assert_one_row_of_zeros(*first.embedding_gradient())


def assert_one_row_of_zeros(ids: torch.Tensor, rows: torch.Tensor) -> None:
    assert ids.shape == (1,)
    assert torch.equal(rows, torch.zeros(1, 48))


def test_rows_of_the_embedding_are_set_and_read(parts: Parts) -> None:
    first, last = Chain(parts, training_of(), (2,)).engines
    ids = torch.tensor([3, 90])
    first.set_embedding_rows(ids, torch.ones(2, 48))
    assert torch.equal(first.embedding_rows(ids), torch.ones(2, 48))
    assert last.embedding_rows(torch.tensor([7])).shape == (1, 48)


def test_one_dimensional_tensors_do_not_decay(parts: Parts) -> None:
    chain = Chain(parts, training_of(weight_decay=0.5))
    before = chain.weights()
    (engine,) = chain.engines
    (only,) = batch_of(0, [[1]])
    chain.gradients(0, [only, Sequences(tokens=batch_of(0)[0].tokens)])
    engine.apply(Update(learning_rate=LEARNING_RATE, scale=0.0))
    after = chain.weights()
    matrix, norm = "model.layers.0.mlp.up_proj.weight", "model.norm.weight"
    torch.testing.assert_close(after[matrix], before[matrix] * (1 - 0.5 * LEARNING_RATE))
    assert torch.equal(after[norm], before[norm])


def test_a_value_that_is_not_finite_is_told_with_its_microbatch(parts: Parts) -> None:
    first, last = Chain(parts, training_of(), (2,)).engines
    microbatch = Microbatch(step=0, index=3, lengths=(4,))
    tokens, hidden = torch.arange(4), torch.zeros(4, 48)
    forwarded = first.forward(microbatch, tokens, purpose=Purpose.TRAIN, targets=None)
    assert forwarded.broken is None
    hidden[2, 5] = torch.inf
    targets = Targets(ids=tokens, weight=1.0)
    loss = last.forward(microbatch, hidden, purpose=Purpose.TRAIN, targets=targets)
    assert loss.broken == Broken(microbatch=3, what="loss")
    assert last.backward(3, None).broken == Broken(microbatch=3, what="gradients")
    assert first.backward(3, hidden).broken == Broken(microbatch=3, what="gradients")
    first.set_embedding_rows(torch.tensor([1]), torch.full((1, 48), torch.nan))
    forwarded = first.forward(microbatch, tokens, purpose=Purpose.TRAIN, targets=None)
    assert forwarded.broken == Broken(microbatch=3, what="activations")


def test_a_microbatch_without_targets_teaches_nothing(parts: Parts) -> None:
    chain = Chain(parts, training_of(**LORA), (2,))
    (nothing,) = batch_of(0, [[2, 3]])
    microbatch = Microbatch(step=0, index=0, lengths=nothing.lengths)
    assert chain.forward(microbatch, nothing, 1.0) == 0
    chain.backward(0)
    assert chain.norm() == 0


@pytest.mark.parametrize("dtype", [DType.BFLOAT16, DType.FLOAT16])
@pytest.mark.parametrize("settings", [{}, LORA], ids=["full", "lora"])
def test_smaller_types_compute_in_them_and_keep_what_is_trained_in_float32(
    parts: Parts, settings: dict[str, Any], dtype: DType
) -> None:
    exact = Chain(parts, training_of(**settings))
    chain = Chain(parts, training_of(dtype=dtype, recompute=True, **settings), (2,))
    rows = torch.cat(batch_of(0)[0].tokens)
    microbatch = Microbatch(step=0, index=9, lengths=batch_of(0)[0].lengths)
    forwarded = chain.engines[0].forward(microbatch, rows, purpose=Purpose.EVALUATE, targets=None)
    assert forwarded.hidden is not None
    assert forwarded.hidden.dtype is getattr(torch, dtype)
    for step in range(2):
        expected = exact.step(step, batch_of(step))
        assert chain.step(step, batch_of(step)) == pytest.approx(expected, rel=0.05)
    assert all(tensor.dtype is torch.float32 for tensor in chain.weights().values())
    assert not chain.broken


def test_loading_counts_frozen_weights_and_adapters(parts: Parts) -> None:
    chain = Chain(parts, training_of(dtype=DType.BFLOAT16, **LORA))
    adapters = sum(tensor.nbytes for tensor in chain.weights().values())
    (engine,) = chain.engines
    loaded = engine.load(chain.spec(0, 4), chain.training, lambda _done, _total: None)
    assert loaded.weight_bytes == 2 * sum(parts.shape.parameters.values()) + adapters


def test_the_optimizer_of_eight_bits_wants_cuda(parts: Parts) -> None:
    plain = training_of()
    eight = Training(
        mode=plain.mode,
        seed=0,
        recompute=False,
        optimizer=AdamW(eight_bit=True),
        adapters=None,
        dtype=DType.FLOAT32,
    )
    with pytest.raises(ModelError, match="CUDA"):
        Chain(parts, eight)


def test_warm_up_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    warm_up()
    assert not list(tmp_path.iterdir())
