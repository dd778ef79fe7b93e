"""What `edgepipe train` reads: a random Llama as a folder, a text for it, the config of a run."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

from bench.training_task import LlamaTraining


def write_run(folder: Path, training: LlamaTraining, *, num_steps: int) -> Path:
    """Write the folders `model` and all else a run wants; returns the path of its config."""
    write_model(folder / "model", training)
    num_sequences = num_steps * training.num_microbatches
    write_text(folder / "text.jsonl", training, num_sequences=num_sequences)
    config = folder / "train.toml"
    config.write_text(_config(folder, training, num_steps))
    return config


def write_model(folder: Path, training: LlamaTraining) -> None:
    """Weights as transformers draws them, and a tokenizer whose words are its tokens: w0, w1 …"""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(training.config))
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    save_file(model.state_dict(), folder / "model.safetensors")
    words = {f"w{index}": index for index in range(training.vocab_size)}
    backend = Tokenizer(models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_text(path: Path, training: LlamaTraining, *, num_sequences: int) -> None:
    """Texts of one sequence's tokens each, in random words."""
    rng = Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(num_sequences):
            words = (rng.randrange(training.vocab_size) for _ in range(training.sequence_length))
            file.write(json.dumps({"text": " ".join(f"w{word}" for word in words)}) + "\n")


def _config(folder: Path, training: LlamaTraining, num_steps: int) -> str:
    """Without a held-out text, and with one checkpoint, at the end."""
    return f"""\
model = "{folder / "model"}"
mode = "full"
steps = {num_steps}
output = "{folder / "run"}"

[data]
path = "{folder / "text.jsonl"}"
eval_fraction = 0
format = "text"
sequence_length = {training.sequence_length}

[batch]
sequences = {training.num_microbatches}
microbatches = {training.num_microbatches}

[optimizer]
learning_rate = {training.learning_rate}

[run]
dtype = "float32"
eval_every = 0
checkpoint_every = 0

[plan]
recompute = false
"""
