"""Bars that take the width they are given: memory by what fills it, layers by where they sit.

    ▓███▒▒░·········    idle worker, weights, KV cache, workspace, free
    E━━━━━━╌╌╌╌╌╌╌╌╌    a stage with the embedding, then layers of others

What fills a bar differs by its sign and not by its colour alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.segment import Segment

_ASCII = str.maketrans("▓█▒░·━╌", "*#=+.=-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A share of a bar."""

    size: int
    sign: str
    style: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Parts of a whole, side by side; parts larger than the whole fill it. The rest is free."""

    parts: Sequence[Part]
    whole: int

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return _measure(options, widest=24)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        width = min(options.max_width, 24)
        whole = max(self.whole, sum(part.size for part in self.parts), 1)
        drawn = filled = 0
        for part in self.parts:
            filled += part.size
            end = round(filled * width / whole)
            yield _segment(console, options, part.sign * (end - drawn), part.style)
            drawn = max(drawn, end)
        yield _segment(console, options, "·" * (width - drawn), "dim")
        yield Segment.line()


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Where layers [first, end) sit among `num_layers`; E and H stand for embedding and head."""

    first: int
    end: int
    num_layers: int
    embedding: bool
    head: bool

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return _measure(options, widest=32)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        width = max(1, min(options.max_width, 32) - 2)
        start, stop = self._cells(width)
        yield _segment(console, options, "E" if self.embedding else " ", "bold")
        yield _segment(console, options, "╌" * start, "dim")
        yield _segment(console, options, "━" * (stop - start), "cyan")
        yield _segment(console, options, "╌" * (width - stop), "dim")
        yield _segment(console, options, "H" if self.head else " ", "bold")
        yield Segment.line()

    def _cells(self, width: int) -> tuple[int, int]:
        """The cells to fill: at least one, unless the stage has no layer."""
        start, stop = (
            round(layer * width / max(self.num_layers, 1)) for layer in (self.first, self.end)
        )
        if self.first == self.end or stop > start:
            return start, stop
        start = min(start, width - 1)
        return start, start + 1


def _measure(options: ConsoleOptions, *, widest: int) -> Measurement:
    return Measurement(min(8, options.max_width), min(widest, options.max_width))


def _segment(console: Console, options: ConsoleOptions, text: str, style: str) -> Segment:
    signs = text.translate(_ASCII) if options.ascii_only else text
    return Segment(signs, console.get_style(style))


@dataclass(frozen=True, slots=True, kw_only=True)
class Legend:
    """One line that says what signs mean."""

    text: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        yield _segment(console, options, self.text, "dim")
        yield Segment.line()
