"""What the user asked of a plan's shape, and what is left of it once devices are lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from edgepipe.coordinator.planning import How
from edgepipe.core.work import Strategy


def pins_of(how: How) -> str:
    """The options that pin the shape, as they were written; "" where the planner is free."""
    if how.pinned is not None:
        return "--plan"
    cuts = ",".join(map(str, how.split or ()))
    named = ",".join(how.nodes or ())
    count = "" if how.num_stages is None else str(how.num_stages)
    options = (("--split", cuts), ("--nodes", named), ("--stages", count))
    return " ".join(f"{option} {value}" for option, value in options if value)


def fallbacks(how: How, nodes: Sequence[str]) -> Iterator[How]:
    """How to plan where what was asked for cannot be had, the closest to it first.

    `nodes` are those of the usable devices, one for each device. First with the nodes that are
    left of those that were named, and as many stages as there are devices; then freely.
    """
    if not pins_of(how):
        return
    free = _free(how)
    left = tuple(name for name in how.nodes or () if name in nodes)
    num_devices = sum(name in left for name in nodes) if left else len(nodes)
    wanted = _num_stages(how)
    if num_devices:
        stages = None if wanted is None else min(wanted, num_devices)
        yield replace(free, nodes=left or None, num_stages=stages)
    yield free


def _num_stages(how: How) -> int | None:
    if how.pinned is not None:
        return len(how.pinned.stages)
    return how.num_stages or (None if how.split is None else len(how.split) + 1)


def _free(how: How) -> How:
    """Without any pin; what the stages hold stays as it was."""
    formats = how.weight_formats
    if how.pinned is not None and how.pinned.inputs.weight_format is not None:
        formats = (how.pinned.inputs.weight_format,)
    elif len(formats) > 1 and how.weight_format is not None:
        formats = (how.weight_format,)
    return replace(
        how,
        pinned=None,
        split=None,
        nodes=None,
        num_stages=None,
        strategy=None if how.strategy is Strategy.MANUAL else how.strategy,
        weight_formats=formats,
        num_slots=how.num_slots if how.pinned is None else how.pinned.inputs.num_slots,
    )
