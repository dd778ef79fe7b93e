"""A tiny random llama as a folder, with a tokenizer whose words are its tokens: w0, w1, w2 …"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from equivalence.tiny_models import CONFIGS, VOCABULARY, random_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

CONTEXT = 4096


def write_tiny(folder: Path) -> Path:
    """Four layers and 4096 positions: it never ends by itself, so a run lasts as long as wanted."""
    fields = {**CONFIGS["llama, tied"], "max_position_embeddings": CONTEXT}
    return write_folder(folder, random_model(fields))


def write_folder(folder: Path, model: Any) -> Path:
    """Any model of VOCABULARY tokens."""
    folder.mkdir(parents=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in model.all_tied_weights_keys:
        del state[name]
    save_file(state, folder / "model.safetensors")
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
