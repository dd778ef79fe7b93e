"""The house keeps itself: what is generated, pinned and promised is what is there."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROTOS = sorted((ROOT / "protos").rglob("*.proto"))


def test_the_wire_is_generated_from_the_protos(tmp_path: Path) -> None:
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", *outputs, *PROTOS],
        check=True,
        timeout=60,
    )
    generated = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.py*")}
    wire = ROOT / "edgepipe" / "wire" / "v1"
    checked_in = {path.relative_to(ROOT): path.read_text() for path in wire.glob("*_pb2*.py*")}
    assert generated == checked_in, "run make protos"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    used = [spec for name in ("demo", "dev", "onnx", "serve") for spec in extras[name]]
    wanted = [*project["dependencies"], *used, "grpcio-tools"]
    pins = (ROOT / "constraints.txt").read_text()
    pinned = {canonical(name) for name in re.findall(r"^([\w.-]+)==", pins, re.MULTILINE)}
    names = {canonical(re.match(r"[\w.-]+", spec)[0]) for spec in wanted}  # type: ignore[index]
    assert names - {"edgepipe"} <= pinned
