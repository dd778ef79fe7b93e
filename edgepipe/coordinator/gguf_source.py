"""A `.gguf` file as a model: imported once, then read from a cache.

    EDGEPIPE_HOME/models/<key>/
        config.json  tokenizer.json  tokenizer_config.json  …   as transformers writes them
        tensors.json                                            which tensor lies where

The weights stay in the `.gguf`; transformers' own name map says what each one is.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepipe.coordinator.source import GgufOrigin, SourceTensor
from edgepipe.errors import DamagedWeights, ModelError
from edgepipe.home import folder_atomically

if TYPE_CHECKING:
    from transformers.integrations.gguf.reader import GgufHeader, TensorInfo

_FORMAT = 1
_INDEX_NAME = "tensors.json"
_PLAIN = frozenset({"F32", "F16", "BF16"})
_GENERIC_TOKENIZERS = (None, "TokenizersBackend", "PreTrainedTokenizerFast", "MistralCommonBackend")
_PARSER_ERRORS = (
    ValueError, LookupError, TypeError, ArithmeticError, AttributeError, NotImplementedError,
    OSError, struct.error,
)  # fmt: skip
"""What transformers raises on a file that they cannot follow."""


def import_gguf(path: Path, *, home: Path) -> Path:
    """The folder of an imported `.gguf`; imports it (ten seconds) unless that was done before.

    Raises:
        DamagedWeights: the file is cut off, or not GGUF.
        ModelError: its architecture is not supported, or it is one piece of a split model.
    """
    folder = home / "models" / _key(path)
    if not (folder / _INDEX_NAME).is_file():
        with folder_atomically(folder) as aside:
            _write_import(path, aside)
    return folder


def read_index(path: Path, folder: Path) -> tuple[SourceTensor, ...]:
    """The tensors of an imported `.gguf`, by their Hugging Face names."""
    entries = json.loads((folder / _INDEX_NAME).read_bytes())
    return tuple(_from_entry(path, entry) for entry in entries)


def _key(path: Path) -> str:
    """Names an import: the file, and what its import depends on."""
    stat = path.stat()
    facts = (
        _FORMAT, path.resolve(), stat.st_size, stat.st_mtime_ns,
        version("transformers"), version("gguf"),
    )  # fmt: skip
    return hashlib.sha256("\0".join(map(str, facts)).encode()).hexdigest()[:32]


def _write_import(path: Path, folder: Path) -> None:
    header = _read_header(path)
    try:
        model = _write_config(path, folder)
        names = hugging_face_names(model, header.architecture)
        _write_tokenizer(path, folder, model.config.model_type)
    except _PARSER_ERRORS as error:
        raise ModelError(
            f"{path} is a GGUF file of architecture {header.architecture}, which cannot be "
            f"imported ({_first_line(error)}): use the model's safetensors files."
        ) from error
    entries = [asdict(tensor) for tensor in _tensors(path, header, names)]
    (folder / _INDEX_NAME).write_text(json.dumps(entries, default=str), encoding="utf-8")


def _read_header(path: Path) -> GgufHeader:
    """The file's own list of tensors. Here by transformers: gguf's reader takes 3 s."""
    from transformers.integrations.gguf import (  # noqa: PLC0415 (only an import needs it)
        GgufHeader,
        read_gguf_metadata,
    )

    try:
        metadata, _ = read_gguf_metadata(str(path))
        header = GgufHeader.from_file(str(path))
    except _PARSER_ERRORS as error:
        raise DamagedWeights(
            f"{path} is not a whole GGUF file that can be read ({_first_line(error)}): "
            "download it again."
        ) from error
    if metadata.get("split.count", 1) > 1:
        raise ModelError(
            f"{path} is one of {metadata['split.count']} pieces: join them with llama.cpp's "
            "`llama-gguf-split --merge`."
        )
    _check_ends(path, header)
    return header


def _check_ends(path: Path, header: GgufHeader) -> None:
    size = path.stat().st_size
    for info in header.tensors:
        if header.data_start + info.offset + info.nbytes > size:
            raise DamagedWeights(f"{path} is cut off at tensor {info.name}: download it again.")


def _write_config(path: Path, folder: Path) -> Any:
    """Write config.json and return the model on meta."""
    import torch  # noqa: PLC0415 (only an import needs it)
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    return model


def hugging_face_names(model: Any, architecture: str) -> dict[str, str]:
    """The name in `model` of each GGUF tensor.

    The same map that transformers makes, which asks gguf again for every submodule (9 s): names
    of the whole model come first, then those that submodules know their tensors by (BLOOM's).
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map  # noqa: PLC0415

    arch = next((key for key, name in MODEL_ARCH_NAMES.items() if name == architecture), None)
    if arch is None:
        raise NotImplementedError("gguf does not know the architecture")
    name_map = get_tensor_name_map(arch, model.config.get_text_config().num_hidden_layers)
    found: dict[str, str] = {}
    paths = [name.split(".") for name in model.state_dict()]
    for depth in range(max(map(len, paths))):
        for parts in paths:
            stem, leaf = ".".join(parts[depth:-1]), parts[-1]
            gguf_name = name_map.get_name(stem) if leaf in {"weight", "bias"} else None
            if gguf_name is not None:
                found.setdefault(f"{gguf_name}.{leaf}", ".".join(parts))
    return found


def _write_tokenizer(path: Path, folder: Path, model_type: str) -> None:
    """Write what AutoTokenizer makes of the file; told the class, it need not read the config."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: PLC0415
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES  # noqa: PLC0415

    source = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    if TOKENIZER_MAPPING_NAMES.get(model_type) in _GENERIC_TOKENIZERS:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(**source)
    else:
        tokenizer = AutoTokenizer.from_pretrained(**source, tokenizer_type=model_type)
    tokenizer.save_pretrained(folder)


def _tensors(path: Path, header: GgufHeader, names: dict[str, str]) -> Iterator[SourceTensor]:
    """The tensors that have a Hugging Face name (rope tables have none)."""
    for info in header.tensors:
        if "_exps." in info.name:
            raise ModelError(
                f"{path} is a mixture of experts, which edgepipe does not read from GGUF: "
                "use the model's safetensors files."
            )
        if info.name in names:
            yield _tensor(path, names[info.name], header, info)


def _tensor(path: Path, name: str, header: GgufHeader, info: TensorInfo) -> SourceTensor:
    from gguf import GGMLQuantizationType  # noqa: PLC0415 (only an import needs it)

    kind = GGMLQuantizationType(info.ggml_type).name
    *rows, _ = shape = tuple(info.shape)
    return SourceTensor(
        name=name,
        dtype=kind if kind in _PLAIN else "U8",
        shape=shape if kind in _PLAIN else (*rows, info.nbytes // max(1, math.prod(rows))),
        path=path,
        offset=header.data_start + info.offset,
        size_bytes=info.nbytes,
        gguf=GgufOrigin(architecture=header.architecture, name=info.name, type=kind, shape=shape),
    )


def _from_entry(path: Path, entry: dict[str, Any]) -> SourceTensor:
    origin = entry.pop("gguf")
    return SourceTensor(
        **{**entry, "shape": tuple(entry["shape"]), "path": path},
        gguf=GgufOrigin(**{**origin, "shape": tuple(origin["shape"])}),
    )


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__
