"""A tiny random llama with a chat template; its tokenizer's words are its tokens: w0, w1, w2 …"""

from __future__ import annotations

import json
from pathlib import Path

from cluster.tiny_folder import write_folder
from equivalence.tiny_models import CONFIGS, random_model

CONTEXT = 4096
TEMPLATE = (
    "{% for m in messages %}"
    "{% if 'w90' in m.content %}{{ raise_exception('w90 is not said here') }}{% endif %}"
    "{{ {'system': 'w2', 'user': 'w3', 'assistant': 'w4'}[m.role] }} {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}w4{% endif %}"
)


def write_small(folder: Path) -> Path:
    """It never ends by itself."""
    fields = {**CONFIGS["llama, tied"], "max_position_embeddings": CONTEXT}
    write_folder(folder, random_model(fields))
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": TEMPLATE}))
    return folder
