"""What a step of training came to: a line of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """Losses are in nats per target; tokens, seconds and bytes over all links are of the step.

    `loss` is of the step's batch before it was applied, `eval_loss` of what is held out after.
    `more` are further keys.
    """

    step: int
    loss: float
    eval_loss: float | None = None
    grad_norm: float
    learning_rate: float
    num_tokens: int
    tokens_per_s: float
    step_s: float
    predicted_step_s: float
    bubble: float
    bytes: int
    more: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The line; `eval_loss` stands in it only where something was evaluated."""
        line = {each.name: getattr(self, each.name) for each in fields(self)}
        more = line.pop("more")
        if self.eval_loss is None:
            del line["eval_loss"]
        return {**line, **more}
