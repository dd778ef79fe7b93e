"""Sampling against a naive reference: a full softmax, a full sort, a loop."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepipe.core.frame import Likely
from edgepipe.core.sampling import Choice, Sampling, sample
from edgepipe.errors import StageError, UsageError


def logits(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def probabilities(row: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    scaled = row.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return np.asarray(weights / weights.sum())


def drawn(row: np.ndarray, sampling: Sampling, count: int) -> np.ndarray:
    """How often each token is sampled over many positions."""
    tokens = [sample(row, sampling, position)[0] for position in range(count)]
    return np.bincount(tokens, minlength=len(row))


def candidates(row: np.ndarray, sampling: Sampling) -> tuple[set[int], set[int]]:
    """The tokens that must be candidates, and those that may be.

    They differ only where the nucleus ends within rounding of top_p.
    """
    order = sorted(range(len(row)), key=lambda token: (-row[token], token))
    order = order[: sampling.top_k or len(row)]
    weights = probabilities(row, sampling.temperature)[order]
    before = [0.0, *accumulate(weights / weights.sum())]
    inside = [token for token, mass in zip(order, before, strict=False) if mass < sampling.top_p]
    sure = [
        token for token, mass in zip(order, before, strict=False) if mass < sampling.top_p - 1e-9
    ]
    edge = [
        token for token, mass in zip(order, before, strict=False) if mass < sampling.top_p + 1e-9
    ]
    assert set(sure) <= set(inside) <= set(edge)
    return set(sure), set(edge)


def surprise(counts: np.ndarray, expected: np.ndarray) -> float:
    """By how many standard deviations Pearson's chi-square exceeds what chance gives."""
    wanted = expected * counts.sum()
    kept = wanted > 5
    freedom = kept.sum() - 1
    statistic = (((counts - wanted) ** 2)[kept] / wanted[kept]).sum()
    return float((statistic - freedom) / (2 * freedom) ** 0.5)


# ------------------------------------------------------------------------------------ greedy


def test_greedy_takes_the_largest_and_of_equal_ones_the_lowest_id() -> None:
    assert sample(logits(1, 3, 2), Sampling(), 0)[0] == 1
    assert sample(logits(1, 3, 3, 3), Sampling(), 7)[0] == 1


@pytest.mark.parametrize("temperature", [1e-300, 1.0, 100.0])
def test_top_k_of_one_is_greedy(temperature: float) -> None:
    row = logits(0.1, 0.2, 0.2, 0.0)
    sampling = Sampling(temperature=temperature, top_k=1, seed=5)
    assert drawn(row, sampling, 20).tolist() == [0, 20, 0, 0]


def test_a_tiny_nucleus_is_greedy_too() -> None:
    sampling = Sampling(temperature=1.0, top_p=1e-12, seed=5)
    assert drawn(logits(0.1, 0.2, 0.2, 0.0), sampling, 20).tolist() == [0, 20, 0, 0]


# ------------------------------------------------------------------------------ distribution


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_tokens_come_as_often_as_the_softmax_says(temperature: float, seed: int) -> None:
    row = np.random.default_rng(3).normal(0, 1.5, 30).astype(np.float32)
    counts = drawn(row, Sampling(temperature=temperature, seed=seed), 2000)
    assert surprise(counts, probabilities(row, temperature)) < 4


def test_what_is_left_of_the_vocabulary_keeps_its_proportions() -> None:
    row = np.random.default_rng(4).normal(0, 1.5, 30).astype(np.float32)
    sampling = Sampling(temperature=0.8, top_k=20, top_p=0.9, seed=9)
    kept, edge = candidates(row, sampling)
    assert kept == edge
    weights = probabilities(row, 0.8)
    weights[[token for token in range(30) if token not in kept]] = 0
    counts = drawn(row, sampling, 2000)
    assert set(np.flatnonzero(counts)) <= kept
    assert surprise(counts, weights / weights.sum()) < 4


@pytest.mark.parametrize("along", ["seeds", "positions"])
def test_neighbouring_draws_are_independent(along: str) -> None:
    """Pairs of draws of four tokens fill their 16 cells evenly."""
    row = np.zeros(4, dtype=np.float32)
    steps = [(i, 11) if along == "seeds" else (3, i) for i in range(2000)]
    draws = np.array([sample(row, Sampling(temperature=1, seed=s), at)[0] for s, at in steps])
    pairs = np.bincount(4 * draws[:-1] + draws[1:], minlength=16)
    assert surprise(pairs, np.full(16, 1 / 16)) < 4


