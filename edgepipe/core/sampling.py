"""Choosing the next token from logits.

The generator is counter-based (Philox), keyed by (seed, position): equal logits give equal
tokens, whatever was sampled before and wherever it was sampled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgepipe.core.frame import Likely
from edgepipe.errors import StageError, UsageError

Logits = npt.NDArray[np.float32]
_FIRST_CANDIDATES = 1024
"""Enough of the vocabulary for almost every nucleus; the rest is sorted only if it is needed."""
MAX_BIASES = 1024
MAX_LIKELY = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample. Temperature 0 is greedy; top_k 0 and top_p 1 leave the vocabulary whole.

    `logit_bias` holds a token and what is added to its logit, each token once. A token that came
    `n` times in the answer loses `presence_penalty` once and `frequency_penalty` n times.
    `num_likely` tokens of highest probability are reported beside each sampled one, and its own
    log-probability; None asks for neither, and saves a pass over the vocabulary.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    num_likely: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100:
            raise UsageError(f"temperature must lie in [0, 100], not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p must lie in (0, 1], not {self.top_p}")
        if self.top_k < 0:
            raise UsageError(f"top_k must be 0 (off) or more, not {self.top_k}")
        if not 0 <= self.seed < 1 << 64:
            raise UsageError(f"seed must lie in [0, 2^64), not {self.seed}")
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2 <= (penalty := getattr(self, name)) <= 2:
                raise UsageError(f"{name} must lie in [-2, 2], not {penalty}")
        self._check_biases()
        if not 0 <= (self.num_likely or 0) <= MAX_LIKELY:
            raise UsageError(f"num_likely must lie in [0, {MAX_LIKELY}], not {self.num_likely}")

    def _check_biases(self) -> None:
        if len(self.logit_bias) > MAX_BIASES:
            raise UsageError(
                f"logit_bias may name {MAX_BIASES} tokens at most, not {len(self.logit_bias)}"
            )
        if len(dict(self.logit_bias)) < len(self.logit_bias):
            raise UsageError("logit_bias must name a token once")
        for token, bias in self.logit_bias:
            if token < 0:
                raise UsageError(f"logit_bias must name tokens by their ids, not {token}")
            if not -100 <= bias <= 100:
                raise UsageError(f"logit_bias must lie in [-100, 100], not {bias}")

    @property
    def penalises(self) -> bool:
        """Whether the tokens so far matter: only then need they be counted."""
        return self.presence_penalty != 0 or self.frequency_penalty != 0


class Choice(NamedTuple):
    """A sampled token, its log-probability, and the `num_likely` likeliest, likeliest first.

    Log-probabilities are of the logits as the model gave them; `logprob` is None, and `likely`
    empty, where they were not asked for.
    """

    token: int
    logprob: float | None
    likely: tuple[Likely, ...]


@np.errstate(over="ignore")  # a difference too large for a float is -inf, which is meant
def sample(
    logits: Logits, sampling: Sampling, position: int, counts: Mapping[int, int] | None = None
) -> Choice:
    """Sample one token for `position`.

    Args:
        logits: float32 [vocab].
        sampling: biases and penalties first, then temperature, then top-k, then top-p (nucleus,
            Holtzman et al. 2020). A bias beyond the vocabulary changes nothing.
        position: index of the new token in its sequence; the generator's counter.
        counts: how often each token came in the sequence's answer so far (not in its prompt);
            read only where `sampling.penalises`.

    Returns:
        The token, and where they are asked for its log-probability and the likeliest tokens.

    Raises:
        StageError: the largest logit is not finite, as it is where activations overflowed.
    """
    best = int(logits.argmax())
    top = float(logits[best])
    if not math.isfinite(top):
        raise StageError(
            "the model gave logits that are not finite: use a dtype of wider range, such as float32"
        )
    wanted, wanted_best = logits, best
    if sampling.logit_bias or (counts and sampling.penalises):
        wanted = _modified(logits, sampling, counts or {})
        wanted_best = int(wanted.argmax())
    if sampling.temperature == 0 or sampling.top_k == 1:
        token = wanted_best
    else:
        candidates, weights = _candidates(wanted, float(wanted[wanted_best]), sampling)
        threshold = _uniform(sampling.seed, position) * weights[-1]
        token = int(candidates[int(np.searchsorted(weights, threshold, side="right"))])
    if sampling.num_likely is None:
        return Choice(token, None, ())
    reach = float(np.log(np.exp(logits - top).sum()))
    likely = _likely(logits, top, reach, sampling.num_likely) if sampling.num_likely else ()
    return Choice(token, float(logits[token]) - top - reach, likely)


def _modified(logits: Logits, sampling: Sampling, counts: Mapping[int, int]) -> Logits:
    """Logits with biases and penalties, as OpenAI's API reference defines them."""
    modified = logits.copy()
    for token, bias in sampling.logit_bias:
        if token < logits.shape[0]:
            modified[token] += bias
    if sampling.penalises:
        tokens = np.fromiter(counts.keys(), np.intp, len(counts))
        times = np.fromiter(counts.values(), np.float64, len(counts))
        modified[tokens] -= sampling.presence_penalty * (times > 0)
        modified[tokens] -= sampling.frequency_penalty * times
    return modified


def _likely(logits: Logits, top: float, reach: float, count: int) -> tuple[Likely, ...]:
    """The `count` likeliest tokens; `reach` is the log of the sum of exp(logits - top)."""
    order = _largest(logits, min(count, logits.shape[0]))
    return tuple(Likely(int(token), float(logits[token]) - top - reach) for token in order)


def _candidates(
    logits: Logits, top: float, sampling: Sampling
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Tokens by falling probability, and their cumulative weights, after top-k and top-p."""
    size = logits.shape[0]
    scaled = np.exp((logits.astype(np.float64) - top) / sampling.temperature)
    limit = min(sampling.top_k or size, size)
    wanted = min(limit, _FIRST_CANDIDATES) if sampling.top_p < 1 else limit
    total = float(scaled.sum()) if limit == size else None
    while True:
        order = _largest(scaled, wanted)
        weights = np.cumsum(scaled[order])
        mass = sampling.top_p * (total if total is not None else float(weights[-1]))
        if wanted == limit or (total is not None and weights[-1] >= mass):
            break
        wanted = limit
    kept = int(np.searchsorted(weights, mass, side="left")) + 1 if sampling.top_p < 1 else wanted
    return order[:kept], weights[:kept]


def _largest(values: npt.NDArray[np.floating[Any]], count: int) -> npt.NDArray[Any]:
    """Indices of the `count` largest values, largest first, ties by index."""
    size = values.shape[0]
    if count < size:
        threshold = np.partition(values, size - count)[size - count]
        chosen = np.flatnonzero(values >= threshold)
    else:
        chosen = np.arange(size)
    return chosen[np.argsort(-values[chosen], kind="stable")][:count]


def _uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on (seed, position) alone."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())
