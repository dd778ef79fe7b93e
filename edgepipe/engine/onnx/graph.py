"""A stage's graph, made by onnxruntime_genai's model builder and cut here.

    input_ids or inputs_embeds [rows, tokens(, hidden)]
    last_positions             int32 [rows]: each row's last position in this call
    capacity                   int32 [1]: positions that a slot's cache has room for
    past_key_values.i.key …    [rows, kv_head, capacity, dim], the memory that present.i.key … is
    logit_tokens               int64 [n], with a head: the tokens of a row whose logits are wanted
    hidden_states              [rows, tokens, hidden], the residual sum, or
    logits                     [rows, n, vocab]

The builder makes every operator but five things: where layers begin and end, the rows that the
head sees, the offsets of Q4_1 blocks, an embedding that is looked up in blocks, and lengths that
are told and not counted from a mask. Weights go to a data file layer by layer, so that only one
layer is ever in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import onnx_ir as ir
import torch
from onnxruntime_genai.models.builders.base import Model

from edgepipe.engine.onnx.blocks import BLOCK, Blocks, joined, rounded
from edgepipe.engine.onnx.store import DATA_NAME, GRAPH_NAME

_ALIGNMENT = 64
_INLINE_BYTES = 1024
"""Smaller tensors lie in the graph itself, where shape inference sees them."""


class BlockLinear(torch.nn.Module):
    """A linear module whose weight is in blocks, with the attributes that the builder looks for."""

    blocks: Blocks
    bits: int

    def __init__(self, blocks: Blocks, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.blocks = blocks
        self.bias = bias
        self.bits = blocks.bits
        self.group_size = BLOCK
        self.qweight = blocks.quants
        self.scales = blocks.scales
        self.g_idx = None
        self.in_features = blocks.columns
        self.out_features = blocks.num_rows


class StageGraph(Model):  # type: ignore[misc]
    """Mixed into a builder's class. `assemble` is called part by part, from the input on."""

    def make_inputs_init(self) -> None:
        """Tell lengths instead of a mask, and which rows the head should see."""
        super().make_inputs_init()
        del self.input_names["attention_mask"]
        for name, dtype, shape in (
            ("last_positions", ir.DataType.INT32, ["batch_size"]),
            ("capacity", ir.DataType.INT32, [1]),
        ):
            self._make_input(name, dtype, shape)
        if not self.extra_options["exclude_lm_head"]:
            self._make_input("logit_tokens", ir.DataType.INT64, ["num_logits"])

    def make_rope_init(self, config: Any) -> None:
        """Let an idle row stand behind the last position."""
        super().make_rope_init(config)
        self.rope_attrs["cache_length"] += 1

    def _make_input(self, name: str, dtype: ir.DataType, shape: list[Any]) -> None:
        self.input_names[name] = name
        self.input_types[name] = dtype
        self.input_shapes[name] = shape

    def make_group_query_attention(self, name: str, **kwargs: Any) -> None:
        """Attend to as many positions as a row is told to have."""
        told = {"seqlens_k": "last_positions", "total_seq_len": "capacity"}
        super().make_group_query_attention(name, **{**kwargs, **told})

    def begin(self, data: BinaryIO) -> None:
        """Start the graph, whose weights go to `data`."""
        self._data = data
        self.make_inputs_and_outputs()
        if self.num_layers == 0:
            self.layernorm_attrs["last_layernorm"] = True

    def enter(self) -> None:
        """Take the residual sum of the stage before.

        The first norm has to be the fused kernel that it is in the whole model, where the sum is
        made by it: with activations of 8 bits another kernel moves the logits.
        """
        shape = self.make_hidden_state_shape()
        zero = f"/model/constants/{self.to_str_dtype(self.io_dtype)}/0.0"
        self.make_mul("/model/entry/Mul", ["inputs_embeds", zero], self.io_dtype, shape)
        self.layernorm_attrs["root_input"] = "inputs_embeds"
        self.layernorm_attrs["skip_input"] = "/model/entry/Mul/output_0"
        self.layernorm_attrs["first_layernorm"] = False

    def embed(self, table: torch.Tensor | Blocks) -> None:
        """Look token ids up, in rows of floats or of blocks of 8 bits."""
        self.make_embedding(table)
        self._spill()

    def make_embedding_lookup(
        self, embedding: torch.Tensor | Blocks, basename: str, lm_head: Any
    ) -> str:
        """Look up in the table as it is stored."""
        if isinstance(embedding, Blocks):
            return self._look_up_blocks(embedding, basename)
        stored = embedding.dtype
        if stored not in {torch.float16, torch.bfloat16}:
            return str(super().make_embedding_lookup(embedding, basename, lm_head))
        weight, shape = "model.embed_tokens.weight", self.make_hidden_state_shape()
        self.make_initializer(embedding, weight)
        gather = f"{basename}/Gather"
        dtype = self.values[weight].dtype
        self.make_node(
            "Gather",
            inputs=[weight, self.input_names["input_ids"]],
            outputs=[f"{gather}/output_0"],
            name=gather,
        )
        self.make_value(f"{gather}/output_0", dtype, shape=shape)
        self.make_cast(f"{basename}/ToIo/Cast", f"{gather}/output_0", self.io_dtype, shape)
        return f"{basename}/ToIo/Cast/output_0"

    def _look_up_blocks(self, table: Blocks, basename: str) -> str:
        weight = "model.embed_tokens.qweight"
        self.make_initializer(table.quants.reshape(table.num_rows, -1), weight)
        self.make_initializer(table.scales, "model.embed_tokens.scales", to=self.io_dtype)
        name = f"{basename}/GatherBlockQuantized"
        self.make_node(
            "GatherBlockQuantized",
            inputs=[weight, self.input_names["input_ids"], "model.embed_tokens.scales"],
            outputs=[f"{name}/output_0"],
            name=name,
            domain="com.microsoft",
            bits=table.bits,
            block_size=BLOCK,
            gather_axis=0,
            quantize_axis=1,
        )
        return f"{name}/output_0"

    def add_layer(self, index: int, layer: torch.nn.Module) -> None:
        """Append a layer, numbered within the stage."""
        self.make_layer(index, layer)
        self._spill()

    def end_with_head(self, norm: torch.nn.Module, head: torch.nn.Module) -> None:
        """Append the final norm and the head."""
        simple = self.layernorm_attrs["simple"]
        self.make_layernorm(self.num_layers, norm, skip=True, simple=simple, location="final_norm")
        self.make_lm_head(head)
        self._spill()

    def make_lm_head(self, lm_head: torch.nn.Module) -> None:
        """Show the head the wanted tokens only."""
        name = "/lm_head/wanted/Gather"
        inputs = [self.layernorm_attrs["output_0"], "logit_tokens"]
        shape = ["batch_size", "num_logits", self.hidden_size]
        self.make_gather(name, inputs, self.io_dtype, shape, axis=1)
        self.layernorm_attrs["output_0"] = f"{name}/output_0"
        self.output_shapes["logits"] = ["batch_size", "num_logits", self.vocab_size]
        self.values["logits"].shape = ir.Shape(self.output_shapes["logits"])
        super().make_lm_head(lm_head)

    def end_with_boundary(self) -> None:
        """Hand on the residual sum."""
        root, skip = (self.layernorm_attrs[f"{side}_input"] for side in ("root", "skip"))
        one = root == skip
        self.make_node(
            "Identity" if one else "Add",
            inputs=[root] if one else [root, skip],
            outputs=["hidden_states"],
            name="/model/exit",
        )

    def make_matmul_nbits(self, matmul: Any, basename: str, root_input: str, **kwargs: Any) -> str:
        """Multiply by a matrix in blocks, and add what Q4_1 blocks are shifted by."""
        if not isinstance(matmul, BlockLinear):
            matmul = BlockLinear(rounded(matmul.weight, self.quant_attrs["bits"]), None)
        if matmul.blocks.offsets is None:
            return str(super().make_matmul_nbits(matmul, basename, root_input, **kwargs))
        logits = kwargs.pop("logits", False)
        product = super().make_matmul_nbits(matmul, basename, root_input, **kwargs)
        shift = self._make_shift(matmul.blocks, basename, root_input, **kwargs)
        name = f"{basename}/Shifted/Add"
        output = "logits" if logits else f"{name}/output_0"
        self.make_node("Add", inputs=[f"{product}/output_0", shift], outputs=[output], name=name)
        self.make_value(output, self.io_dtype, shape=self._shape(matmul.out_features, **kwargs))
        return name

    def _make_shift(self, blocks: Blocks, basename: str, root_input: str, **kwargs: Any) -> str:
        """The sums of the activations' blocks, which several products share, times the offsets."""
        num_blocks = blocks.columns // BLOCK
        sums = f"/model/block_sums/{root_input.strip('/')}"
        self.make_reshape(
            f"{sums}/Reshape",
            [root_input, f"/model/constants/INT64/[0, 0, {num_blocks}, {BLOCK}]"],
            self.io_dtype,
            [*self._shape(num_blocks, **kwargs), BLOCK],
        )
        self.make_reduce_sum(
            f"{sums}/ReduceSum",
            [f"{sums}/Reshape/output_0", "/model/constants/INT64/[-1]"],
            self.io_dtype,
            self._shape(num_blocks, **kwargs),
        )
        weight = f"{basename[1:].replace('/', '.')}.offsets"
        self.make_initializer(blocks.offsets, weight, to=self.io_dtype)
        name = f"{basename}/Shift/MatMul"
        output = f"{name}/output_0"
        self.make_node(
            "MatMul", inputs=[f"{sums}/ReduceSum/output_0", weight], outputs=[output], name=name
        )
        self.make_value(output, self.io_dtype, shape=self._shape(blocks.num_rows, **kwargs))
        return output

    def _shape(self, last_dim: int, **kwargs: Any) -> list[Any]:
        seq_dim = kwargs.get("seq_dim", "sequence_length")
        return list(self.make_hidden_state_shape(seq_dim=seq_dim, last_dim=last_dim))

    def is_qkv_projection_packable(self, layer_id: int, attention: Any) -> bool:
        """One product needs blocks of one kind."""
        kinds = {
            (proj.bits, proj.blocks.offsets is None) if isinstance(proj, BlockLinear) else None
            for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
        }
        return len(kinds) == 1 and bool(super().is_qkv_projection_packable(layer_id, attention))

    def make_packed_matmul_int4_class(self, *projections: Any) -> Any:
        """Join the projections' rows; the builder's own way wants zero points."""
        if not isinstance(projections[0], BlockLinear):
            return super().make_packed_matmul_int4_class(*projections)
        return BlockLinear(joined([p.blocks for p in projections]), None)

    def _spill(self) -> None:
        """Move the weights made so far to the data file."""
        for value in self.graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) or tensor.nbytes < _INLINE_BYTES:
                continue
            self._data.write(b"\0" * (-self._data.tell() % _ALIGNMENT))
            offset = self._data.tell()
            self._data.write(tensor.tobytes())
            value.const_value = ir.ExternalTensor(
                DATA_NAME,
                offset,
                self._data.tell() - offset,
                tensor.dtype,
                shape=tensor.shape,
                name=value.name,
                base_dir="",
            )

    def save(self, folder: Path) -> None:
        """Write the graph beside its data file."""
        self._spill()
        self.graph.sort()
        ir.save(self.model, folder / GRAPH_NAME)