# -------------------------------------------------------------------------------- candidates

TIED = st.lists(st.integers(-8, 8).map(lambda step: step / 2), min_size=1, max_size=12)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.1, 0.7, 1.0, 1.5, 100.0]),
    top_p=st.sampled_from([1e-9, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999, 1.0]),
    top_k=st.integers(0, 14),
    seed=st.integers(0, 2**64 - 1),
)


@settings(max_examples=60, deadline=None)
@given(values=TIED, sampling=SAMPLINGS)
def test_only_candidates_are_sampled(values: list[float], sampling: Sampling) -> None:
    row = logits(*values)
    _, edge = candidates(row, sampling)
    counts = drawn(row, sampling, 20)
    assert set(np.flatnonzero(counts)) <= edge


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(0, 2).map(float), min_size=1, max_size=5),
    top_k=st.integers(0, 6),
    top_p=st.sampled_from([0.2, 0.4, 0.5, 0.6, 0.8, 1.0]),
)
def test_every_candidate_is_sampled(values: list[float], top_k: int, top_p: float) -> None:
    """At this temperature the least likely of five comes once in six draws or more often."""
    row = logits(*values)
    sampling = Sampling(temperature=10.0, top_k=top_k, top_p=top_p, seed=1)
    sure, edge = candidates(row, sampling)
    found = set(np.flatnonzero(drawn(row, sampling, 100)).tolist())
    assert sure <= found <= edge


@pytest.mark.parametrize("top_k", [0, 5000, 1500])
def test_a_nucleus_wider_than_the_first_1024_candidates_is_whole(top_k: int) -> None:
    """A nearly flat vocabulary: its nucleus ends far behind them, ties and all."""
    row = np.repeat(np.linspace(0, 0.1, 1000, dtype=np.float32), 6)
    row = np.random.default_rng(0).permutation(row)
    sampling = Sampling(temperature=1.0, top_p=0.8, top_k=top_k, seed=2)
    kept, edge = candidates(row, sampling)
    assert len(edge) == len(kept) > 1024
    found = set(np.flatnonzero(drawn(row, sampling, 300)).tolist())
    assert found <= kept
    last_third = sorted(kept, key=lambda token: (row[token], -token))[: len(kept) // 3]
    assert len(found & set(last_third)) > 50


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.5), (2, 1.0), (4, 0.5)])
def test_a_nucleus_ends_with_the_token_that_completes_it(top_k: int, top_p: float) -> None:
    """Of four equal tokens the two with the lowest ids are half of the mass, to the bit."""
    sampling = Sampling(temperature=1.0, top_k=top_k, top_p=top_p, seed=3)
    counts = drawn(np.zeros(4, dtype=np.float32), sampling, 60)
    assert (counts > 0).tolist() == [True, True, False, False]


@pytest.mark.parametrize("size", [1023, 1024, 1025])
def test_a_vocabulary_of_about_1024_equal_tokens_is_cut_at_top_p(size: int) -> None:
    row = np.zeros(size, dtype=np.float32)
    found = np.flatnonzero(drawn(row, Sampling(temperature=1.0, top_p=0.5, seed=1), 400))
    assert found.max() < math.ceil(size / 2) <= found.max() + 15


def test_a_sharp_nucleus_of_a_huge_vocabulary_is_found() -> None:
    row = np.full(150_000, -20, dtype=np.float32)
    row[[7, 70_000, 149_999]] = [2.0, 1.0, 0.0]
    counts = drawn(row, Sampling(temperature=1.0, top_p=0.95, seed=1), 40)
    assert set(np.flatnonzero(counts)) == {7, 70_000, 149_999}


# ----------------------------------------------------------------------------- determinism


def test_equal_logits_seed_and_position_give_an_equal_token_whatever_came_before() -> None:
    row = np.random.default_rng(1).normal(0, 1, 500).astype(np.float32)
    sampling = Sampling(temperature=1.0, top_p=0.95, seed=77)
    forwards = [sample(row, sampling, position) for position in range(50)]
    backwards = [sample(row.copy(), sampling, position) for position in reversed(range(50))]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) > 10


