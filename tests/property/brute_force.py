"""Every placement of a small cluster, costed by the formulas as they are written down.

Shares no code with edgepipe: plain numbers in, plain numbers out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, permutations, product

Stages = tuple[tuple[int, int, int], ...]
"""(device, first layer, end layer) of each stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    node: str
    host: str
    pool: str
    limit: int
    baseline: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    send: float
    receive: float
    medium: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """`items` are embedding, layers, head: each its tensors' parameters by name.

    `seconds[device][item]`; `speed[a][b]` and `delay[a][b]` of the link from a to b, and what its
    codecs leave of a frame and of a gradient, `left[a][b]` and `gradient_left[a][b]`. In training
    `seconds` are forward and backward, `update` the optimizer's, `inflight` bytes of each item.
    """

    machines: list[Machine]
    interfaces: dict[str, Interface]
    speed: list[list[float]]
    delay: list[list[float]]
    left: list[list[float]]
    gradient_left: list[list[float]]
    seconds: list[list[float]]
    items: list[dict[str, int]]
    kv_values: list[int]
    hidden: int
    vocab: int
    itemsize: int
    slots: int
    positions: int
    chunk: int
    frame_bytes: int
    return_bytes: int
    groups: int
    chunks: int
    microbatches: int
    gradient_bytes: int
    exchange_bytes: int | None
    fixed: float
    inflight: list[int]
    update: list[list[float]]


def placements(instance: Instance) -> Iterator[Stages]:
    num_layers = len(instance.items) - 2
    for count in range(1, min(len(instance.machines), num_layers) + 1):
        for inner in combinations(range(1, num_layers), count - 1):
            ranges = list(pairwise((0, *inner, num_layers)))
            for order in permutations(range(len(instance.machines)), count):
                yield tuple((d, *span) for d, span in zip(order, ranges, strict=True))


def item_indices(instance: Instance, first: int, end: int) -> list[int]:
    last = len(instance.items) - 1
    layers = list(range(first + 1, end + 1))
    return [0] * (first == 0) + layers + [last] * (end == last - 1)


