"""One mask, however the model is cut, and whether layers are computed again."""

from __future__ import annotations

import pytest
import torch
from equivalence.tiny_models import CONFIGS, Parts, random_model, write_parts
from equivalence.training_chain import Chain, batch_of, training_of

from edgepipe.core.training import Adapters
from edgepipe.core.work import TrainMode

STEPS = 2
ADAPTERS = Adapters(rank=4, alpha=8.0, dropout=0.1, target_modules=("c_attn", "c_proj"))
MODES = {
    TrainMode.FULL: training_of(),
    TrainMode.LORA: training_of(mode=TrainMode.LORA, adapters=ADAPTERS),
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """GPT-2 drops 0.1 of its embedding, its attention and its residuals."""
    model = random_model(CONFIGS["gpt2, learned positions"])
    assert model.config.embd_pdrop == model.config.attn_pdrop == model.config.resid_pdrop == 0.1
    return write_parts(model, tmp_path_factory.mktemp("parts"))


def losses(chain: Chain) -> list[float]:
    return [chain.step(step, batch_of(step)) for step in range(STEPS)]


@pytest.mark.parametrize("mode", TrainMode)
def test_losses_and_weights_are_those_of_one_stage(parts: Parts, mode: TrainMode) -> None:
    whole = Chain(parts, MODES[mode])
    expected = losses(whole)
    for cuts, recompute in (((), True), ((2,), False), ((1, 2, 3), True)):
        settings = {"adapters": ADAPTERS} if mode is TrainMode.LORA else {}
        chain = Chain(parts, training_of(mode=mode, recompute=recompute, **settings), cuts)
        assert losses(chain) == pytest.approx(expected, abs=1e-5)
        for name, tensor in chain.weights().items():
            torch.testing.assert_close(tensor, whole.weights()[name], atol=1e-4, rtol=0, msg=name)


def test_seed_step_and_microbatch_change_the_mask(parts: Parts) -> None:
    chain, other = Chain(parts, training_of(), (2,)), Chain(parts, training_of(seed=6), (2,))
    (same, _) = batch_of(0)
    means = {chain.gradients(step, [same]) for step in (0, 1)}
    means |= {chain.gradients(0, [same, same]), other.gradients(0, [same])}
    assert len(means) == 4


def test_a_microbatch_that_is_run_again_gives_the_same_loss(parts: Parts) -> None:
    chain = Chain(parts, training_of(), (2,))
    first = chain.gradients(3, batch_of(0))
    for engine in chain.engines:
        engine.discard()
    assert chain.gradients(3, batch_of(0)) == first


def test_evaluation_drops_nothing_and_draws_nothing(parts: Parts) -> None:
    chain = Chain(parts, training_of(), (2,))
    before = torch.random.get_rng_state()
    assert chain.evaluate(batch_of(0)) == chain.evaluate(batch_of(0))
    assert chain.evaluate(batch_of(0)) != chain.gradients(0, batch_of(0))
    assert torch.equal(torch.random.get_rng_state(), before)
