"""The accounts of one end of a link: credits it may spend, and frames that it holds."""

from __future__ import annotations

from dataclasses import dataclass

from edgepipe.errors import WireError


@dataclass(slots=True)
class Credit:
    """`granted` is what this end is ready to hold, `ceiling` what its peer is.

    A credit goes back with the next chunk of data, or alone once three quarters of those granted
    are owed. Until then the peer, were it out of credits, would still have frames here that wait:
    nobody idles for it, and most of the credit messages are saved. An `eager` end gives each back
    at once: where frames are large, and may be consumed in another order than they came.
    """

    granted: int
    ceiling: int
    eager: bool = False
    held: int = 0
    owed: int = 0
    spent: int = 0

    @property
    def available(self) -> int:
        """Frames that may be sent now."""
        return self.ceiling - self.spent

    @property
    def due(self) -> bool:
        """Whether credits should go back without waiting for data."""
        return self.owed >= (1 if self.eager else self._many)

    @property
    def _many(self) -> int:
        return max(1, self.granted - max(1, self.granted // 4))

    def spend(self) -> None:
        """A frame is sent."""
        assert self.available > 0
        self.spent += 1

    def refill(self, count: int) -> None:
        """Credits came back. Raises WireError for more than were spent."""
        if count > self.spent:
            raise WireError(f"{count} credits came back, but only {self.spent} were spent")
        self.spent -= count

    def hold(self) -> None:
        """A frame begins to arrive. Raises WireError if the peer had no credit for it."""
        if self.held + self.owed >= self.granted:
            raise WireError(f"a frame arrived beyond the {self.granted} credits of this link")
        self.held += 1

    def consume(self) -> None:
        """Compute took a frame over."""
        assert self.held > 0
        self.held -= 1
        self.owed += 1

    def settle(self) -> int:
        """The credits owed, which the caller sends now."""
        owed, self.owed = self.owed, 0
        return owed
