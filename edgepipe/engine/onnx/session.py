"""An ONNX Runtime session over a built stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from edgepipe.engine.onnx.providers import CPU, Provider
from edgepipe.engine.onnx.store import GRAPH_NAME

OPEN_ERRORS = (
    native.Fail,
    native.InvalidArgument,
    native.InvalidGraph,
    native.InvalidProtobuf,
    native.NoSuchFile,
    native.NotImplemented,
    native.RuntimeException,
)
"""What ONNX Runtime raises on files that it cannot make a session of."""

_ERRORS_ONLY = 3


def open_session(folder: Path, providers: Sequence[Provider], threads: int) -> Any:
    """The session, its weights mapped from the folder.

    Threads sleep when idle: other stages may share their cores. Memory patterns would be kept for
    every shape that ever came by.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_mem_pattern = False
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        str(folder / GRAPH_NAME),
        options,
        providers=[(name, chosen) if name != CPU else name for name, chosen in providers],
    )
