from pathlib import Path

import pytest
from tiny_files import write_gguf
from transformers import AutoTokenizer

from edgepipe.coordinator import gguf_source
from edgepipe.coordinator.gguf_source import hugging_face_names, import_gguf, read_index
from edgepipe.coordinator.models import Model
from edgepipe.errors import DamagedWeights, ModelError


def test_tensors_get_their_hugging_face_names_and_tables_without_one_are_left_out(
    tiny_gguf: Path, tiny_gguf_model: Model
) -> None:
    found = {t.name: t for t in read_index(tiny_gguf, tiny_gguf_model.folder)}
    assert len(found) == 2 + 2 * 9
    query = found["model.layers.1.self_attn.q_proj.weight"]
    assert query.gguf is not None
    assert (query.gguf.name, query.gguf.type) == ("blk.1.attn_q.weight", "Q4_1")
    assert (query.dtype, query.shape, query.gguf.shape) == ("U8", (32, 20), (32, 32))
    assert found["model.norm.weight"].dtype == "F32"
    assert found["model.layers.0.mlp.down_proj.weight"].dtype == "F16"


def test_the_config_is_that_of_transformers(tiny_gguf_model: Model) -> None:
    config = tiny_gguf_model.config
    assert (config["model_type"], config["architectures"]) == ("llama", ["LlamaForCausalLM"])
    assert (config["num_hidden_layers"], config["num_key_value_heads"]) == (2, 1)
    assert config["tie_word_embeddings"] is True
    assert tiny_gguf_model.eos_ids == (2,)


@pytest.mark.parametrize("text", ["Hello world", " two  spaces ", "é € 𝄞\n", "x</s>", ""])
def test_the_imported_tokenizer_is_the_one_that_transformers_reads(
    tiny_gguf: Path, tiny_gguf_model: Model, text: str
) -> None:
    reference = AutoTokenizer.from_pretrained(tiny_gguf.parent, gguf_file=tiny_gguf.name)
    ours = tiny_gguf_model.tokenizer()
    expected = reference(text)["input_ids"]
    assert ours.prompt_ids(text, raw=True) == expected
    assert ours.decode(expected) == reference.decode(expected, skip_special_tokens=True)


def test_the_second_import_reads_the_first(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = import_gguf(tiny_gguf, home=tmp_path)
    monkeypatch.setattr(gguf_source, "_write_import", lambda *_: pytest.fail("imported again"))
    assert import_gguf(tiny_gguf, home=tmp_path) == folder
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]


def test_a_changed_file_is_imported_anew(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf")
    first = gguf_source._key(path)
    path.write_bytes(path.read_bytes() + b"\0")
    assert gguf_source._key(path) != first


def test_a_file_that_is_cut_off_is_damage(tmp_path: Path, tiny_gguf: Path) -> None:
    content = tiny_gguf.read_bytes()
    for keep in (0, 3, 20, 400, len(content) // 2, len(content) - 64):
        path = tmp_path / f"{keep}.gguf"
        path.write_bytes(content[:keep])
        with pytest.raises(DamagedWeights, match=rf"{keep}\.gguf"):
            import_gguf(path, home=tmp_path)
    assert not any((tmp_path / "models").iterdir())


def test_a_piece_of_a_split_model_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", split_count=3)
    with pytest.raises(ModelError, match="one of 3 pieces"):
        import_gguf(path, home=tmp_path)


def test_an_architecture_that_is_not_supported_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", architecture="rwkv6")
    with pytest.raises(ModelError, match="architecture rwkv6"):
        import_gguf(path, home=tmp_path)


SIZES = {
    "num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 64, "vocab_size": 64,
    "num_attention_heads": 4, "num_key_value_heads": 2,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
GPT2 = {**{k: v for k, v in SIZES.items() if k.endswith("_id")}, "vocab_size": 64,
        "n_layer": 1, "n_embd": 32, "n_head": 4}  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "architecture", "config"),
    [("qwen2", "qwen2", SIZES), ("qwen3", "qwen3", SIZES), ("gpt2", "gpt2", GPT2),
     ("gemma3_text", "gemma3", SIZES), ("bloom", "bloom", GPT2)],
)  # fmt: skip
def test_names_are_those_of_transformers_own_map(
    model_type: str, architecture: str, config: dict[str, int]
) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    parsed = AutoConfig.for_model(model_type, **config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(parsed)
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=parsed.to_dict())
    assert hugging_face_names(model, architecture) == get_gguf_hf_weights_map(model, processor)
