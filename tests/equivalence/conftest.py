"""Fixtures that several of these suites share."""

from __future__ import annotations

import pytest
from equivalence.smollm2_parts import gguf_file, write_gguf_parts
from equivalence.tiny_models import Parts
from transformers import AutoConfig


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """SmolLM2-135M-Instruct as part files."""
    source = gguf_file()
    config = AutoConfig.from_pretrained(source.parent, gguf_file=source.name).to_dict()
    return write_gguf_parts(source, config, tmp_path_factory.mktemp("smollm2"))
