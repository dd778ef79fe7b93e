"""An answer: an iterator of the pieces of its text, and its figures."""

from __future__ import annotations

from collections.abc import Iterator

from edgepipe.api.background import Background
from edgepipe.api.session import Answering
from edgepipe.core.frame import FinishReason


class Generation(Iterator[str]):
    """What `Cluster.generate` returns. Figures are of what has come so far.

    Iterating raises StageError where the pipeline breaks.
    """

    def __init__(self, background: Background, answering: Answering) -> None:
        self._background = background
        self._answering = answering
        self._answer = answering.answer

    def __next__(self) -> str:
        piece = self._background.run(self._answering.next_piece())
        if piece is None:
            raise StopIteration
        return piece

    def read(self) -> str:
        """Wait for the rest; the whole text."""
        for _ in self:
            pass
        return self.text

    def close(self) -> None:
        """End the answer where it is. The model stays open."""
        self._background.run(self._answering.pieces.aclose())

    def __str__(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        """Without stop string and special tokens."""
        return self._answer.text

    @property
    def token_ids(self) -> list[int]:
        """The tokens of the text."""
        return self._answer.token_ids

    @property
    def prompt_token_ids(self) -> list[int]:
        """The tokens of the prompt, a chat template's included."""
        return list(self._answer.asked.prompt_ids)

    @property
    def finish_reason(self) -> FinishReason | None:
        """`stop` or `length`; None of an answer that has not ended."""
        return self._answer.finish

    @property
    def seed(self) -> int:
        """Draws the same answer again."""
        return self._answer.asked.sampling.seed

    @property
    def ttft_s(self) -> float:
        """Seconds from the first call of the iterator to the first token."""
        return self._answer.ttft_s

    @property
    def tokens_per_s(self) -> float:
        """From the first token to the last."""
        return self._answer.tokens_per_s

    @property
    def predicted_tokens_per_s(self) -> float | None:
        """What the plan says of `tokens_per_s`."""
        predicted = self._answering.model.running.plan.predicted
        return None if predicted is None else predicted.tokens_per_s
