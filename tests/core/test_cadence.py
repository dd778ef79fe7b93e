"""After which steps a run evaluates and saves."""

from __future__ import annotations

from edgepipe.core.cadence import Cadence


def test_every_so_many_steps_and_at_the_end() -> None:
    cadence = Cadence(num_steps=50, eval_every=20, checkpoint_every=25)
    steps = range(1, 51)
    assert [step for step in steps if cadence.evaluates(step)] == [20, 40, 50]
    assert [step for step in steps if cadence.saves(step)] == [25, 50]


def test_nothing_but_the_end() -> None:
    cadence = Cadence(num_steps=5, eval_every=0, checkpoint_every=0)
    assert [step for step in range(1, 6) if cadence.evaluates(step)] == [5]
    assert [step for step in range(1, 6) if cadence.saves(step)] == [5]
