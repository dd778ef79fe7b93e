"""Random home clusters and models: plausible machines, on paper, from a seed.

A machine has one device, or two: a GPU beside its CPU, two GPUs, or unified memory that both share.
It hangs on 100 Mbit/s, 1 or 2.5 Gbit/s, or on a Wi-Fi that its stations share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from edgepipe.core.candidates import Candidate
from edgepipe.core.frame import DType
from edgepipe.core.model import Item, ModelShape
from edgepipe.core.posing import Asked
from edgepipe.core.problem import Nic
from edgepipe.core.profile import DeviceId, DeviceKind, DeviceProfile
from edgepipe.core.roofline import Roofline, roofline_speed
from edgepipe.core.speed import DeviceSpeed, Link
from edgepipe.core.survey import Survey
from edgepipe.core.work import TrainMode, Work

GIB = 1 << 30
PREFILL_CHUNK = 128
BASELINE_BYTES = GIB // 2
MODELS = (
    (16, 2048, 5632),
    (24, 2048, 8192),
    (28, 3072, 8192),
    (32, 4096, 14336),
    (40, 5120, 13824),
)
"""Layers, hidden size and width of the MLP: 1 to 13 billion parameters."""

WIRED_BYTES_PER_S = (11.7e6, 117e6, 117e6, 117e6, 290e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """A device: memory that it offers in GiB, FLOP/s reached, and bytes per second read."""

    kind: DeviceKind
    memory_gib: float
    flops_per_s: float
    memory_bytes_per_s: float


GPUS = tuple(
    Chip(kind=DeviceKind.CUDA, memory_gib=gib, flops_per_s=flops, memory_bytes_per_s=read)
    for gib, flops, read in (
        (5, 3e12, 160e9),  # GTX 1060
        (7, 12e12, 380e9),  # RTX 2070
        (11, 20e12, 300e9),  # RTX 3060
        (10, 24e12, 520e9),  # RTX 2080 Ti
        (15, 40e12, 430e9),  # RTX 4080 mobile
        (22.5, 5e12, 300e9),  # P40
        (22.5, 32e12, 795e9),  # RTX 3090
    )
)
CPUS = tuple(
    Chip(kind=DeviceKind.CPU, memory_gib=gib, flops_per_s=flops, memory_bytes_per_s=read)
    for gib, flops, read in (
        (6, 0.08e12, 25e9),  # N100
        (13, 0.2e12, 19e9),  # i7-4790
        (27, 0.3e12, 38e9),  # Ryzen 5
        (50, 0.6e12, 60e9),  # Ryzen 9
    )
)
UNIFIED = Chip(kind=DeviceKind.MPS, memory_gib=11, flops_per_s=2e12, memory_bytes_per_s=90e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A model and the machines that are to run it."""

    name: str
    model: ModelShape
    survey: Survey

    def asked(self, work: Work) -> Asked:
        """What a plan of some work is made from; the optimizer of adapters takes no time."""
        adapted = work.batch is not None and work.batch.mode is TrainMode.LORA
        speeds = tuple(map(_adapted, self.survey.speeds)) if adapted else self.survey.speeds
        return Asked.of(self.model, replace(self.survey, speeds=speeds), work)


def _adapted(speed: DeviceSpeed) -> DeviceSpeed:
    return replace(speed, items=tuple(replace(item, update_s=0.0) for item in speed.items))


def random_home(seed: int, *, num_devices: int | None = None, layers: int | None = None) -> Home:
    """2 to 8 devices and a model of 16 to 40 layers, or as many as are asked for."""
    rng = Random(seed)
    count = num_devices or rng.choice((2, 3, 3, 4, 4, 5, 6, 8))
    depth, hidden, width = rng.choice(MODELS)
    model = llama(num_layers=layers or depth, hidden=hidden, width=width, tied=rng.random() < 0.4)
    placed: list[tuple[Candidate, Chip]] = []
    while len(placed) < count:
        placed += _machine(rng, f"host{len(placed)}")
    placed = placed[:count]
    links, nics = _network(rng, sorted({candidate.node for candidate, _ in placed}))
    overhead_s = rng.choice([0.0, 0.2e-3, 0.5e-3])
    speeds = tuple(
        replace(
            roofline_speed(
                Roofline(flops_per_s=chip.flops_per_s, memory_bytes_per_s=chip.memory_bytes_per_s),
                model,
                DType.BFLOAT16,
                prefill_chunk=PREFILL_CHUNK,
            ),
            overhead_s=overhead_s,
        )
        for _, chip in placed
    )
    devices = tuple(candidate for candidate, _ in placed)
    survey = Survey(devices=devices, speeds=speeds, links=links, nics=nics)
    return Home(name=f"random {seed}", model=model, survey=survey)


