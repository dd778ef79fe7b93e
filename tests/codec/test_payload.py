"""What a payload promises: exact sizes, bounded errors, the same bytes every time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgepipe.codec import decode, encode, payload_bytes, relative_error
from edgepipe.codec.dtypes import TORCH_DTYPES, WIRE_DTYPES
from edgepipe.core.frame import Codec, DType
from edgepipe.core.payload import GROUP_VALUES, outliers_per_row
from edgepipe.errors import WireError

BY_ROW = (Codec.INT8, Codec.INT4)
FLOATS = (DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16)
EPSILON = {DType.FLOAT32: 2**-24, DType.BFLOAT16: 2**-8, DType.FLOAT16: 2**-11}


@st.composite
def tensors(draw, dtypes=FLOATS, *, finite=True):
    """Rows of up to 70 values, one to three groups, of which up to four are kept exact."""
    lead = draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=9))
    shape = (*lead, draw(st.integers(0, 70)))
    values = hnp.arrays(
        np.float32,
        shape,
        elements=st.floats(width=32, allow_nan=not finite, allow_infinity=not finite),
    )
    dtype = draw(st.sampled_from(dtypes))
    tensor = torch.from_numpy(draw(values)).to(TORCH_DTYPES[dtype])
    return torch.nan_to_num(tensor) if finite else tensor.clone()


def bits(tensor):
    return (tensor.view(torch.int16) if tensor.itemsize == 2 else tensor).numpy().tobytes()


def round_trip(tensor, codec):
    return decode(
        encode(tensor, codec),
        codec=codec,
        shape=tensor.shape,
        dtype=WIRE_DTYPES[tensor.dtype],
        device="cpu",
    )


@given(tensors(finite=False), st.sampled_from(Codec))
def test_size_is_exact_and_bytes_are_the_same_every_time(tensor, codec):
    payload = encode(tensor, codec)
    assert (
        payload.nbytes
        == len(payload)
        == payload_bytes(codec, tensor.shape, WIRE_DTYPES[tensor.dtype])
    )
    assert payload.contiguous
    assert payload == encode(tensor.clone(), codec)


@given(tensors(finite=False))
def test_none_is_bit_exact(tensor):
    back = round_trip(tensor, Codec.NONE)
    assert back.dtype == tensor.dtype
    assert back.shape == tensor.shape
    assert bits(back) == bits(tensor)


@given(tensors((DType.BFLOAT16, DType.FLOAT16), finite=False))
def test_bf16_leaves_two_byte_floats_alone(tensor):
    assert bits(round_trip(tensor, Codec.BF16)) == bits(tensor)


@given(tensors((DType.FLOAT32,)))
def test_bf16_error_is_half_a_unit_in_its_last_place(tensor):
    assert torch.equal(round_trip(tensor, Codec.BF16), tensor.to(torch.bfloat16).float())


@given(tensors())
def test_int8_error_is_at_most_half_a_scale_of_its_own_row_without_its_outliers(tensor):
    back, dtype = round_trip(tensor, Codec.INT8), WIRE_DTYPES[tensor.dtype]
    assert back.dtype == tensor.dtype
    if not tensor.numel():
        return
    magnitudes = tensor.double().abs().sort(-1, descending=True).values
    k = outliers_per_row(tensor.shape[-1])
    largest = magnitudes[..., k : k + 1]
    half_a_scale = largest / 127 / 2 * (1 + 1e-5) + torch.finfo(torch.float32).tiny
    smallest = torch.finfo(tensor.dtype).smallest_normal
    bound = half_a_scale + largest * EPSILON[dtype] + smallest
    error = (back.double() - tensor.double()).abs()
    assert (error <= bound).all()
    assert ((error == 0).sum(-1) >= k).all()


@given(tensors())
def test_int4_error_is_at_most_half_a_scale_of_its_own_group_without_the_rows_outliers(tensor):
    back, dtype = round_trip(tensor, Codec.INT4), WIRE_DTYPES[tensor.dtype]
    assert back.dtype == tensor.dtype
    assert back.is_contiguous()
    if not tensor.numel():
        return
    rows, decoded = (each.view(-1, tensor.shape[-1]).double() for each in (tensor, back))
    outliers = rows.abs().topk(outliers_per_row(tensor.shape[-1])).indices
    rest = rows.abs().scatter(1, outliers, 0)
    smallest = torch.finfo(tensor.dtype).smallest_normal
    error = (decoded - rows).abs()
    for group, lost in zip(rest.split(GROUP_VALUES, 1), error.split(GROUP_VALUES, 1), strict=True):
        largest = group.amax(1, keepdim=True)
        half_a_scale = largest / 7 / 2 * (1 + 1e-5) + torch.finfo(torch.float32).tiny
        assert (lost <= half_a_scale + largest * EPSILON[dtype] + smallest).all()
    assert ((error == 0).sum(-1) >= outliers.shape[1]).all()


@pytest.mark.parametrize(
    ("shape", "num_bytes"),
    [
        ((3, 576), 3 * (8 * (4 + 2) + 18 * 2 + 288)),
        ((2, 3, 33), 6 * (2 * (4 + 2) + 2 * 2 + 17)),
        ((5,), 2 + 3),
        ((1, 40_000), 8 * (4 + 4) + 1250 * 2 + 20_000),
        ((0, 64), 0),
        ((4, 0), 0),
    ],
)
def test_int4_takes_half_a_byte_a_value_a_scale_a_group_and_the_outliers(shape, num_bytes):
    assert payload_bytes(Codec.INT4, shape, DType.BFLOAT16) == num_bytes
    assert len(encode(torch.ones(shape, dtype=torch.bfloat16), Codec.INT4)) == num_bytes


def test_int4_groups_know_nothing_of_each_other():
    tensor = torch.full((1, 96), 1e-3)
    tensor[0, 32:64] = 1000
    assert torch.allclose(round_trip(tensor, Codec.INT4), tensor, rtol=0.01)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("codec", BY_ROW)
def test_the_largest_values_of_a_dtype_stay_finite(codec, dtype):
    largest = torch.finfo(TORCH_DTYPES[dtype]).max
    tensor = torch.full((2, 70), largest, dtype=TORCH_DTYPES[dtype])
    tensor[1, ::2] *= -1
    back = round_trip(tensor, codec)
    assert back.isfinite().all()
    assert torch.allclose(back.double(), tensor.double(), rtol=0.01)


@given(tensors(finite=False), st.sampled_from(BY_ROW))
def test_a_broken_row_is_nan_throughout_and_harms_no_other(tensor, codec):
    if not tensor.numel():
        return
    rows = tensor.view(-1, tensor.shape[-1])
    back = round_trip(tensor, codec).view(rows.shape)
    for row, decoded in zip(rows, back, strict=True):
        if row.isfinite().all():
            assert torch.equal(decoded, round_trip(row, codec))
        else:
            assert decoded.isnan().all()


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("dtype", FLOATS)
def test_zero_rows_stay_zero(codec, dtype):
    tensor = torch.zeros(3, 5, dtype=TORCH_DTYPES[dtype])
    assert torch.equal(round_trip(tensor, codec), tensor)
    assert relative_error(tensor, codec) == 0


@pytest.mark.parametrize(("codec", "error"), [(Codec.INT8, 0.02), (Codec.INT4, 0.3)])
def test_outliers_cost_the_rest_of_their_row_nothing(codec, error):
    tensor = torch.randn(5, 576, generator=torch.Generator().manual_seed(0))
    without = round_trip(tensor, codec)
    tensor[2, 100:107] = 22_000
    back = round_trip(tensor, codec)
    assert torch.equal(back[2, 100:107], tensor[2, 100:107])
    assert (back - tensor).abs().max() < error
    assert torch.equal(back[[0, 1, 3, 4]], without[[0, 1, 3, 4]])


@pytest.mark.parametrize("codec", BY_ROW)
def test_rows_too_long_for_int16(codec):
    tensor = torch.zeros(2, 40_000)
    tensor[1, 39_999] = -7
    assert torch.equal(round_trip(tensor, codec), tensor)
    assert payload_bytes(Codec.INT8, (2, 40_000), DType.FLOAT32) == 2 * (4 + 8 * 8 + 40_000)


@pytest.mark.parametrize("place", [-1, 576])
@pytest.mark.parametrize(("codec", "before"), [(Codec.INT8, 3 * (4 + 8 * 4)), (Codec.INT4, 3 * 32)])
def test_places_outside_of_the_row_are_refused(codec, before, place):
    payload = bytearray(encode(torch.ones(3, 576), codec))
    positions = np.frombuffer(payload, np.int16)[before // 2 :][: 3 * 8]
    assert positions.max() < 576
    positions[11] = place
    with pytest.raises(WireError, match=f"{codec} payload names a place outside of its rows"):
        decode(
            memoryview(payload),
            codec=codec,
            shape=(3, 576),
            dtype=DType.FLOAT32,
            device="cpu",
        )


@given(st.binary(min_size=70, max_size=70))
def test_int4_bytes_that_nobody_encoded_decode_to_rows_of_that_shape(payload):
    shape = (10, 6)
    back = decode(
        memoryview(payload[: payload_bytes(Codec.INT4, shape, DType.FLOAT32)]),
        codec=Codec.INT4,
        shape=shape,
        dtype=DType.FLOAT32,
        device="cpu",
    )
    assert back.shape == shape


@pytest.mark.parametrize("codec", BY_ROW)
def test_more_rows_than_a_block_are_encoded_alike(codec):
    tensor = torch.randn(700, 1024, generator=torch.Generator().manual_seed(0))
    tensor[[3, 300, 699]] *= 1000
    whole = round_trip(tensor, codec)
    for row in (0, 3, 255, 256, 300, 511, 512, 699):
        assert torch.equal(whole[row], round_trip(tensor[row], codec))


@pytest.mark.parametrize("codec", Codec)
@pytest.mark.parametrize("dim", [64, 70])
def test_encoding_leaves_the_tensor_as_it_was(codec, dim):
    tensor = torch.randn(3, dim, generator=torch.Generator().manual_seed(0))
    before = tensor.clone()
    encode(tensor, codec)
    assert torch.equal(tensor, before)


def test_token_ids_travel_only_as_they_are():
    ids = torch.tensor([0, 49151, 2**40])
    assert torch.equal(round_trip(ids, Codec.NONE), ids)
    for codec in (Codec.BF16, *BY_ROW):
        with pytest.raises(WireError, match="codec none"):
            encode(ids, codec)


def test_a_strided_tensor_is_encoded_as_it_reads():
    tensor = torch.arange(12, dtype=torch.float32).view(3, 4).T
    assert torch.equal(round_trip(tensor, Codec.NONE), tensor)
    assert relative_error(tensor, Codec.INT8) < 0.01
    assert relative_error(tensor, Codec.INT4) < 0.1


def test_a_tensor_that_requires_grad_can_be_sent():
    assert len(encode(torch.ones(2, 2, requires_grad=True), Codec.INT8)) == 12


def test_decoding_read_only_bytes_gives_a_writable_tensor():
    payload = memoryview(bytes(encode(torch.ones(2, 2), Codec.NONE)))
    back = decode(payload, codec=Codec.NONE, shape=(2, 2), dtype=DType.FLOAT32, device="cpu")
    back += 1
    assert payload == encode(torch.ones(2, 2), Codec.NONE)


@pytest.mark.parametrize("codec", Codec)
def test_a_payload_of_the_wrong_length_is_refused(codec):
    payload = encode(torch.ones(2, 2), codec)
    with pytest.raises(WireError, match=f"{len(payload) - 1} bytes came where {len(payload)}"):
        decode(payload[:-1], codec=codec, shape=(2, 2), dtype=DType.FLOAT32, device="cpu")


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_relative_error_of_normal_rows(seed):
    tensor = torch.randn(16, 576, generator=torch.Generator().manual_seed(seed))
    assert relative_error(tensor, Codec.NONE) == 0
    assert 0 < relative_error(tensor, Codec.BF16) < 2**-8
    assert 0.001 < relative_error(tensor, Codec.INT8) < 0.01
    assert 0.05 < relative_error(tensor, Codec.INT4) < 0.1


def test_relative_error_says_so_when_values_are_not_finite():
    for codec in BY_ROW:
        assert math.isnan(relative_error(torch.tensor([[1.0, math.inf]]), codec))


@pytest.mark.gpu
@pytest.mark.parametrize("codec", Codec)
def test_a_gpu_writes_the_bytes_that_a_cpu_writes(codec):
    tensor = torch.randn(64, 576)
    assert encode(tensor.cuda(), codec) == encode(tensor, codec)
