"""What is known of a model before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_files import write_gguf

from edgepipe.coordinator.prepared import prepare


@pytest.mark.parametrize("quantized", ["Q4_1", "Q4_0"])
async def test_it_is_known_whether_the_blocks_of_layers_have_offsets(
    tmp_path: Path, quantized: str
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", quantized=quantized)
    found = await prepare(str(path), home=tmp_path / "home")
    assert found.offsets == (quantized == "Q4_1")