def test_every_seed_and_every_position_counts() -> None:
    row = np.zeros(1 << 18, dtype=np.float32)
    tokens = {
        sample(row, Sampling(temperature=1.0, top_k=1 << 17, seed=seed), position)[0]
        for seed in (0, 1, 1 << 32, (1 << 64) - 1)
        for position in (0, 1, 2, 1 << 20)
    }
    assert len(tokens) == 16


# -------------------------------------------------------------------------- log-probability


@settings(max_examples=60, deadline=None)
@given(values=TIED, sampling=SAMPLINGS)
def test_the_log_probability_is_that_of_the_unmodified_logits(
    values: list[float], sampling: Sampling
) -> None:
    row = logits(*values)
    token, logprob, likely = sample(row, replace(sampling, num_likely=0), 3)
    assert likely == ()
    assert logprob == pytest.approx(math.log(probabilities(row)[token]), abs=1e-5)


def test_a_log_probability_that_nobody_asked_for_is_not_told() -> None:
    assert sample(logits(3, 1, 2), Sampling(), 0) == Choice(0, None, ())


def test_the_logits_are_left_as_they_are() -> None:
    row = logits(3, 1, 2)
    row.flags.writeable = False
    sample(row, Sampling(temperature=0.5, top_p=0.9, top_k=2, seed=1), 0)


# --------------------------------------------------------------------- biases and penalties

COUNTS = st.dictionaries(st.integers(0, 5), st.integers(0, 3), max_size=6)


@settings(max_examples=80, deadline=None)
@given(
    values=st.lists(st.integers(-8, 8).map(float), min_size=6, max_size=6),
    counts=COUNTS,
    presence=st.integers(-4, 4).map(lambda half: half / 2),
    frequency=st.integers(-4, 4).map(lambda half: half / 2),
    biases=st.dictionaries(st.integers(0, 8), st.integers(-100, 100).map(float), max_size=4),
    temperature=st.sampled_from([0.0, 1.0]),
)
def test_biases_and_penalties_sample_as_logits_that_were_changed_by_hand(
    *,
    values: list[float],
    counts: dict[int, int],
    presence: float,
    frequency: float,
    biases: dict[int, float],
    temperature: float,
) -> None:
    row = logits(*values)
    row.flags.writeable = False
    changed = [
        value
        + biases.get(token, 0.0)
        - presence * (counts.get(token, 0) > 0)
        - frequency * counts.get(token, 0)
        for token, value in enumerate(values)
    ]
    sampling = Sampling(
        temperature=temperature,
        presence_penalty=presence,
        frequency_penalty=frequency,
        logit_bias=tuple(biases.items()),
        seed=4,
        num_likely=0,
    )
    plain = Sampling(temperature=temperature, seed=4)
    for position in range(5):
        token, logprob, _ = sample(row, sampling, position, counts)
        assert token == sample(logits(*changed), plain, position).token
        assert logprob == pytest.approx(math.log(probabilities(row)[token]), abs=1e-5)


def test_a_ban_and_a_wish_beat_the_model() -> None:
    row = logits(5, 1, 0, 0)
    assert sample(row, Sampling(logit_bias=((0, -100.0),)), 0).token == 1
    assert sample(row, Sampling(logit_bias=((3, 100.0),)), 0).token == 3


def test_a_penalty_grows_with_every_repetition_only_where_frequency_is_meant() -> None:
    row = logits(3, 0)
    often = {0: 9}
    assert sample(row, Sampling(presence_penalty=2), 0, often).token == 0
    assert sample(row, Sampling(frequency_penalty=0.5), 0, {0: 5}).token == 0
    assert sample(row, Sampling(frequency_penalty=0.5), 0, often).token == 1
    assert not Sampling(logit_bias=((0, 1.0),)).penalises


# ---------------------------------------------------------------------------- likeliest tokens


@settings(max_examples=60, deadline=None)
@given(values=TIED, sampling=SAMPLINGS, count=st.integers(0, 20))
def test_the_likeliest_come_in_order_with_their_log_probabilities(
    values: list[float], sampling: Sampling, count: int
) -> None:
    row = logits(*values)
    wanted = replace(sampling, num_likely=count, logit_bias=((0, -100.0),))
    order = sorted(range(len(values)), key=lambda token: (-values[token], token))[:count]
    likely = sample(row, wanted, 3).likely
    assert [each.token for each in likely] == order
    for each in likely:
        assert each.logprob == pytest.approx(math.log(probabilities(row)[each.token]), abs=1e-5)


