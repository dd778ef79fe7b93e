"""The search against every placement there is, costed by code that shares nothing with it."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from brute_force import Instance, Interface, Machine, best_figures, best_steps

from edgepipe.core import horizon
from edgepipe.core import search as search_module
from edgepipe.core.fit import Workload
from edgepipe.core.frame import DType
from edgepipe.core.goal import Goal, Latency, Prefill, Throughput, Train
from edgepipe.core.model import Item, ModelShape
from edgepipe.core.problem import Device, Nic, Problem, Traffic, Training
from edgepipe.core.search import search
from edgepipe.core.stage_bytes import stage_bytes_of

NUM_BEST = 8
FIGURES = ("latency", "throughput", "prefill")


def instance_of(seed: int, *, devices: int, layers: int) -> Instance:
    """A random cluster and model, often with pools, media, slow links, and too little memory.

    Every fourth is of equal devices on equal links.
    """
    rng, equal = Random(seed), seed % 4 == 0
    num, num_layers = rng.randint(devices // 2, devices), rng.randint(layers // 2, layers)
    items = items_of(rng, num_layers)
    machines = machines_of(rng, num, 2 * sum(sum(item.values()) for item in items), equal=equal)
    slow = rng.choice([1e-3, 0.3, 3.0, 30.0])
    latency = rng.choice([0.0, 0.01, 0.3])
    return Instance(
        machines=machines,
        interfaces=interfaces_of(rng, {machine.host for machine in machines}, slow, equal=equal),
        speed=matrix_of(rng, num, 300 / slow, 3000 / slow, equal=equal),
        delay=matrix_of(rng, num, 0.0, latency, equal=equal),
        left=shares_of(rng, num, equal=equal),
        gradient_left=shares_of(rng, num, equal=equal),
        seconds=seconds_of(rng, num, num_layers, equal=equal),
        items=items,
        kv_values=[0, *(rng.choice([0, 4, 8]) for _ in range(num_layers)), 0],
        hidden=8,
        vocab=64,
        itemsize=2,
        slots=rng.choice([1, 4]),
        positions=rng.choice([4, 16]),
        chunk=rng.choice([1, 8]),
        frame_bytes=1000,
        return_bytes=rng.choice([0, 10, 1000]),
        groups=rng.choice([1, 2, 4, 8]),
        chunks=rng.choice([1, 2, 6, 30]),
        microbatches=rng.choice([1, 2, 4]),
        gradient_bytes=rng.choice([1000, 2000]),
        exchange_bytes=500 if "embed" in items[-1] else None,
        fixed=0.1,
        inflight=[0, *(rng.choice([100, 1000, 4000]) for _ in range(num_layers)), 200],
        update=seconds_of(rng, num, num_layers, equal=equal),
    )


def machines_of(rng: Random, num: int, weight_bytes: int, *, equal: bool) -> list[Machine]:
    """Some share a node, and of these some share memory; a host may hold two nodes."""
    alone = rng.random()
    nodes = [f"m{i}" if rng.random() < alone else f"n{rng.randrange(3)}" for i in range(num)]
    limit = int(rng.choice([0.4, 0.8, 1.5, 5.0]) * weight_bytes) + 4000
    return [
        Machine(
            node=node,
            host="n0" if node == "n1" else node,
            pool=rng.choice(["ram", "ram", f"own{index}"]),
            limit=limit if equal else int(limit * rng.uniform(0.3, 1.5)),
            baseline=500,
        )
        for index, node in enumerate(nodes)
    ]


def interfaces_of(
    rng: Random, hosts: set[str], slow: float, *, equal: bool
) -> dict[str, Interface]:
    media = [None, None, "wifi"] if rng.random() < 0.7 and not equal else [rng.choice([None, "w"])]
    rates = [1.0] if equal else [rng.uniform(0.3, 3) for _ in range(4)]
    return {
        host: Interface(
            send=1000 / slow * rng.choice(rates),
            receive=1000 / slow * rng.choice(rates),
            medium=rng.choice(media),
        )
        for host in sorted(hosts)
        if equal or rng.random() < 0.9
    }


def matrix_of(rng: Random, num: int, low: float, high: float, *, equal: bool) -> list[list[float]]:
    value = rng.uniform(low, high)
    return [[value if equal else rng.uniform(low, high) for _ in range(num)] for _ in range(num)]


def shares_of(rng: Random, num: int, *, equal: bool) -> list[list[float]]:
    """What each link's codec leaves: all links alike, or each as it likes."""
    value = rng.choice([1.0, 0.5])
    alike = equal or rng.random() < 0.5
    return [
        [value if alike else rng.choice([1.0, 0.5, 0.25]) for _ in range(num)] for _ in range(num)
    ]


