"""How many tokens a sequence may have, prompt and answer."""

from __future__ import annotations

from edgepipe.errors import UsageError

DEFAULT_CONTEXT = 4096


def context_of(asked: int | None, longest: int) -> int:
    """What was asked for, else the model's, DEFAULT_CONTEXT at most.

    Raises UsageError where that is not within 1 to the model's `longest`.
    """
    if asked is None:
        return min(longest, DEFAULT_CONTEXT)
    if not 0 < asked <= longest:
        raise UsageError(f"--context {asked} is not within the model's 1 to {longest}")
    return asked
