"""What linear modules hold and give in each weight format."""

from __future__ import annotations

import pytest
import torch
from equivalence.tiny_models import CONFIGS, config_dict
from transformers.pytorch_utils import Conv1D

from edgepipe.core.frame import DType
from edgepipe.core.weight_format import WeightFormat
from edgepipe.engine.torch.anatomy import Cut
from edgepipe.engine.torch.blocks import check_device, pack_rows
from edgepipe.engine.torch.packing import PackedLinear, pack_linears
from edgepipe.engine.torch.sample import random_stage
from edgepipe.errors import ModelError

CPU = torch.device("cpu")
ERRORS = {
    WeightFormat.FLOAT32: 1e-6,
    WeightFormat.BFLOAT16: 0.005,
    WeightFormat.FLOAT16: 0.001,
    WeightFormat.INT8: 0.012,
    WeightFormat.INT4: 0.12,
}
WHOLE = Cut(first=0, end=4, embedding=True, head=True)


def weight_of(rows: int, columns: int) -> torch.Tensor:
    return torch.randn((rows, columns), generator=torch.Generator().manual_seed(rows)) / 8


@pytest.mark.parametrize("held", WeightFormat)
@pytest.mark.parametrize(("rows", "columns"), [(48, 80), (7, 33), (1, 48), (96, 64)])
@pytest.mark.parametrize("num_values", [1, 5, 40])
def test_a_product_is_near_the_exact_one(
    held: WeightFormat, rows: int, columns: int, num_values: int
) -> None:
    weight, values = weight_of(rows, columns), weight_of(num_values, columns)
    module = PackedLinear([pack_rows(part, held) for part in weight.split(20)], None)
    actual, expected = module(values), values @ weight.T
    assert actual.dtype is torch.float32
    assert actual.shape == (num_values, rows)
    assert (actual - expected).norm() <= ERRORS[held] * expected.norm()


@pytest.mark.parametrize("held", [WeightFormat.INT8, WeightFormat.INT4])
def test_rows_that_are_all_alike_are_kept(held: WeightFormat) -> None:
    weight = torch.stack([torch.zeros(64), torch.full((64,), 0.5), torch.full((64,), -2.0)])
    product = PackedLinear([pack_rows(weight, held)], None)(torch.ones(1, 64))
    torch.testing.assert_close(product, torch.tensor([[0.0, 32.0, -128.0]]), rtol=0.01, atol=0)


@pytest.mark.parametrize("held", WeightFormat)
def test_it_takes_no_more_bytes_than_planned(held: WeightFormat) -> None:
    block = pack_rows(weight_of(64, 96), held)
    assert block.num_bytes <= held.bytes_of(64 * 96)


def test_values_of_a_matrix_in_int4_are_those_of_a_file_in_q4_1() -> None:
    """Scales and minima that bfloat16 holds, and all 16 levels in every group."""
    levels = torch.arange(16).repeat(16, 4)
    weight = 0.25 * levels - 1.5
    block = pack_rows(weight.float(), WeightFormat.INT4)
    product = block.multiply(torch.eye(64, dtype=torch.bfloat16))
    assert torch.equal(product.float(), weight.T)


def test_a_packed_copy_does_not_follow_its_source() -> None:
    for held in WeightFormat:
        weight = weight_of(16, 32)
        block = pack_rows(weight, held)
        values = torch.ones((1, 32), dtype=block.dtype)
        before = block.multiply(values)
        weight.zero_()
        assert torch.equal(block.multiply(values), before)


def test_the_bias_is_added_and_the_shape_and_type_kept() -> None:
    bias = torch.nn.Parameter(torch.arange(8.0), requires_grad=False)
    module = PackedLinear([pack_rows(torch.zeros(8, 32), WeightFormat.INT8)], bias)
    output = module(torch.ones((2, 3, 32)))
    assert torch.equal(output, torch.arange(8.0).expand(2, 3, 8))
    module.bias = None
    assert module(torch.ones((2, 3, 32), dtype=torch.bfloat16)).dtype is torch.bfloat16


@pytest.mark.parametrize("kind", ["llama, tied", "gpt2, learned positions"])
def test_a_stage_keeps_its_table_and_packs_its_head_apart(kind: str) -> None:
    model, anatomy = random_stage(config_dict(CONFIGS[kind]), DType.FLOAT32, WHOLE, CPU)
    pack_linears(model, anatomy, WHOLE, WeightFormat.INT8, CPU)
    left = [m for m in model.modules() if isinstance(m, torch.nn.Linear | Conv1D)]
    assert not left
    assert isinstance(model.get_output_embeddings(), PackedLinear)
    assert model.get_input_embeddings().weight.dtype is torch.float32


def test_without_a_format_nothing_is_packed() -> None:
    config = config_dict(CONFIGS["llama, tied"])
    model, anatomy = random_stage(config, DType.FLOAT32, WHOLE, CPU)
    pack_linears(model, anatomy, WHOLE, None, CPU)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_integer_formats_are_refused_where_no_kernel_is() -> None:
    with pytest.raises(ModelError, match="no int8 weights on mps devices"):
        check_device(WeightFormat.INT8, torch.device("mps"))
    check_device(WeightFormat.FLOAT16, torch.device("mps"))


@pytest.mark.gpu
@pytest.mark.parametrize("held", WeightFormat)
@pytest.mark.parametrize("num_values", [1, 5, 40])
def test_a_product_on_a_gpu_is_near_the_exact_one(held: WeightFormat, num_values: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda")
    check_device(held, device)
    weight, values = weight_of(160, 224).to(device), weight_of(num_values, 224).to(device)
    module = PackedLinear([pack_rows(part, held) for part in weight.split(70)], None)
    expected = (values.double() @ weight.double().T).float()
    bound = max(ERRORS[held], 2e-3)  # TF32 may be on
    assert (module(values) - expected).norm() <= bound * expected.norm()
