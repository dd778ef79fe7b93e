"""Models and machines on paper, as the planner sees them."""

from __future__ import annotations

from collections.abc import Sequence

from edgepipe.core.candidates import Candidate
from edgepipe.core.frame import DType
from edgepipe.core.model import Item, ModelShape
from edgepipe.core.profile import DeviceId, DeviceKind, DeviceProfile
from edgepipe.core.speed import Curve, DeviceSpeed, ItemSpeed, Link
from edgepipe.core.survey import Survey

GIB = 1 << 30


def llama(
    *,
    num_layers: int = 30,
    hidden: int = 576,
    width: int = 1536,
    kv: int = 192,
    vocab: int = 49152,
    tied: bool = True,
    name: str = "smollm2-135m",
) -> ModelShape:
    """A Llama-shaped model; the defaults are SmolLM2-135M's."""
    parameters = {"embed": vocab * hidden, "norm": hidden}
    layers = []
    for layer in range(num_layers):
        sizes = {
            "q": hidden * hidden,
            "k": kv * hidden,
            "v": kv * hidden,
            "o": hidden * hidden,
            "gate": width * hidden,
            "up": width * hidden,
            "down": hidden * width,
            "input_norm": hidden,
            "post_norm": hidden,
        }
        tensors = {f"layers.{layer}.{tensor}": size for tensor, size in sizes.items()}
        parameters |= tensors
        num = sum(tensors.values())
        layers.append(
            Item(
                name=f"layers.{layer}",
                tensors=tuple(tensors),
                num_parameters=num,
                flops_per_token=2 * num,
                kv_values_per_token=2 * kv,
            )
        )
    head_tensor = "embed" if tied else "lm_head"
    parameters |= {} if tied else {"lm_head": vocab * hidden}
    return ModelShape(
        name=name,
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
            tensors=("norm", head_tensor),
            num_parameters=hidden + (0 if tied else vocab * hidden),
            flops_per_token=2 * vocab * hidden,
        ),
        parameters=parameters,
    )


def machine(
    node: str,
    device: str = "cpu",
    *,
    limit: int = 8 * GIB,
    baseline: int = GIB // 4,
    pool: str | None = None,
) -> Candidate:
    """A device that offers `limit` bytes; `pool` is its own unless it is named."""
    kind = DeviceKind(device.partition(":")[0])
    return Candidate(
        node=node,
        device=DeviceProfile(
            id=DeviceId(device),
            kind=kind,
            name=f"some {kind}",
            pool=pool or device,
            memory_bytes=2 * limit,
            memory_free_bytes=limit,
            memory_limit_bytes=limit,
            baseline_bytes=baseline,
            port=0,
            num_threads=1,
        ),
    )


def surveyed(
    model: ModelShape, devices: Sequence[Candidate], slowness: Sequence[float] = ()
) -> Survey:
    """Devices that take a millisecond for each item, or `slowness` times as long; near each other.

    A chunk of 128 rows takes 16 times as long as one row, a backward twice as long as a forward.
    """
    return Survey(
        devices=tuple(devices),
        speeds=tuple(
            DeviceSpeed(items=(_speed(1e-3 * factor),) * (model.num_layers + 2))
            for factor in (slowness or [1.0] * len(devices))
        ),
        links=tuple(
            Link(sender=a.node, receiver=b.node, bytes_per_s=117e6, latency_s=0.3e-3)
            for a in devices
            for b in devices
            if a.node != b.node
        ),
    )


def _speed(seconds: float) -> ItemSpeed:
    curve = Curve(rows=(1, 128), seconds=(seconds, 16 * seconds))
    return ItemSpeed(
        decode=curve, prefill=curve, forward=curve, backward=curve.times(2), update_s=seconds
    )
