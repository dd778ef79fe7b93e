"""What was measured of devices and links, as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgepipe.coordinator.known import KnownLink
from edgepipe.coordinator.link_survey import NoLink
from edgepipe.core.plan_text import duration
from edgepipe.core.speed import DeviceSpeed, Link
from edgepipe.core.survey import Survey


def speeds_table(survey: Survey, *, prefill_chunk: int) -> RenderableType:
    """A row for each device, as if it held the whole model, and one for each link."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("device", "a layer, a token", "head", "model", f"{prefill_chunk} tokens"):
        table.add_column(heading, justify="right" if heading != "device" else "left")
    for candidate, speed in zip(survey.devices, survey.speeds, strict=True):
        name = f"{candidate.node} ({candidate.device.id})"
        table.add_row(Text(name), *_cells(speed, prefill_chunk))
    return Group(table, *([links_table(survey.links)] if survey.links else []))


def _cells(speed: DeviceSpeed, prefill_chunk: int) -> Iterator[str]:
    decode = [item.decode.at(1) for item in speed.items]
    layers = decode[1:-1]
    yield duration(sum(layers) / len(layers))
    yield duration(decode[-1])
    yield f"{1 / max(sum(decode), 1e-9):.3g} tokens/s"
    yield duration(sum(item.prefill.at(prefill_chunk) for item in speed.items))


def unlinked_lines(pairs: Sequence[NoLink]) -> list[str]:
    """A line for each pair of nodes of which one cannot reach the other."""
    return [f"{pair.sender} cannot reach {pair.receiver}: {pair.reason}" for pair in pairs]


def links_table(links: Sequence[Link | KnownLink]) -> Table:
    """A row for each link, one way."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("link", "MB/s", "latency"):
        table.add_column(heading, justify="right" if heading != "link" else "left")
    for link in links:
        table.add_row(
            Text(f"{link.sender} to {link.receiver}"),
            f"{link.bytes_per_s / 1e6:.0f}",
            duration(link.latency_s),
        )
    return table
