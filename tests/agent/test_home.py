from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgepipe.agent.home import open_identity
from edgepipe.errors import NodeError, UsageError
from edgepipe.home import write_atomically

OPEN = """
import sys
from pathlib import Path
from edgepipe.agent.home import open_identity
sys.stdin.readline()
identity = open_identity(Path(sys.argv[1]), sys.argv[2])
identity.save_fence(identity.last_fence + 1)
print(identity.id, flush=True)
sys.stdin.readline()
"""


def start(home: Path, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OPEN, str(home), name]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_node_keeps_its_id_and_its_fence(tmp_path: Path) -> None:
    with open_identity(tmp_path, "attic") as first:
        assert first.last_fence == 0
        first.save_fence(1)
        first.save_fence(7)
    with open_identity(tmp_path, "attic") as again:
        assert (again.id, again.last_fence) == (first.id, 7)


def test_each_name_is_a_node_of_its_own(tmp_path: Path) -> None:
    with open_identity(tmp_path, "a") as a, open_identity(tmp_path, "b") as b:
        a.save_fence(5)
        assert a.id != b.id
        assert b.last_fence == 0


def test_a_fence_never_goes_back(tmp_path: Path) -> None:
    with open_identity(tmp_path, "attic") as identity:
        identity.save_fence(3)
        with pytest.raises(ValueError, match="does not rise"):
            identity.save_fence(3)


def test_two_agents_cannot_be_the_same_node(tmp_path: Path) -> None:
    with (
        open_identity(tmp_path, "attic"),
        pytest.raises(UsageError, match=r"named 'attic' is already running .* another --name"),
    ):
        open_identity(tmp_path, "attic")
    open_identity(tmp_path, "attic").close()


def test_agents_that_start_at_once_share_a_home_but_not_a_name(tmp_path: Path) -> None:
    names = ["a", "b", "a", "b"]
    processes = [start(tmp_path / "new", name) for name in names]
    try:
        for process in processes:
            go(process)
        ids = [read_line(process) for process in processes]
        running = {name: id_ for name, id_ in zip(names, ids, strict=True) if id_}
        assert sorted(running) == ["a", "b"]
        assert len({id_ for id_ in ids if id_}) == sum(bool(id_) for id_ in ids) == 2
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_killed_agent_leaves_its_name_free_and_its_fence_kept(tmp_path: Path) -> None:
    process = start(tmp_path, "attic")
    go(process)
    killed = read_line(process)
    process.kill()
    process.communicate()
    with open_identity(tmp_path, "attic") as identity:
        assert (identity.id, identity.last_fence) == (killed, 1)


@pytest.mark.parametrize(("file", "content"), [("id", ""), ("id", "../x"), ("fence", "-1")])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, file: str, content: str) -> None:
    open_identity(tmp_path, "attic").close()
    (tmp_path / "nodes" / "attic" / file).write_text(content)
    with pytest.raises(NodeError, match=r"is damaged: delete the folder .*attic and start"):
        open_identity(tmp_path, "attic")
    (tmp_path / "nodes" / "attic" / file).unlink()
    open_identity(tmp_path, "attic").close()


def test_a_home_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot be written .*: set EDGEPIPE_HOME"):
        open_identity(tmp_path / "file", "attic")


def test_a_write_replaces_the_whole_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(OSError, match="folder"):
        write_atomically(path, b"data")
    assert list(tmp_path.iterdir()) == [path]
