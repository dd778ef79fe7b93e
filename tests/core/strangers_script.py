"""What a stranger makes of `edgepipe plan --json`, after docs/plan.md alone: no edgepipe in here.

python strangers_script.py PLAN.json
"""

from __future__ import annotations

import json
import sys
from heapq import heappop, heappush
from itertools import pairwise
from pathlib import Path

ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2}


def recompute(plan):
    """Memory of each stage, whether all fits, and the predicted figures."""
    stages = plan["stages"]
    memory = [memory_bytes(plan, stage) for stage in stages]
    found = {"memory_bytes": memory, "feasible": fits(plan, memory)}
    if not found["feasible"]:
        return found
    if plan["objective"] == "train":
        return {**found, "step_s": step_s(plan)}
    slots, frame = plan["inputs"]["num_slots"], plan["inputs"]["frame"]
    decode_s = turn_s(plan, 1, "decode_s", "decode", frame["decode_return_bytes"])
    if plan["objective"] == "throughput":
        group_s = turn_s(plan, plan["num_groups"], "item_s", None, frame["return_bytes"])
        decode_s = group_s * plan["num_groups"] / slots
    return {**found, "tokens_per_s": 1 / decode_s, "ttft_s": prompt_s(plan) + frame["asking_s"]}


# Memory


def items_of(plan, stage):
    first, end = stage["layers"]
    last = len(plan["inputs"]["items"]) - 2
    return slice(first + 1 if first else 0, end + 1 if end < last else last + 2)


def memory_bytes(plan, stage):
    inputs = plan["inputs"]
    items = inputs["items"][items_of(plan, stage)]
    shared = {}
    for item in items:
        shared.update(item["shared"])
    weights = sum(item["weight_bytes"] - sum(item["shared"].values()) for item in items)
    weights += sum(shared.values())
    if plan["objective"] == "train":
        more = trained_bytes(plan, stage, items, weights)
    else:
        more = inference_bytes(plan, stage, items)
    return device_of(plan, stage)["baseline_bytes"] + weights + more


def inference_bytes(plan, stage, items):
    inputs = plan["inputs"]
    size, hidden = ITEMSIZE[inputs["dtype"]], inputs["hidden_size"]
    positions, slots = inputs["max_positions"], inputs["num_slots"]
    rows = max(inputs["prefill_chunk"], slots)
    cache = slots * positions * sum(item["kv_bytes_per_token"] for item in items)
    products = rows * (4 * hidden + 3 * max(item["width"] for item in items)) * size
    scores_and_frames = rows * (positions + 2 * hidden) * 4
    logits = slots * inputs["vocab_size"] * 4 if stage["head"] else 0
    return cache + products + scores_and_frames + logits


