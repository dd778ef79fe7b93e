"""What comes out of a measurement, with a clock whose seconds are known."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from equivalence.tiny_models import CONFIGS, config_dict
from torch.nn.modules.module import register_module_forward_hook

from edgepipe.core.frame import DType
from edgepipe.core.measured import Measurement
from edgepipe.engine.torch import bench, measure, measure_training
from edgepipe.engine.torch.bench import Call, Target, random_engine
from edgepipe.engine.torch.measure import _inference, measure_items
from edgepipe.engine.torch.median import MAX_REPEATS, medians_s
from edgepipe.engine.torch.sample import random_stage, sample_of
from edgepipe.engine.torch.subject import Subject
from edgepipe.errors import StageError

ASKED = Measurement(
    dtype=DType.FLOAT32, num_slots=3, max_positions=100, prefill_chunk=32, memory_bytes=1 << 30
)
CALL_S, LAYER_S, EMBEDDING_S, HEAD_S = 0.5, 1.0, 0.25, 2.0
SECONDS = {"LlamaDecoderLayer": LAYER_S, "Embedding": EMBEDDING_S, "Linear": HEAD_S}


class Stopped(Exception):
    pass


@pytest.fixture
def clock() -> Iterator[Callable[[Callable[[], object]], float]]:
    """A call takes its own time and that of each module with weights that it runs."""
    seen: list[str] = []

    def hook(module: Any, *_: object) -> None:
        if any(True for _ in module.parameters()):
            seen.append(type(module).__name__)

    def seconds(call: Callable[[], object]) -> float:
        seen.clear()
        call()
        heads = 0 if "LlamaDecoderLayer" in seen else HEAD_S * seen.count("Linear")
        inside = sum(SECONDS[name] for name in seen if name in {"LlamaDecoderLayer", "Embedding"})
        return CALL_S + inside + heads

    handle = register_module_forward_hook(hook)
    yield seconds
    handle.remove()


def target(clock: Callable[[Callable[[], object]], float], **changes: Any) -> Target:
    return Target(
        config=config_dict(CONFIGS["llama, untied, grouped queries"]),
        asked=replace(ASKED, **changes),
        device=torch.device("cpu"),
        clock=clock,
        make=random_engine,
    )


def test_each_item_gets_its_own_seconds_and_the_call_what_is_left(clock: Any) -> None:
    items, call_s = measure_items(target(clock), lambda _done, _total: None)
    assert call_s == CALL_S
    assert items.kinds == (0, 0, 0, 0)
    (layer,) = items.layers
    assert layer.decode.rows == (1, 2, 3)
    assert layer.prefill.rows == (1, 16, 32)
    assert set(layer.decode.seconds + layer.prefill.seconds) == {LAYER_S}
    assert set(items.embedding.decode.seconds) == {EMBEDDING_S}
    assert set(items.head.decode.seconds + items.head.prefill.seconds) == {HEAD_S}
    assert (layer.attention_s, layer.forward.rows, layer.update_s) == (0.0, (), 0.0)


def test_progress_rises_to_its_end(clock: Any) -> None:
    told: list[tuple[int, int]] = []
    measure_items(target(clock), lambda *progress: told.append(progress))
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert told[-1] == (len(told), len(told))


def test_what_the_progress_raises_ends_it(clock: Any) -> None:
    def stop(_done: int, _total: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        measure_items(target(clock), stop)


def test_a_layer_that_does_not_fit_is_told(clock: Any) -> None:
    with pytest.raises(StageError, match="more than is free"):
        measure_items(target(clock, memory_bytes=1000), lambda _done, _total: None)


def test_a_head_that_does_not_fit_is_taken_for_so_many_layers(clock: Any) -> None:
    wide = {**CONFIGS["llama, untied, grouped queries"], "vocab_size": 1 << 15}
    asked = replace(target(clock, memory_bytes=2 << 20), config=config_dict(wide))
    items, _ = measure_items(asked, lambda _done, _total: None)
    head_values = (1 << 15) * 48 + 48
    layer_values = 48 * (48 + 24 + 24 + 48) + 3 * 48 * 80 + 2 * 48
    ratio = head_values / layer_values
    assert items.head.decode.seconds == pytest.approx([LAYER_S * ratio] * 3)


RANKS = pytest.mark.parametrize("rank", [0, 4], ids=["all weights", "adapters"])


@RANKS
def test_training_alone_is_measured_where_it_is_asked_for(clock: Any, rank: int) -> None:
    items, call_s = measure_items(target(clock, sequence_length=8, rank=rank), lambda *_: None)
    (layer,) = items.layers
    assert call_s == CALL_S
    assert layer.forward.rows == layer.backward.rows == (8, 256)
    assert set(layer.forward.seconds) == {LAYER_S}
    assert set(items.embedding.forward.seconds) == {EMBEDDING_S}
    assert set(items.head.forward.seconds) == {HEAD_S}
    assert layer.decode.rows == items.head.prefill.rows == ()


@RANKS
def test_only_what_is_trained_is_updated(clock: Any, rank: int) -> None:
    items, _ = measure_items(target(clock, sequence_length=8, rank=rank), lambda *_: None)
    assert items.layers[0].update_s > 0
    ends = (items.embedding.update_s, items.head.update_s)
    assert ends == ((0.0, 0.0) if rank else (CALL_S, CALL_S))


def test_a_long_sequence_is_measured_alone(clock: Any) -> None:
    items, _ = measure_items(target(clock, sequence_length=300), lambda *_: None)
    assert items.layers[0].forward.rows == (300,)


@pytest.mark.parametrize("sequence_length", [0, 8])
def test_the_weights_of_a_sample_are_gone_before_the_next_ones_come(
    clock: Any, monkeypatch: pytest.MonkeyPatch, sequence_length: int
) -> None:
    models: list[weakref.ref[Any]] = []

    def watched(*args: Any) -> Any:
        assert not any(model() for model in models)
        model, anatomy = random_stage(*args)
        models.append(weakref.ref(model))
        return model, anatomy

    monkeypatch.setattr(bench, "random_stage", watched)
    monkeypatch.setattr(measure_training, "random_stage", watched)
    gc.disable()
    try:
        measure_items(target(clock, sequence_length=sequence_length), lambda *_: None)
        assert len(models) == 4, "none, one kind of layers, embedding and head"
        assert not any(model() for model in models)
    finally:
        gc.enable()


def test_a_training_that_nobody_waits_for_ends(clock: Any) -> None:
    def stop(done: int, _total: int) -> None:
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        measure_items(target(clock, sequence_length=8), stop)


@RANKS
def test_the_progress_of_training_rises_to_its_end(clock: Any, rank: int) -> None:
    told: list[tuple[int, int]] = []
    asked = target(clock, sequence_length=8, rank=rank)
    measure_items(asked, lambda *progress: told.append(progress))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


def test_a_head_without_room_to_be_trained_is_trained_as_so_many_layers(clock: Any) -> None:
    wide = {**CONFIGS["llama, untied, grouped queries"], "vocab_size": 1 << 15}
    head_bytes = 4 * ((1 << 15) * 48 + 48)
    asked = target(clock, sequence_length=8, memory_bytes=2 * head_bytes)
    items, _ = measure_items(replace(asked, config=config_dict(wide)), lambda *_: None)
    (layer,) = items.layers
    ratio = items.head.forward.at(8) / layer.forward.at(8)
    assert ratio > 10
    assert items.head.update_s == pytest.approx(ratio * layer.update_s)
    adapted, _ = measure_items(
        replace(asked, config=config_dict(wide), asked=replace(asked.asked, rank=4)),
        lambda *_: None,
    )
    assert set(adapted.head.forward.seconds) == {HEAD_S}, "frozen, it has room"


@pytest.mark.parametrize("memory_bytes", [1 << 30, 1 << 18])
def test_before_the_head_as_much_is_read_as_the_other_items_hold(
    clock: Any, monkeypatch: pytest.MonkeyPatch, memory_bytes: int
) -> None:
    seen: list[int] = []

    class Watched(bench.Bench):
        def __init__(self, *args: Any, others_bytes: int, **more: Any) -> None:
            seen.append(others_bytes)
            super().__init__(*args, others_bytes=others_bytes, **more)

    monkeypatch.setattr(measure, "Bench", Watched)
    asked = target(clock, memory_bytes=memory_bytes)
    subject = Subject.of(asked.config, DType.FLOAT32)
    measure_items(asked, lambda *_: None)
    *others, head = seen
    head_bytes = subject.weight_bytes(subject.ends[1])
    all_layers = subject.weight_bytes(sample_of(range(subject.anatomy.num_layers)))
    assert set(others) == {0}
    assert head == min(all_layers, (memory_bytes - head_bytes) // 2)


def test_positions_that_are_seen_are_told_apart_from_the_rows() -> None:
    """Rows of 1 s, and 1 ms for every position seen (decoded) or 1/8 ms (of a prompt)."""
    asked = replace(ASKED, max_positions=4096)
    seconds = {
        **{Call(rows, 1, 64): rows + rows * 64e-3 for rows in (1, 2, 3)},
        **{Call(1, rows, 0): rows + rows * rows / 2 / 8e3 for rows in (16, 32)},
        Call(1, 1, 1024): 1 + 1024e-3,
        Call(1, 32, 1024): 32 + 32 * (1024 + 16) / 8e3,
    }
    speed = _inference(asked, seconds)
    assert speed.attention_s == pytest.approx(1e-3)
    assert speed.prefill_attention_s == pytest.approx(1e-3 / 8)
    assert speed.decode.seconds == pytest.approx((1, 2, 3))
    assert speed.prefill.seconds == pytest.approx((1, 16, 32))


def test_noise_makes_nothing_negative() -> None:
    asked = replace(ASKED, max_positions=4096)
    seconds = {
        **{Call(rows, 1, 64): 1e-3 for rows in (1, 2, 3)},
        **{Call(1, rows, 0): 1e-3 for rows in (16, 32)},
        Call(1, 1, 1024): 0.9e-3,
        Call(1, 32, 1024): 0.5e-3,
    }
    speed = _inference(asked, seconds)
    assert speed.attention_s == speed.prefill_attention_s == 0.0


def test_calls_take_turns_and_the_first_of_each_only_warms_up() -> None:
    order: list[str] = []

    def call(name: str, *seconds: float) -> Callable[[], float]:
        left = iter(seconds)
        return lambda: (order.append(name), next(left))[1]

    counted: list[None] = []
    found = medians_s(
        [call("a", 0.9, 0.1, 0.3, 0.2), call("b", 0.9, 0.26, 0.26), call("c", 2.0)],
        lambda: counted.append(None),
    )
    assert found == pytest.approx([0.2, 0.26, 2.0]), "a long one is measured once"
    assert order == ["a", "b", "c", "a", "b", "a", "b", "a"]
    assert len(counted) == 3 * (MAX_REPEATS + 1)