def test_a_token_without_any_probability_may_be_among_the_likeliest() -> None:
    likely = sample(logits(0, -math.inf), Sampling(num_likely=5), 0).likely
    assert likely == (Likely(0, 0.0), Likely(1, -math.inf))


# --------------------------------------------------------------------------------- extremes


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.sampled_from([-math.inf, -1.0, 0.0, 1.0]), min_size=1, max_size=8).filter(
        lambda values: max(values) > -math.inf
    ),
    sampling=SAMPLINGS,
)
def test_a_token_of_minus_infinity_is_never_sampled(
    values: list[float], sampling: Sampling
) -> None:
    counts = drawn(logits(*values), sampling, 20)
    assert all(math.isfinite(values[token]) for token in np.flatnonzero(counts))


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-8])
def test_a_temperature_near_zero_is_greedy_without_overflow(temperature: float) -> None:
    row = logits(-3e38, 1, 2, 3e38, -math.inf)
    sampling = Sampling(temperature=temperature, top_p=0.9, seed=1)
    assert drawn(row, sampling, 10).tolist() == [0, 0, 0, 10, 0]


def test_huge_logits_do_not_overflow() -> None:
    row = logits(3e38, 3e38, -3e38)
    token, logprob, _ = sample(row, Sampling(temperature=1.0, seed=1, num_likely=0), 0)
    assert token in {0, 1}
    assert logprob == pytest.approx(math.log(0.5))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_numbers_end_the_stage_in_one_sentence(
    value: float, temperature: float
) -> None:
    with pytest.raises(StageError, match=r"^the model gave logits that are not finite.*dtype"):
        sample(logits(0, value, 1), Sampling(temperature=temperature), 0)


def test_logits_without_any_candidate_end_the_stage_too() -> None:
    with pytest.raises(StageError, match="not finite"):
        sample(logits(-math.inf, -math.inf), Sampling(), 0)


def test_a_vocabulary_of_one_token_leaves_no_choice() -> None:
    assert sample(logits(-2.5), Sampling(temperature=1.0, top_p=0.5), 3) == (0, None, ())


# --------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("temperature", -0.1, r"temperature must lie in [0, 100], not -0.1"),
        ("temperature", 100.1, r"temperature must lie in [0, 100], not 100.1"),
        ("temperature", math.nan, r"temperature must lie in [0, 100], not nan"),
        ("temperature", math.inf, r"temperature must lie in [0, 100], not inf"),
        ("top_p", 0.0, r"top_p must lie in (0, 1], not 0.0"),
        ("top_p", 1.01, r"top_p must lie in (0, 1], not 1.01"),
        ("top_p", math.nan, r"top_p must lie in (0, 1], not nan"),
        ("top_k", -1, r"top_k must be 0 (off) or more, not -1"),
        ("seed", -1, r"seed must lie in [0, 2^64), not -1"),
        ("seed", 1 << 64, r"seed must lie in [0, 2^64), not 18446744073709551616"),
        ("presence_penalty", 2.1, r"presence_penalty must lie in [-2, 2], not 2.1"),
        ("presence_penalty", math.nan, r"presence_penalty must lie in [-2, 2], not nan"),
        ("frequency_penalty", -2.5, r"frequency_penalty must lie in [-2, 2], not -2.5"),
        ("logit_bias", ((1, 101.0),), r"logit_bias must lie in [-100, 100], not 101.0"),
        ("logit_bias", ((1, math.nan),), r"logit_bias must lie in [-100, 100], not nan"),
        ("logit_bias", ((-1, 1.0),), r"logit_bias must name tokens by their ids, not -1"),
        ("logit_bias", ((1, 1.0), (1, 2.0)), r"logit_bias must name a token once"),
        (
            "logit_bias",
            tuple((token, 1.0) for token in range(1025)),
            r"logit_bias may name 1024 tokens at most, not 1025",
        ),
        ("num_likely", 21, r"num_likely must lie in [0, 20], not 21"),
        ("num_likely", -1, r"num_likely must lie in [0, 20], not -1"),
    ],
)
def test_settings_out_of_bounds_are_refused_in_one_sentence(
    field: str, value: object, sentence: str
) -> None:
    with pytest.raises(UsageError) as refused:
        Sampling(**{field: value})  # type: ignore[arg-type]
    assert str(refused.value) == sentence