def trained_bytes(plan, stage, items, weights):
    inputs = plan["inputs"]
    batch = inputs["batch"]
    longest = batch["longest"] or batch["sequence_length"]
    size, rows = ITEMSIZE[inputs["dtype"]], longest * -(-batch["sequences"] // plan["microbatches"])
    if batch["mode"] == "lora":
        states = 16 * sum(item["adapter_parameters"] for item in items)
    else:
        states = weights // size * (12 if size == 4 else 16)
        if stage["layers"][0] == 0 and not stage["head"]:
            states -= 12 * sum(items[0]["shared"].values()) // size
    logits = 2 * rows * inputs["vocab_size"] * 4 if stage["head"] else 0
    flying = stage["inflight"] * sum(item["inflight_bytes"] for item in items)
    libraries = 20 << 20
    return libraries + states + max(item["activation_bytes"] for item in items) + logits + flying


def fits(plan, memory):
    """Each device within its limit, each pool within the largest limit of its devices."""
    held = {
        (stage["node"], stage["device"]): size
        for stage, size in zip(plan["stages"], memory, strict=True)
    }
    pools = {}
    for device in plan["inputs"]["devices"]:
        pools.setdefault((device["node"], device["pool"]), []).append(device)
    for devices in pools.values():
        used = [held.get((device["node"], device["device"])) for device in devices]
        limits = [device["memory_limit_bytes"] for device in devices]
        pairs = list(zip(used, limits, strict=True))
        if any(size is not None and size > limit for size, limit in pairs):
            return False
        taken = [
            device["baseline_bytes"] if size is None else size
            for device, size in zip(devices, used, strict=True)
        ]
        if any(size is not None for size in used) and sum(taken) > max(limits):
            return False
    return True


# Time


def device_of(plan, stage):
    wanted = stage["node"], stage["device"]
    devices = plan["inputs"]["devices"]
    return next(each for each in devices if (each["node"], each["device"]) == wanted)


def stage_s(plan, stage, of):
    return sum(device_of(plan, stage)[of][items_of(plan, stage)])


def link_of(plan, sender, receiver):
    names = [f"{stage['node']}/{stage['device']}" for stage in (sender, receiver)]
    return next(
        each for each in plan["inputs"]["links"] if [each["sender"], each["receiver"]] == names
    )


def hop(plan, sender, receiver, num_bytes, latency_s):
    """A frame's bytes, its latency, and the seconds that each of its link and NICs takes for it."""
    link = link_of(plan, sender, receiver)
    occupied = {f"{link['sender']} > {link['receiver']}": num_bytes / link["bytes_per_s"]}
    hosts = [device_of(plan, stage)["host"] for stage in (sender, receiver)]
    nics = {nic["host"]: nic for nic in plan["inputs"]["nics"]}
    if hosts[0] != hosts[1]:
        for host, way in zip(hosts, ("send", "receive"), strict=True):
            if host in nics:
                name = nics[host]["medium"] or f"{way} {host}"
                seconds = num_bytes / nics[host][f"{way}_bytes_per_s"]
                occupied[name] = occupied.get(name, 0.0) + seconds
    return num_bytes, latency_s, occupied


def hops_down(plan, of):
    found = []
    for sender, receiver in pairwise(plan["stages"]):
        link = link_of(plan, sender, receiver)
        sent = link[of] if of else {"num_bytes": link["frame_bytes"], **link}
        found.append(hop(plan, sender, receiver, sent["num_bytes"], sent["latency_s"]))
    return found


def speeds(frames):
    """Of frames under way at once, way: hop, how fast each goes; 1 is as fast as alone."""
    shares = {
        way: {name: each / max(occupied.values()) for name, each in occupied.items()}
        for way, (_, _, occupied) in frames.items()
    }
    alone = used(shares, dict.fromkeys(frames, 1.0))
    crowded = {name for name, share in alone.items() if share > 1 + 1e-9}
    while True:
        found = filled(frames, shares, crowded)
        taken = used(shares, found)
        full = {name for name in crowded if taken[name] > 1 - 1e-9}
        if full == crowded:
            return found
        crowded = full


def used(shares, found):
    taken = {}
    for way, each in shares.items():
        for name, share in each.items():
            taken[name] = taken.get(name, 0.0) + found[way] * share
    return taken


def filled(frames, shares, crowded):
    """Speeds as far as a common level of the rates, weighted by what is crowded, can rise."""
    gains = {
        way: max(occupied.values()) / num_bytes / max(1, len(crowded & shares[way].keys()))
        for way, (num_bytes, _, occupied) in frames.items()
    }
    found, left = {}, {name: 1.0 for each in shares.values() for name in each}
    while len(found) < len(frames):
        growing = [way for way in frames if way not in found]
        levels = [(1 / gains[way], [way]) for way in growing]
        for name, room in left.items():
            through = [way for way in growing if name in shares[way]]
            drawn = sum(gains[way] * shares[way][name] for way in through)
            if drawn:
                levels.append((room / drawn, through))
        level, done = min(levels, key=lambda each: each[0])
        for way in done:
            found[way] = gains[way] * level
            for name, share in shares[way].items():
                left[name] -= found[way] * share
    return found


def replay(lists):
    """Each stage runs its list in order: (task, seconds, the task it waits for, the hop between).

    A result leaves when its task ends, after what its stage sent the same stage before. Those under
    way share what they occupy. Returns the begin and end of every task.
    """
    takers = {task[2]: (s, at) for s, tasks in enumerate(lists) for at, task in enumerate(tasks)}
    there = {task[0]: 0.0 for tasks in lists for task in tasks if task[2] is None}
    nexts, idle, ends, spans = [0] * len(lists), [0.0] * len(lists), [], {}
    queues, now = {}, 0.0  # of each way: [the task that waits for it, its hop, seconds left alone]

    def begin(s):
        if idle[s] is not None and nexts[s] < len(lists[s]):
            task, seconds, _, _ = lists[s][nexts[s]]
            if task in there:
                start = max(idle[s], there[task])
                spans[task] = start, start + seconds
                idle[s] = None
                heappush(ends, (start + seconds, s))

    for s in range(len(lists)):
        begin(s)
    while ends or queues:
        pace = speeds({way: queue[0][1] for way, queue in queues.items()})
        left = {way: now + queue[0][2] / pace[way] for way, queue in queues.items()}
        first = min(left, key=left.get, default=None)
        is_task = first is None or (ends and ends[0][0] <= left[first])
        before, now = now, max(now, ends[0][0] if is_task else left[first])
        for way, queue in queues.items():
            queue[0][2] = max(0.0, queue[0][2] - (now - before) * pace[way])
        if not is_task:
            task, (_, latency_s, _), _ = queues[first].pop(0)
            queues = {way: queue for way, queue in queues.items() if queue}
            there[task] = now + latency_s
            begin(first[1])
            continue
        _, s = heappop(ends)
        idle[s] = now
        done = lists[s][nexts[s]][0]
        nexts[s] += 1
        if done in takers:
            receiver, at = takers[done]
            task, _, _, hop_there = lists[receiver][at]
            alone_s = max(hop_there[2].values(), default=0.0)
            if alone_s:
                queues.setdefault((s, receiver), []).append([task, hop_there, alone_s])
            else:
                there[task] = now + hop_there[1]
                begin(receiver)
        begin(s)
    return spans


def turn_s(plan, groups, of, sent, return_bytes):
    """Decode: seconds per group, of so many that go round the ring, once 8 turns have passed."""
    stages = plan["stages"]
    seconds = [stage_s(plan, stage, of) for stage in stages]
    hops, back = hops_down(plan, sent), (0.0, 0.0, {})
    if len(stages) > 1:
        home = link_of(plan, stages[-1], stages[0])["return_latency_s"]
        back = hop(plan, stages[-1], stages[0], return_bytes, home)
    last = len(stages) - 1
    lists = [[] for _ in stages]
    for frame in range(16 * groups + 1):
        for s in range(len(stages)):
            waits = ((s - 1, frame), hops[s - 1]) if s else (None, None)
            if s == 0 and last and frame >= groups:
                waits = ((last, frame - groups), back)
            lists[s].append(((s, frame), seconds[s], *waits))
    spans = replay(lists)
    measured = (spans[0, 16 * groups][0] - spans[0, 8 * groups][0]) / (8 * groups)
    loads = {}
    for _, _, occupied in [*hops, back]:
        for name, each in occupied.items():
            loads[name] = loads.get(name, 0.0) + each
    return max(measured, *seconds, *loads.values(), 0.0)


def prompt_s(plan):
    """Prefill: until the last chunk has left the last stage."""
    hops = hops_down(plan, "prefill")
    lists = []
    for s, stage in enumerate(plan["stages"]):
        seconds = stage_s(plan, stage, "prefill_s")
        lists.append([])
        for chunk in range(plan["inputs"]["frame"]["prompt_chunks"]):
            waits = ((s - 1, chunk), hops[s - 1]) if s else (None, None)
            lists[s].append(((s, chunk), seconds, *waits))
    return max(end for _, end in replay(lists).values())


def step_s(plan):
    """Training: the schedule, the optimizer, a tied embedding's exchange, and what is fixed."""
    stages, count, frame = plan["stages"], plan["microbatches"], plan["inputs"]["frame"]
    down = hops_down(plan, None)
    up = []
    for above, below in pairwise(stages):
        link = link_of(plan, below, above)
        up.append(hop(plan, below, above, link["gradient_bytes"], link["latency_s"]))
    lists, depth = [], count
    for s, stage in enumerate(stages):
        depth = min(depth, stage["inflight"])
        forward = stage_s(plan, stage, "forward_s")
        seconds = {"F": forward, "B": stage_s(plan, stage, "item_s") - forward}
        order = [("F", m) for m in range(depth)]
        for m in range(count - depth):
            order += [("B", m), ("F", m + depth)]
        order += [("B", m) for m in range(count - depth, count)]
        lists.append([])
        for kind, m in order:
            waits = (None, None)
            if kind == "F" and s > 0:
                waits = (("F", s - 1, m), down[s - 1])
            if kind == "B" and s < len(stages) - 1:
                waits = (("B", s + 1, m), up[s])
            lists[s].append(((kind, s, m), seconds[kind], *waits))
    end = max(end for _, end in replay(lists).values())
    optimizer = max(stage_s(plan, stage, "update_s") for stage in stages)
    exchange = 0.0
    if frame["exchange_bytes"] is not None and len(stages) > 1:
        for sender, receiver in ((stages[-1], stages[0]), (stages[0], stages[-1])):
            link = link_of(plan, sender, receiver)
            exchange += link["return_latency_s"] + frame["exchange_bytes"] / link["bytes_per_s"]
    return end + optimizer + exchange + frame["fixed_s"]


if __name__ == "__main__":
    read = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps(recompute(read), indent=2))  # noqa: T201
