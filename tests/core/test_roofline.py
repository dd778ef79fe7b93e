"""Rooflines: a call takes as long as its arithmetic or its reads, whichever is longer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from on_paper import llama

from edgepipe.core.frame import Codec, DType
from edgepipe.core.roofline import Roofline, roof, roofline_speed
from edgepipe.core.speed import DeviceSpeed
from edgepipe.core.stated import StatedSeconds, stated_speed

SMOL = llama()
GPU = Roofline(flops_per_s=10e12, memory_bytes_per_s=100e9)


def speed(dtype: DType = DType.BFLOAT16, *, tied: bool = True) -> DeviceSpeed:
    return roofline_speed(GPU, llama(tied=tied), dtype, prefill_chunk=128)


@given(
    flops=st.floats(1, 1e12),
    held=st.floats(0, 1e12),
    flops_per_s=st.floats(1e6, 1e18),
    bytes_per_s=st.floats(1e6, 1e18),
    rows=st.integers(1, 1 << 20),
)
def test_a_roof_is_the_longer_of_arithmetic_and_reads_at_every_number_of_rows(
    flops: float, held: float, flops_per_s: float, bytes_per_s: float, rows: int
) -> None:
    device = Roofline(flops_per_s=flops_per_s, memory_bytes_per_s=bytes_per_s)
    seconds = roof(device, flops_per_row=flops, held_bytes=held).at(rows)
    assert seconds == pytest.approx(max(flops * rows / flops_per_s, held / bytes_per_s))


def test_a_roof_without_arithmetic_is_its_reads_alone() -> None:
    assert roof(GPU, flops_per_row=0, held_bytes=100e9).at(1) == 1.0


def test_one_row_reads_a_layers_weights() -> None:
    weight_bytes = SMOL.layers[0].num_parameters * 2
    assert speed().items[1].decode.at(1) == pytest.approx(weight_bytes / 100e9)


def test_many_rows_are_as_long_as_their_arithmetic() -> None:
    flops = SMOL.layers[0].flops_per_token
    assert speed().items[1].prefill.at(4096) == pytest.approx(4096 * flops / 10e12)


def test_a_wider_dtype_takes_longer_to_read() -> None:
    narrow, wide = speed(DType.BFLOAT16), speed(DType.FLOAT32)
    assert wide.items[1].decode.at(1) == pytest.approx(2 * narrow.items[1].decode.at(1))


def test_there_is_a_speed_for_every_item() -> None:
    assert len(speed().items) == SMOL.num_layers + 2


def test_the_embedding_reads_only_its_rows() -> None:
    assert speed().items[0].decode.at(8) == pytest.approx(8 * 576 * 2 / 100e9)


def test_a_tied_head_reads_the_embeddings_weights() -> None:
    assert speed().items[-1].decode.at(1) == pytest.approx((49152 * 576 + 576) * 2 / 100e9)


def test_a_cached_position_costs_its_keys_and_values() -> None:
    assert speed().items[1].attention_s == pytest.approx(2 * 192 * 2 / 100e9)
    assert speed().items[-1].attention_s == 0


def test_the_rows_of_a_chunk_share_the_reads_and_are_left_with_their_arithmetic() -> None:
    assert speed().items[1].prefill_attention_s == pytest.approx(4 * 576 / 10e12)
    slow = Roofline(flops_per_s=10e15, memory_bytes_per_s=100e9)
    items = roofline_speed(slow, SMOL, DType.BFLOAT16, prefill_chunk=128).items
    assert items[1].prefill_attention_s == pytest.approx(2 * 192 * 2 / 128 / 100e9)
    assert items[-1].prefill_attention_s == 0


def test_backward_is_twice_forward() -> None:
    for item in speed().items:
        assert item.backward.at(512) == pytest.approx(2 * item.forward.at(512))


@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_is_updated_once(tied: bool) -> None:
    num_parameters = sum(llama(tied=tied).parameters.values())
    updates = sum(item.update_s for item in speed(tied=tied).items)
    assert updates == pytest.approx(num_parameters * 28 / 100e9)


def test_a_codec_moves_a_value_in_and_out() -> None:
    assert speed().codec_s(Codec.INT8, 100) == pytest.approx((300 / 100e9, 300 / 100e9))
    assert speed().codec_s(Codec.INT4, 100) == pytest.approx((250 / 100e9, 250 / 100e9))
    assert speed().codec_s(Codec.NONE, 100) == (0, 0)


STATED = StatedSeconds(decode_s=1.0, prefill_s=4.0, forward_s=16.0, backward_s=32.0)


@pytest.mark.parametrize(
    ("rows", "decode_s", "forward_s"), [(1, 1.0, 0.25), (32, 2.5, 8.0), (63, 4.0, 15.75)]
)
def test_stated_seconds_are_linear_between_a_row_and_a_chunk(
    rows: int, decode_s: float, forward_s: float
) -> None:
    (item,) = stated_speed((STATED,), prefill_chunk=63, microbatch_rows=64).items
    assert item.decode.at(rows) == item.prefill.at(rows) == pytest.approx(decode_s)
    assert item.forward.at(rows) == pytest.approx(forward_s)
    assert item.backward.at(rows) == pytest.approx(2 * forward_s)


def test_a_row_alone_is_stated_for_a_group_of_rows() -> None:
    (item,) = stated_speed((StatedSeconds(decode_s=1.0),), prefill_chunk=128).items
    assert item.decode.at(8) == 8.0
    assert item.prefill.at(128) == item.forward.at(512) == 0


def test_a_chunk_alone_is_stated() -> None:
    (item,) = stated_speed((StatedSeconds(prefill_s=4.0),), prefill_chunk=128).items
    assert [item.prefill.at(rows) for rows in (1, 128, 256)] == [4.0, 4.0, 8.0]


def test_a_chunk_may_be_one_row() -> None:
    (item,) = stated_speed((STATED,), prefill_chunk=1).items
    assert (item.decode.at(1), item.prefill.at(1)) == (1.0, 4.0)