def seconds_of(rng: Random, num: int, num_layers: int, *, equal: bool) -> list[list[float]]:
    """Seconds by device and item, in proportion or not; a cheap embedding, a dear head."""
    costs = [0.2, *(rng.uniform(0.5, 1.5) for _ in range(num_layers)), rng.uniform(0.5, 3)]
    noise = 0.0 if equal else rng.choice([0.0, 0.3])
    speeds = [1.0 if equal else rng.uniform(0.3, 5) for _ in range(num)]
    return [[cost * speed * (1 + noise * rng.random()) for cost in costs] for speed in speeds]


def items_of(rng: Random, num_layers: int) -> list[dict[str, int]]:
    head = {"embed": 512} if rng.random() < 0.5 else {"head": 512}
    layers = [
        {f"{layer}.q": 64, f"{layer}.up": 8 * rng.randint(4, 64)} for layer in range(num_layers)
    ]
    return [{"embed": 512}, *layers, head]


def model_of(instance: Instance) -> ModelShape:
    items = [
        Item(
            name=str(index),
            tensors=tuple(tensors),
            num_parameters=sum(tensors.values()),
            kv_values_per_token=kv,
        )
        for index, (tensors, kv) in enumerate(zip(instance.items, instance.kv_values, strict=True))
    ]
    return ModelShape(
        name="random",
        architecture="",
        num_layers=len(items) - 2,
        hidden_size=instance.hidden,
        vocab_size=instance.vocab,
        max_positions=instance.positions,
        tied="embed" in instance.items[-1],
        dtype=DType.BFLOAT16,
        embedding=items[0],
        layers=tuple(items[1:-1]),
        head=items[-1],
        parameters={name: size for item in instance.items for name, size in item.items()},
    )


def problem_of(instance: Instance, goal: Goal) -> Problem:
    workload = Workload(
        dtype=DType.BFLOAT16,
        num_slots=instance.slots,
        max_positions=instance.positions,
        prefill_chunk=instance.chunk,
    )
    goes_back = not isinstance(goal, Prefill)
    return Problem(
        devices=tuple(
            Device(
                node=machine.node,
                device=str(index),
                host=machine.host,
                pool=machine.pool,
                memory_limit_bytes=machine.limit,
                baseline_bytes=machine.baseline,
            )
            for index, machine in enumerate(instance.machines)
        ),
        item_s=np.array(instance.seconds),
        stage_bytes=stage_bytes_of(model_of(instance), workload),
        link_bytes_per_s=np.array(instance.speed),
        link_latency_s=np.array(instance.delay),
        frame_share=np.array(instance.left),
        gradient_share=np.array(instance.gradient_left),
        traffic=Traffic(
            frame_bytes=instance.frame_bytes,
            return_bytes=instance.return_bytes if goes_back else None,
        ),
        goal=goal,
        nics={
            host: Nic(
                send_bytes_per_s=interface.send,
                receive_bytes_per_s=interface.receive,
                medium=interface.medium,
            )
            for host, interface in instance.interfaces.items()
        },
    )


def training_of(instance: Instance) -> Problem:
    """The same cluster, for training; a stage keeps what its items keep of each microbatch."""
    base = problem_of(instance, Latency())
    num = base.num_layers
    sums = np.cumsum([0, *instance.inflight])
    begins, ends = np.arange(num + 1) + 1, np.arange(num + 1) + 1
    begins[0], ends[-1] = 0, num + 2
    return replace(
        base,
        goal=Train(num_microbatches=instance.microbatches, fixed_s=instance.fixed),
        traffic=Traffic(
            frame_bytes=instance.frame_bytes,
            gradient_bytes=instance.gradient_bytes,
            exchange_bytes=instance.exchange_bytes,
        ),
        training=Training(
            inflight_bytes=np.triu(sums[ends] - sums[begins][:, None], k=1),
            update_s=np.array(instance.update),
        ),
    )


def check_training(seed: int, *, devices: int, layers: int) -> None:
    instance = instance_of(seed, devices=devices, layers=layers)
    expected = best_steps(instance, NUM_BEST)
    solution = search(training_of(instance), num_best=NUM_BEST)
    found = [one.cost.seconds for one in solution.found]
    assert solution.proven
    assert bool(found) == bool(expected), seed
    assert found[:1] == pytest.approx(expected[:1], rel=1e-8), seed
    assert all(one.cost.fits for one in solution.found)
    if seed % 4:
        assert found == pytest.approx(expected, rel=1e-8), seed


def goals_of(instance: Instance) -> dict[str, Goal]:
    return {
        "latency": Latency(),
        "throughput": Throughput(num_groups=instance.groups, group_size=1),
        "prefill": Prefill(num_chunks=instance.chunks),
    }