def _machine(rng: Random, node: str) -> list[tuple[Candidate, Chip]]:
    gpu, cpu = rng.choice(GPUS), rng.choice(CPUS)
    chips = rng.choice(([gpu], [gpu], [cpu], [cpu], [gpu, cpu], [gpu, gpu], [UNIFIED, UNIFIED]))
    shared = chips[0] is UNIFIED
    if shared:
        chips = [UNIFIED, replace(UNIFIED, kind=DeviceKind.CPU, flops_per_s=0.8e12)]
    return [
        (_candidate(node, f"{chip.kind}:{at}", chip, "ram" if shared else f"own{at}"), chip)
        for at, chip in enumerate(chips)
    ]


def _candidate(node: str, device: str, chip: Chip, pool: str) -> Candidate:
    memory = int(chip.memory_gib * GIB)
    return Candidate(
        node=node,
        host=node,
        device=DeviceProfile(
            id=DeviceId(device),
            kind=chip.kind,
            name=device,
            pool=pool,
            memory_bytes=memory,
            memory_free_bytes=memory,
            memory_limit_bytes=memory,
            baseline_bytes=BASELINE_BYTES,
            port=0,
            num_threads=1,
        ),
    )


def _network(rng: Random, nodes: list[str]) -> tuple[tuple[Link, ...], dict[str, Nic]]:
    wifi = rng.uniform(8e6, 60e6)
    nics, latency_s = {}, {}
    for node in nodes:
        wireless = rng.random() < 0.25
        speed = wifi if wireless else rng.choice(WIRED_BYTES_PER_S)
        nics[node] = Nic(
            send_bytes_per_s=speed,
            receive_bytes_per_s=speed,
            medium="wifi" if wireless else None,
        )
        latency_s[node] = rng.uniform(1e-3, 3e-3) if wireless else rng.uniform(0.1e-3, 0.3e-3)
    links = tuple(
        Link(
            sender=a,
            receiver=b,
            bytes_per_s=min(nics[a].send_bytes_per_s, nics[b].receive_bytes_per_s)
            * rng.uniform(0.85, 1.0),
            latency_s=latency_s[a] + latency_s[b],
        )
        for a in nodes
        for b in nodes
        if a != b
    )
    return links, nics


def llama(*, num_layers: int, hidden: int, width: int, tied: bool) -> ModelShape:
    """A Llama-shaped model with a vocabulary of 32,000 and grouped queries, four to a key."""
    vocab, kv = 32_000, hidden // 4
    matrices = {"q": hidden, "k": kv, "v": kv, "o": hidden, "gate": width, "up": width}
    sizes = {name: columns * hidden for name, columns in (*matrices.items(), ("down", width))}
    parameters = {"embed": vocab * hidden, **({} if tied else {"lm_head": vocab * hidden})}
    layers = []
    for at in range(num_layers):
        tensors = {f"{at}.{name}": size for name, size in sizes.items()}
        parameters |= tensors
        layers.append(
            Item(
                name=f"layers.{at}",
                tensors=tuple(tensors),
                num_parameters=sum(tensors.values()),
                flops_per_token=2 * sum(tensors.values()),
                kv_values_per_token=2 * kv,
            )
        )
    return ModelShape(
        name=f"llama-{num_layers}x{hidden}",
        architecture="LlamaForCausalLM",
        num_layers=num_layers,
        hidden_size=hidden,
        vocab_size=vocab,
        max_positions=8192,
        tied=tied,
        dtype=DType.BFLOAT16,
        embedding=Item(name="embedding", tensors=("embed",), num_parameters=vocab * hidden),
        layers=tuple(layers),
        head=Item(
            name="head",
            tensors=("embed" if tied else "lm_head",),
            num_parameters=0 if tied else vocab * hidden,
            flops_per_token=2 * vocab * hidden,
        ),
        parameters=parameters,
    )