def stage_memory(instance: Instance, first: int, end: int) -> int:
    held = item_indices(instance, first, end)
    tensors: dict[str, int] = {}
    for item in held:
        tensors.update(instance.items[item])
    kv = sum(instance.kv_values[item] for item in held)
    rows = max(instance.chunk, instance.slots)
    largest = [max(instance.items[item].values()) for item in range(first + 1, end + 1)]
    width = max(-(-size // instance.hidden) for size in largest)
    workspace = rows * (4 * instance.hidden + 3 * width) * instance.itemsize
    workspace += rows * instance.positions * 4
    workspace += 2 * rows * instance.hidden * 4
    if end == len(instance.items) - 2:
        workspace += instance.slots * instance.vocab * 4
    weights = sum(tensors.values()) * instance.itemsize
    return weights + instance.slots * instance.positions * kv * instance.itemsize + workspace


def pools_of(instance: Instance) -> list[list[int]]:
    pools: dict[tuple[str, str], list[int]] = {}
    for index, machine in enumerate(instance.machines):
        pools.setdefault((machine.node, machine.pool), []).append(index)
    return list(pools.values())


def pool_fits(instance: Instance, mates: list[int], used: dict[int, int]) -> bool:
    """`used` are the bytes of the stages on these devices."""
    if not used:
        return True
    wanted = sum(instance.machines[i].baseline + used.get(i, 0) for i in mates)
    if wanted > max(instance.machines[i].limit for i in mates):
        return False
    return all(instance.machines[i].baseline + used[i] <= instance.machines[i].limit for i in used)


def memory_fits(instance: Instance, stages: Stages, memory: dict[tuple[int, int], int]) -> bool:
    used = {device: memory[first, end] for device, first, end in stages}
    return all(
        pool_fits(instance, mates, {i: used[i] for i in mates if i in used})
        for mates in pools_of(instance)
    )


def network_seconds(
    instance: Instance, order: Sequence[int], *, ring: bool = False, gradients: bool = False
) -> float:
    """The busiest NIC direction or medium."""
    moves = [(a, b, frame_size(instance, a, b)) for a, b in pairwise(order)]
    if ring and len(order) > 1:
        moves.append((order[-1], order[0], instance.return_bytes))
    if gradients:
        moves += [(b, a, gradient_size(instance, b, a)) for a, b in pairwise(order)]
    busy: dict[tuple[str, str], float] = {}
    for a, b, size in moves:
        source, target = instance.machines[a].host, instance.machines[b].host
        if source == target:
            continue
        for host, way in ((source, "send"), (target, "receive")):
            if host not in instance.interfaces:
                continue
            interface = instance.interfaces[host]
            rate = interface.send if way == "send" else interface.receive
            key = ("air", interface.medium) if interface.medium else (way, host)
            busy[key] = busy.get(key, 0.0) + size / rate
    return max(busy.values(), default=0.0)


def figures(instance: Instance, stages: Stages) -> dict[str, float]:
    """Seconds per token, seconds per group, seconds to prefill."""
    order = [device for device, _, _ in stages]
    times = [
        sum(instance.seconds[device][item] for item in item_indices(instance, first, end))
        for device, first, end in stages
    ]
    through = sum(times) + sum(
        link_seconds(instance, a, b, frame_size(instance, a, b)) for a, b in pairwise(order)
    )
    ring = through
    if len(order) > 1:
        a, b = order[-1], order[0]
        ring += instance.delay[a][b] + instance.return_bytes / instance.speed[a][b]
    busiest = max(*times, network_seconds(instance, order, ring=True))
    busiest_through = max(*times, network_seconds(instance, order))
    return {
        "latency": ring,
        "throughput": 1 / min(1 / busiest, instance.groups / ring),
        "prefill": through + (instance.chunks - 1) * busiest_through,
    }


def frame_size(instance: Instance, a: int, b: int) -> float:
    return instance.frame_bytes * instance.left[a][b]


def gradient_size(instance: Instance, a: int, b: int) -> float:
    return instance.gradient_bytes * instance.gradient_left[a][b]


def link_seconds(instance: Instance, a: int, b: int, size: float) -> float:
    return instance.delay[a][b] + size / instance.speed[a][b]


def step_seconds(
    instance: Instance, stages: Stages, memory: dict[tuple[int, int], int]
) -> float | None:
    """Seconds of a training step; None where it does not fit."""
    order = [device for device, _, _ in stages]
    held = [item_indices(instance, first, end) for _, first, end in stages]
    times = [
        sum(instance.seconds[d][i] for i in items) for d, items in zip(order, held, strict=True)
    ]
    hops = [
        link_seconds(instance, a, b, frame_size(instance, a, b))
        + link_seconds(instance, b, a, gradient_size(instance, b, a))
        for a, b in pairwise(order)
    ]
    trips = [sum(times[i:]) + sum(hops[i:]) for i in range(len(stages))]
    each = [sum(instance.inflight[i] for i in items) for items in held]
    wait = 0.0
    for mates in pools_of(instance):
        inside = [i for i, device in enumerate(order) if device in mates]
        waits = [
            max((trips[i] / count for i, count in zip(inside, counts, strict=True)), default=0.0)
            for counts in product(range(1, instance.microbatches + 1), repeat=len(inside))
            if pool_fits(
                instance,
                mates,
                {
                    order[i]: memory[stages[i][1:]] + count * each[i]
                    for i, count in zip(inside, counts, strict=True)
                },
            )
        ]
        if not waits:
            return None
        wait = max(wait, min(waits))
    period = max(*times, network_seconds(instance, order, gradients=True), wait)
    exchange = 0.0
    if len(order) > 1 and instance.exchange_bytes is not None:
        a, b = order[0], order[-1]
        exchange = link_seconds(instance, a, b, instance.exchange_bytes)
        exchange += link_seconds(instance, b, a, instance.exchange_bytes)
    update = max(
        sum(instance.update[d][i] for i in items) for d, items in zip(order, held, strict=True)
    )
    through = sum(times) + sum(hops) + exchange
    return through + (instance.microbatches - 1) * period + update + instance.fixed


def stage_memories(instance: Instance) -> dict[tuple[int, int], int]:
    num_layers = len(instance.items) - 2
    return {
        (first, end): stage_memory(instance, first, end)
        for first in range(num_layers)
        for end in range(first + 1, num_layers + 1)
    }


def best_steps(instance: Instance, best: int) -> list[float]:
    """The `best` shortest training steps, rising."""
    memory = stage_memories(instance)
    steps = [step_seconds(instance, stages, memory) for stages in placements(instance)]
    return sorted(step for step in steps if step is not None)[:best]


def best_figures(
    instance: Instance,
    best: int,
    *,
    count: int | None = None,
    order: tuple[int, ...] | None = None,
) -> dict[str, list[float]]:
    """The `best` lowest figures of each kind among the placements that fit, rising.

    Only those of `count` stages, or on the devices of `order`, where these are given.
    """
    memory = stage_memories(instance)
    fitting = [
        figures(instance, stages)
        for stages in placements(instance)
        if memory_fits(instance, stages, memory)
        and count in {None, len(stages)}
        and order in {None, tuple(device for device, _, _ in stages)}
    ]
    return {
        kind: sorted(found[kind] for found in fitting)[:best]
        for kind in ("latency", "throughput", "prefill")
    }
