"""Small model files on disk, made by the libraries that people make theirs with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors.numpy import save_file

Tensors = Mapping[str, npt.NDArray[np.generic]]

LLAMA_CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 260,
    "eos_token_id": 2,
}
HIDDEN, KV = 32, 16


def random_array(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def write_folder(folder: Path, shards: list[Tensors], config: object = LLAMA_CONFIG) -> Path:
    """A Hugging Face folder: one file, or shards with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if len(shards) == 1:
        save_file(dict(shards[0]), folder / "model.safetensors")
        return folder
    weight_map = {}
    for number, tensors in enumerate(shards):
        name = f"model-{number}.safetensors"
        save_file(dict(tensors), folder / name)
        weight_map.update(dict.fromkeys(tensors, name))
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index)
    return folder


def write_gguf(
    path: Path, *, split_count: int = 0, architecture: str = "llama", quantized: str = "Q4_1"
) -> Path:
    """A Llama of two layers: quantized, Q8_0, F16 and F32 tensors, a rope table, byte tokens."""
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    if split_count:
        writer.add_uint16("split.count", split_count)
    _add_tokenizer(writer)
    _add(writer, "token_embd.weight", random_array(260, HIDDEN), GGMLQuantizationType.Q8_0)
    _add(writer, "output_norm.weight", random_array(HIDDEN), GGMLQuantizationType.F32)
    _add(writer, "rope_freqs.weight", random_array(8), GGMLQuantizationType.F32)
    kind = GGMLQuantizationType[quantized]
    for layer in range(2):
        for name, shape in {
            "attn_q": (HIDDEN, HIDDEN), "attn_k": (KV, HIDDEN), "attn_v": (KV, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN), "ffn_gate": (HIDDEN, HIDDEN),
            "ffn_up": (HIDDEN, HIDDEN),
        }.items():  # fmt: skip
            _add(writer, f"blk.{layer}.{name}.weight", random_array(*shape, seed=layer), kind)
        down = random_array(HIDDEN, HIDDEN, seed=layer)
        _add(writer, f"blk.{layer}.ffn_down.weight", down, GGMLQuantizationType.F16)
        for name in ("attn_norm", "ffn_norm"):
            norm = random_array(HIDDEN, seed=layer)
            _add(writer, f"blk.{layer}.{name}.weight", norm, GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(
    writer: GGUFWriter, name: str, array: npt.NDArray[np.float32], kind: GGMLQuantizationType
) -> None:
    if kind is GGMLQuantizationType.F32:
        writer.add_tensor(name, array)
    elif kind is GGMLQuantizationType.F16:
        writer.add_tensor(name, array.astype(np.float16))
    else:
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)


def _add_tokenizer(writer: GGUFWriter) -> None:
    """Sentencepiece with a token for every byte, as Llama 2 has it."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    kinds = [2, 3, 3, *([6] * 256), 1]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for m in messages %}{{ bos_token + m['content'] }}{% endfor %}")
