from pathlib import Path

import pytest
from tiny_files import write_gguf

from edgepipe.coordinator.models import Model, resolve


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_gguf_model(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return resolve(str(tiny_gguf), home=tmp_path_factory.mktemp("home"))