def check(seed: int, *, devices: int, layers: int) -> None:
    """The same figures as the brute force's, best first; equal devices are listed once."""
    instance = instance_of(seed, devices=devices, layers=layers)
    expected = best_figures(instance, NUM_BEST)
    for figure, goal in goals_of(instance).items():
        solution = search(problem_of(instance, goal), num_best=NUM_BEST)
        found = [one.cost.seconds for one in solution.found]
        assert solution.proven
        assert bool(found) == bool(expected[figure]), f"{seed} {figure}"
        assert all(one.cost.fits for one in solution.found)
        assert found[:1] == pytest.approx(expected[figure][:1], rel=1e-8), f"{seed} {figure}"
        if seed % 4:
            assert found == pytest.approx(expected[figure], rel=1e-8), f"{seed} {figure}"


@pytest.mark.parametrize("seed", range(60))
def test_no_placement_is_better_than_the_found_one(seed: int) -> None:
    check(seed, devices=4, layers=6)


@pytest.mark.parametrize("seed", range(40))
def test_no_placement_trains_faster_than_the_found_one(seed: int) -> None:
    check_training(seed, devices=4, layers=5)


@pytest.mark.parametrize("seed", range(100, 120))
def test_no_placement_of_so_many_stages_is_better(seed: int) -> None:
    instance = instance_of(seed, devices=4, layers=6)
    for count in range(1, len(instance.machines) + 1):
        expected = best_figures(instance, 1, count=count)
        for figure, goal in goals_of(instance).items():
            problem = replace(problem_of(instance, goal), num_stages=count)
            found = [one.cost.seconds for one in search(problem, num_best=1).found]
            assert found == pytest.approx(expected[figure], rel=1e-8), f"{seed} {figure} {count}"


@pytest.mark.parametrize("seed", range(200, 220))
def test_no_placement_on_devices_in_this_order_is_better(seed: int) -> None:
    instance = instance_of(seed, devices=4, layers=6)
    order = tuple(Random(seed).sample(range(len(instance.machines)), 2))
    expected = best_figures(instance, NUM_BEST, order=order)
    for figure, goal in goals_of(instance).items():
        problem = replace(problem_of(instance, goal), order=order)
        found = [one.cost.seconds for one in search(problem, num_best=NUM_BEST).found]
        assert found == pytest.approx(expected[figure], rel=1e-8), f"{seed} {figure}"


@pytest.mark.parametrize("seed", range(300, 320))
def test_the_gap_holds_where_few_devices_are_kept_track_of(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(horizon, "_TABLE_CELLS", 1.0)
    instance = instance_of(seed, devices=5, layers=6)
    expected = best_figures(instance, 1)
    for figure, goal in goals_of(instance).items():
        solution = search(problem_of(instance, goal), num_best=1)
        found = [one.cost.seconds for one in solution.found]
        for mine, best in zip(found, expected[figure], strict=False):
            assert mine * (1 - solution.gap) <= best * (1 + 1e-8)
            assert mine >= best * (1 - 1e-8)
        assert len(found) == len(expected[figure]) or not solution.proven


@pytest.mark.parametrize("seed", range(500, 530))
def test_a_beam_that_begins_narrow_and_is_widened_misses_nothing(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "_FIRST_WIDTH", 2)
    monkeypatch.setattr(search_module, "_WIDER", 2)
    check(seed, devices=4, layers=6)
    check_training(seed, devices=4, layers=6)


@pytest.mark.parametrize("seed", range(400, 420))
def test_only_what_is_worth_it_is_found(seed: int) -> None:
    instance = instance_of(seed, devices=4, layers=6)
    expected = best_figures(instance, NUM_BEST)
    for figure, goal in goals_of(instance).items():
        if len(expected[figure]) < NUM_BEST or figure == "throughput":  # ranked by more than that
            continue
        worth = (expected[figure][0] + expected[figure][-1]) / 2
        solution = search(problem_of(instance, goal), num_best=NUM_BEST, worth=worth)
        found = [one.cost.seconds for one in solution.found]
        wanted = [each for each in expected[figure] if each < worth]
        assert solution.proven
        assert found[:1] == pytest.approx(wanted[:1], rel=1e-8), f"{seed} {figure}"
        assert not search(
            problem_of(instance, goal), num_best=1, worth=expected[figure][0] * (1 - 1e-6)
        ).found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1500))
def test_no_placement_of_five_devices_and_twelve_items_is_better(seed: int) -> None:
    check(seed, devices=5, layers=10)
    check_training(seed, devices=5, layers=10)
