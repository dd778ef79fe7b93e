"""Engines are made by their names, and those that are not here are refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgepipe.agent import engines_here
from edgepipe.agent.engines import make_engine
from edgepipe.core.profile import DeviceKind
from edgepipe.engine.onnx import support
from edgepipe.errors import NodeError, StageError

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["torch", "onnx", "emulated"])
def test_an_engine_is_made_by_its_name(name: str, tmp_path: Path) -> None:
    assert type(make_engine(name, CPU, tmp_path)).__name__.lower() == f"{name}engine"


def test_an_engine_that_nobody_has_is_refused_with_those_that_are_here(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"^this agent has no engine 'llama', only torch, onnx"):
        make_engine("llama", CPU, tmp_path)


def test_a_missing_onnx_runtime_is_named_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "find_spec", lambda _name: None)
    assert engines_here.engines_of(DeviceKind.CPU) == ("torch",)
    with pytest.raises(StageError, match=r"pip install 'edgepipe\[onnx\]'"):
        make_engine("onnx", CPU, tmp_path)


def test_two_builds_of_onnx_runtime_are_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines_here, "is_installed", lambda _name: True)
    monkeypatch.setattr(support, "_installed", lambda _name: True)
    with pytest.raises(NodeError, match="both installed"):
        engines_here.check_builds()


def test_a_gpu_has_the_engine_where_its_build_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines_here, "is_installed", lambda name: name == "onnxruntime")
    assert engines_here.engines_of(DeviceKind.CUDA) == ("torch",)
    monkeypatch.setattr(engines_here, "is_installed", lambda name: name == "onnxruntime-gpu")
    assert engines_here.engines_of(DeviceKind.CUDA) == ("torch", "onnx")
