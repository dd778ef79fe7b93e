"""`edgepipe bench link`: its table and document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgepipe.cli.show import print_json
from edgepipe.coordinator.emulated import emulate, emulated_deployment
from edgepipe.coordinator.launch import Where, open_cluster
from edgepipe.coordinator.pipeline import open_pipeline
from edgepipe.coordinator.progress import Silent
from edgepipe.coordinator.worker_calls import LinkFigures
from edgepipe.errors import PlanError, UsageError

MAX_FRAME_MIB = 64


async def bench_link(where: Where, *, frame_mib: int, json: bool) -> None:
    """`edgepipe bench link`: every pair, both ways, one after another."""
    if not 1 <= frame_mib <= MAX_FRAME_MIB:
        raise UsageError(f"--frame-mib {frame_mib} is not within 1 to {MAX_FRAME_MIB}")
    async with open_cluster(where) as roster:
        deployment = emulated_deployment(
            emulate(roster, num_stages=None, stage_s=[0.0]),
            num_slots=1,
            max_positions=1,
            prefill_chunk=1,
            codec=None,
        )
        if len(deployment.stages) < 2:
            raise PlanError("a link has two ends, and only one device is free")
        names = [stage.node.name for stage in deployment.stages]
        async with open_pipeline(deployment, roster.nodes, Silent()) as pipeline:
            rows = [
                (
                    names[source],
                    names[target],
                    await pipeline.measure_link(source, target, frame_mib << 20),
                )
                for source in range(len(names))
                for target in range(len(names))
                if source != target
            ]
    if json:
        print_json({"links": [_link_json(*row) for row in rows]})
    else:
        Console().print(_link_table(rows))


def _link_json(source: str, target: str, figures: LinkFigures) -> dict[str, Any]:
    return {
        "from": source,
        "to": target,
        "address": str(figures.address),
        "bytes_per_s": figures.bytes_per_s,
        "latency_s": figures.latency_s,
        "raw_tcp_bytes_per_s": figures.raw_tcp_bytes_per_s,
    }


def _link_table(rows: Sequence[tuple[str, str, LinkFigures]]) -> Table:
    table = Table(box=box.SIMPLE)
    for heading in ("from", "to", "address"):
        table.add_column(heading)
    for heading in ("MB/s", "of raw TCP", "latency"):
        table.add_column(heading, justify="right")
    for source, target, figures in rows:
        share = figures.bytes_per_s / figures.raw_tcp_bytes_per_s
        table.add_row(
            *(Text(word) for word in (source, target, str(figures.address))),  # never markup
            f"{figures.bytes_per_s / 1e6:.1f}",
            f"{share:.0%}",
            f"{figures.latency_s * 1000:.2f} ms",
        )
    return table
