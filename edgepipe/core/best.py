"""The best placements that a search has found."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgepipe.core.costs import cost, rank_of
from edgepipe.core.problem import Placement, Problem
from edgepipe.core.resources import Resources, resources_of


@dataclass(slots=True, kw_only=True)
class Best:
    """The best whole placements found so far, at most `num`, by the goal's rank of their cost.

    One that does not rank below `worth` is none of them.
    """

    problem: Problem
    num: int
    worth: float = np.inf
    ranks: dict[Placement, float] = field(default_factory=dict)
    resources: Resources = field(init=False)

    def __post_init__(self) -> None:
        """Shared resources are the same for every placement."""
        self.resources = resources_of(self.problem)

    @property
    def first(self) -> float:
        """The best rank, or infinity."""
        return min(self.ranks.values(), default=np.inf)

    @property
    def limit(self) -> float:
        """Only what ranks below this is worth finding."""
        full = len(self.ranks) >= self.num
        return min(self.worth, max(self.ranks.values())) if full else self.worth

    def offer(self, placement: Placement) -> None:
        """Take a placement in if it is good enough, and drop the worst where there are too many."""
        if placement in self.ranks:
            return
        rank = rank_of(self.problem, cost(self.problem, placement, self.resources))
        if rank >= self.limit:
            return
        self.ranks[placement] = rank
        if len(self.ranks) > self.num:
            del self.ranks[max(self.ranks, key=self.ranks.__getitem__)]
