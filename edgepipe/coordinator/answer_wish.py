"""What the user wants of an answer, and the model's own defaults for the rest."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from edgepipe.coordinator.generation import Asked
from edgepipe.coordinator.models import GenerationDefaults, Model
from edgepipe.coordinator.text import check_length
from edgepipe.core.frame import SequenceId
from edgepipe.core.sampling import Sampling
from edgepipe.errors import UsageError

DEFAULT_MAX_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Sampling as it was asked for; None leaves it to the model."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    stops: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raises UsageError for what no model can do; the rest depends on the model."""
        self._sampling(GenerationDefaults())
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"--max-tokens is {self.max_tokens}: ask for at least one token.")

    def asked(
        self, model: Model, prompt_ids: Sequence[int], max_positions: int, sequence: int
    ) -> Asked:
        """One sequence to generate. Raises PromptTooLong, UsageError."""
        wanted = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        return Asked(
            sequence=SequenceId(sequence),
            prompt_ids=prompt_ids,
            sampling=self._sampling(model.generation),
            max_tokens=check_length(len(prompt_ids), wanted, max_positions),
            eos_ids=model.eos_ids,
            stops=self.stops,
        )

    def _sampling(self, theirs: GenerationDefaults) -> Sampling:
        seed = secrets.randbits(32) if self.seed is None else self.seed
        return Sampling(
            temperature=_first(self.temperature, theirs.temperature, 0.0),
            top_p=_first(self.top_p, theirs.top_p, 1.0),
            top_k=int(_first(self.top_k, theirs.top_k, 0)),
            seed=seed,
        )


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
