"""What `edgepipe nodes` and `edgepipe plan` show. Names come from other machines: never markup."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgepipe.cli.bars import Bar, Legend, Part, Strip
from edgepipe.coordinator.node_rows import NodeRow
from edgepipe.core.pipeline import Plan, Stage
from edgepipe.core.plan_text import (
    count,
    duration,
    left_out_texts,
    prediction_text,
    shortage_texts,
    summary_text,
)
from edgepipe.core.profile import DeviceProfile, NodeState
from edgepipe.core.size import human_size

_STATE_STYLES = {
    NodeState.ALIVE: "green",
    NodeState.SUSPECT: "yellow",
    NodeState.LOST: "red",
    NodeState.UNUSABLE: "red",
}
_MAX_ADDRESSES = 2


def nodes_table(rows: Sequence[NodeRow]) -> RenderableType:
    """The cluster: a row for each device, and one for a node that shows none; then a summary."""
    table = _table("node", "state", "device", "memory", "use")
    for row in rows:
        devices = row.profile.devices if row.profile else ()
        for at, device in enumerate(devices or (None,)):
            table.add_row(*(_node_cells(row) if at == 0 else ("", "")), *_device_cells(row, device))
    return Group(table, _nodes_summary(rows)) if rows else Text("No node answers.")


def plan_table(plan: Plan) -> RenderableType:
    """The plan: a row for each stage, what the signs mean, what is left out, and a summary."""
    table = _table("", "stage", "layers", "", "memory", "", "time")
    for column in table.columns[-2:]:
        column.no_wrap = True  # the bars give way first
    for at, stage in enumerate(plan.stages):
        table.add_row(str(at), *_stage_cells(stage, plan.num_layers))
    legend = Legend(text="▓ idle worker  █ weights  ▒ KV cache  ░ workspace  · free")
    left_out = (_plain(text, "yellow") for text in left_out_texts(plan))
    shortages = (_plain(text, "red") for text in shortage_texts(plan))
    summary = _plain(summary_text(plan), "bold" if plan.feasible else "bold red")
    told = Text(prediction_text(plan), "bold")
    return Group(table, legend, *left_out, *shortages, summary, *([told] if told else []))


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading)
    return table


def _plain(text: str, style: str = "") -> Text:
    """Text from another machine: no markup, no control characters."""
    return Text("".join(sign if sign.isprintable() else "?" for sign in text), style)


def _node_cells(row: NodeRow) -> tuple[RenderableType, RenderableType]:
    shown = [str(address) for address in row.addresses[:_MAX_ADDRESSES]]
    more = len(row.addresses) - len(shown)
    lines = [*shown, f"and {more} more"] if more else shown
    return (
        Group(_plain(row.name, "bold"), *(_plain(line, "dim") for line in lines)),
        Text(row.state, _STATE_STYLES[row.state]),
    )


def _device_cells(row: NodeRow, device: DeviceProfile | None) -> Iterator[RenderableType]:
    if device is None:
        yield from ("", "", _plain(row.reason))
        return
    used = device.memory_bytes - device.memory_free_bytes
    free = f"{human_size(device.memory_free_bytes)} of {human_size(device.memory_bytes)} free"
    yield Group(_plain(device.id, "bold"), _plain(device.name, "dim"))
    yield Group(
        Bar(parts=(Part(size=used, sign="█", style="blue"),), whole=device.memory_bytes), free
    )
    yield _use(row, device)


def _use(row: NodeRow, device: DeviceProfile) -> RenderableType:
    lines = [_plain(row.reason, "yellow")] if row.reason else []
    if device.lease is not None:
        lines.append(_plain(f"{device.lease.job} of {device.lease.holder}"))
    elif not row.reason:
        lines.append(Text("free", "green"))
    lines += [
        _plain(f"{speed.decode_tokens_per_s:.3g} tokens/s of {speed.model}", "dim")
        for speed in row.speeds.get(device.id, ())[:1]
    ]
    if device.slowdown != 1:
        lines.append(Text(f"slowed down {device.slowdown:g} times", "dim"))
    return Group(*lines)


def _nodes_summary(rows: Sequence[NodeRow]) -> Text:
    alive = [row for row in rows if row.state is NodeState.ALIVE]
    devices = [device for row in alive if row.profile for device in row.profile.devices]
    leased = sum(device.lease is not None for device in devices)
    limit = human_size(sum(device.memory_limit_bytes for device in devices))
    return Text(
        f"{len(alive)} of {count(len(rows), 'node')} alive, {count(len(devices), 'device')}, "
        f"{leased} in use, {limit} for models"
    )


def _stage_cells(stage: Stage, num_layers: int) -> Iterator[RenderableType]:
    yield Group(_plain(stage.node, "bold"), _plain(stage.device, "dim"))
    yield Strip(
        first=stage.first,
        end=stage.end,
        num_layers=num_layers,
        embedding=stage.embedding,
        head=stage.head,
    )
    yield f"[{stage.first}, {stage.end})"
    over = stage.memory_bytes > stage.memory_limit_bytes
    yield Bar(parts=_memory_parts(stage, over=over), whole=stage.memory_limit_bytes)
    yield Text(
        f"{human_size(stage.memory_bytes)} of {human_size(stage.memory_limit_bytes)}",
        "red" if over else "",
    )
    yield duration(stage.forward_s + stage.backward_s)


def _memory_parts(stage: Stage, *, over: bool) -> tuple[Part, ...]:
    work = stage.workspace_bytes + stage.inflight_bytes
    sizes = (stage.baseline_bytes, stage.weight_bytes, stage.kv_bytes, work)
    signs = ("▓", "█", "▒", "░")
    styles = ("red",) * 4 if over else ("dim", "blue", "cyan", "magenta")
    return tuple(
        Part(size=size, sign=sign, style=style)
        for size, sign, style in zip(sizes, signs, styles, strict=True)
    )
