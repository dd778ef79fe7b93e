"""Stop strings: what of a growing text may be shown, and where it ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class StopScanner:
    """Passes text on until a stop string is complete.

    The text ends before the stop string whose last character comes first (of several that end
    there, before the longest). This does not depend on how the text is cut into pieces, and a
    reader is never shown a part of it:

        stops ["END"]    fed "the E"  ->  "the "    "E" may begin a stop string
                         fed "N"      ->  ""
                         fed "D of"   ->  ""        found; " of" is dropped
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops: Sequence[str] = tuple(dict.fromkeys(stop for stop in stops if stop))
        self._held = ""
        self.found: str | None = None

    def feed(self, piece: str) -> str:
        """Take the next piece of text and return what is safe to show. Empty once found."""
        if self.found is not None:
            return ""
        text = self._held + piece
        match = self._first_stop(text)
        if match is not None:
            start, self.found = match
            self._held = ""
            return text[:start]
        keep = self._num_held(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, once no more text will come."""
        held, self._held = self._held, ""
        return held

    def _first_stop(self, text: str) -> tuple[int, str] | None:
        """The start of the stop string that ends first, and that string."""
        hits = [(text.find(stop), stop) for stop in self._stops]
        ends = [(start + len(stop), start, stop) for start, stop in hits if start >= 0]
        return min(ends)[1:] if ends else None

    def _num_held(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
