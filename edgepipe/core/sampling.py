"""Choosing the next token from logits.

The generator is counter-based (Philox), keyed by (seed, position): equal logits give equal
tokens, whatever was sampled before and wherever it was sampled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgepipe.errors import StageError, UsageError

Logits = npt.NDArray[np.float32]
_FIRST_CANDIDATES = 1024
"""Enough of the vocabulary for almost every nucleus; the rest is sorted only if it is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample. Temperature 0 is greedy; top_k 0 and top_p 1 leave the vocabulary whole."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100:
            raise UsageError(f"temperature must lie in [0, 100], not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p must lie in (0, 1], not {self.top_p}")
        if self.top_k < 0:
            raise UsageError(f"top_k must be 0 (off) or more, not {self.top_k}")
        if not 0 <= self.seed < 1 << 64:
            raise UsageError(f"seed must lie in [0, 2^64), not {self.seed}")


@np.errstate(over="ignore")  # a difference too large for a float is -inf, which is meant
def sample(logits: Logits, sampling: Sampling, position: int) -> tuple[int, float]:
    """Sample one token for `position`.

    Args:
        logits: float32 [vocab].
        sampling: temperature first, then top-k, then top-p (nucleus, Holtzman et al. 2020).
        position: index of the new token in its sequence; the generator's counter.

    Returns:
        The token, and its log-probability under the unmodified logits.

    Raises:
        StageError: the largest logit is not finite, as it is where activations overflowed.
    """
    top = float(logits.max())
    if not math.isfinite(top):
        raise StageError(
            "the model gave logits that are not finite: use a dtype of wider range, such as float32"
        )
    if sampling.temperature == 0 or sampling.top_k == 1:
        token = int(logits.argmax())
    else:
        candidates, weights = _candidates(logits, top, sampling)
        threshold = _uniform(sampling.seed, position) * weights[-1]
        token = int(candidates[int(np.searchsorted(weights, threshold, side="right"))])
    return token, _logprob(logits, top, token)


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


def _largest(values: npt.NDArray[np.float64], count: int) -> npt.NDArray[Any]:
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


def _logprob(logits: Logits, top: float, token: int) -> float:
    return float(logits[token]) - top - float(np.log(np.exp(logits - top).sum()))
