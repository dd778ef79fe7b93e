"""What both sides train: emulated stages, or a small random Llama. Sizes, and what a step costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedTraining:
    """Stages that take a given time and send real bytes. `activation_kib` is of float32."""

    num_stages: int = 4
    forward_ms: float = 20.0
    backward_ms: float = 40.0
    num_microbatches: int = 16
    activation_kib: int = 256

    @property
    def ideal_step_s(self) -> float:
        """Of equal stages on links that take no time: Σ(f+b) + (M-1)·(f+b)."""
        microbatch_ms = self.forward_ms + self.backward_ms
        return microbatch_ms * (self.num_stages + self.num_microbatches - 1) / 1e3

    @property
    def activation_values(self) -> int:
        """Values of one microbatch's activation."""
        return self.activation_kib * 1024 // FLOAT32_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaTraining:
    """A random Llama in float32, cut into equal stages; one sequence is one microbatch.

    The vocabulary is small, so that the head is worth little and equal stages are the best ones.
    """

    num_stages: int = 2
    num_layers: int = 8
    hidden_size: int = 512
    num_microbatches: int = 8
    sequence_length: int = 128
    vocab_size: int = 512
    learning_rate: float = 1e-4

    @property
    def cuts(self) -> tuple[int, ...]:
        """The layers at which stages begin, and the number of layers."""
        return tuple(
            stage * self.num_layers // self.num_stages for stage in range(self.num_stages + 1)
        )

    @property
    def config(self) -> Mapping[str, Any]:
        """The model as Hugging Face's config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.hidden_size * 11 // 4,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.hidden_size // 64,
            "num_key_value_heads": self.hidden_size // 64,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": 4 * self.sequence_length,
            "tie_word_embeddings": False,
            "dtype": "float32",
            "eos_token_id": None,
        }


Training = EmulatedTraining | LlamaTraining
