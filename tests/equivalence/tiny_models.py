"""Tiny random models, their part files, and a pipeline of engines in one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from edgepipe.core.frame import DType, Span
from edgepipe.core.model import ModelShape
from edgepipe.core.weight_format import WeightFormat
from edgepipe.engine.base import StageSpec
from edgepipe.engine.torch.engine import TorchEngine
from edgepipe.engine.torch.probe import model_shape

NUM_LAYERS = 4
VOCABULARY = 96

_SIZES = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_GPT2 = {
    "n_embd": 48,
    "n_layer": NUM_LAYERS,
    "n_head": 4,
    "vocab_size": VOCABULARY,
    "n_positions": 128,
    "bos_token_id": None,
    "eos_token_id": None,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama, tied": {"model_type": "llama", **_SIZES, "tie_word_embeddings": True},
    "llama, untied, grouped queries": {
        "model_type": "llama",
        **_SIZES,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    },
    "mistral, sliding window": {
        "model_type": "mistral",
        **_SIZES,
        "num_key_value_heads": 2,
        "sliding_window": 7,
    },
    "qwen2": {"model_type": "qwen2", **_SIZES, "num_key_value_heads": 2},
    "qwen3": {"model_type": "qwen3", **_SIZES, "num_key_value_heads": 1, "head_dim": 16},
    "gpt2, learned positions": {"model_type": "gpt2", **_GPT2},
}


def config_dict(fields: dict[str, Any]) -> dict[str, Any]:
    """What a coordinator sends: `config.to_dict()`."""
    rest = {key: value for key, value in fields.items() if key != "model_type"}
    return AutoConfig.for_model(fields["model_type"], **rest).to_dict()


def random_model(fields: dict[str, Any], *, seed: int = 0) -> Any:
    """The whole model in float32 with every tensor random, so that a swapped one shows."""
    rest = {key: value for key, value in fields.items() if key != "model_type"}
    config = AutoConfig.for_model(fields["model_type"], **rest)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim < 2:
                tensor.copy_(0.3 * noise + (0.0 if name.endswith("bias") else 1.0))
            else:
                tensor.copy_(1.5 * noise / tensor.shape[-1] ** 0.5)
    return model


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A model's part files, one per layer and one per tensor outside the layers."""

    shape: ModelShape
    config: dict[str, Any]
    layers: tuple[Path, ...]
    outside: dict[str, Path]

    def of(self, first: int, end: int, *, embedding: bool, head: bool) -> tuple[Path, ...]:
        items = self.shape.items(first, end, embedding=embedding, head=head)
        names = self.shape.tensors(items)
        outside = [path for name, path in self.outside.items() if name in names]
        return (*outside, *self.layers[first:end])


def write_parts(model: Any, folder: Path, *, dtype: torch.dtype = torch.float32) -> Parts:
    config = model.config.to_dict()
    shape = model_shape("tiny", config)
    state = revert_weight_conversion(model, model.state_dict())
    groups = {item.name: item.tensors for item in shape.layers}
    outside = dict.fromkeys((*shape.embedding.tensors, *shape.head.tensors))
    groups |= {name: (name,) for name in outside}
    paths = {}
    for number, (group, names) in enumerate(groups.items()):
        paths[group] = folder / f"{number}.safetensors"
        tensors = {name: state[name].to(dtype).contiguous().clone() for name in names}
        save_file(tensors, paths[group])
    return Parts(
        shape=shape,
        config=config,
        layers=tuple(paths[item.name] for item in shape.layers),
        outside={name: paths[name] for name in outside},
    )


class Pipeline:
    """Stages [0, cuts[0]) [cuts[0], cuts[1]) …, the embedding on the first, the head on the last.

    `apart` puts the embedding and the head on stages of their own.
    """

    def __init__(
        self,
        parts: Parts,
        cuts: Sequence[int] = (),
        *,
        num_slots: int = 4,
        max_positions: int = 128,
        apart: bool = False,
        dtype: DType = DType.FLOAT32,
        held: WeightFormat | None = None,
    ) -> None:
        bounds = [0, *cuts, parts.shape.num_layers]
        ranges = list(pairwise(bounds))
        if apart:
            ranges = [(0, 0), *ranges, (parts.shape.num_layers, parts.shape.num_layers)]
        self.engines: list[TorchEngine] = []
        self.weight_bytes: list[int] = []
        for index, (first, end) in enumerate(ranges):
            own = {"embedding": index == 0, "head": index == len(ranges) - 1}
            spec = StageSpec(
                config=parts.config,
                first=first,
                end=end,
                dtype=dtype,
                num_slots=num_slots,
                max_positions=max_positions,
                weights=parts.of(first, end, **own),
                weight_format=held,
                **own,
            )
            engine = TorchEngine("cpu")
            self.weight_bytes.append(engine.load(spec, lambda _done, _total: None).weight_bytes)
            self.engines.append(engine)

    def forward(
        self, spans: Sequence[Span], tokens: torch.Tensor, *, all_logits: bool = False
    ) -> torch.Tensor:
        for engine in self.engines[:-1]:
            tokens = engine.forward(spans, tokens)
        return self.engines[-1].forward(spans, tokens, all_logits=all_logits)

    def logits(self, tokens: torch.Tensor, *, slot: int = 0, chunks: Sequence[int]) -> torch.Tensor:
        """Logits of every position of one sequence, fed in chunks, then token by token."""
        rows, start = [], 0
        for count in [*chunks, *[1] * (len(tokens) - sum(chunks))]:
            span = Span(slot=slot, start=start, count=count)
            piece = tokens[start : start + count]
            rows.append(self.forward([span], piece, all_logits=True))
            start += count
        return torch.cat(rows)


def reference_logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """What plain transformers gives in one process, in one forward."""
    with torch.inference_mode():
        return model(input_ids=tokens[None]).logits[0]


def random_tokens(count: int, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (count,), generator=generator)
