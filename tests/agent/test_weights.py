import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgepipe.agent import weights
from edgepipe.agent.weights import BlobId, WeightStore
from edgepipe.errors import DamagedWeights, NodeError

DATA = bytes(range(256)) * 40
BLOB = BlobId(sha256=hashlib.sha256(DATA).hexdigest(), size_bytes=len(DATA))


def put(store: WeightStore, data: bytes = DATA) -> None:
    writer = store.begin(BLOB, "node")
    writer.append(data)
    assert writer.is_valid()
    writer.commit()


def test_a_whole_blob_gets_its_name(tmp_path: Path) -> None:
    store = WeightStore(tmp_path)
    assert not store.has(BLOB.sha256)
    put(store)
    assert store.has(BLOB.sha256)
    assert store.path(BLOB.sha256).read_bytes() == DATA
    assert [path.name for path in store.folder.iterdir()] == [f"{BLOB.sha256}.safetensors"]


@pytest.mark.parametrize("name", ["", "../x", "A" * 64, "a" * 63, "a" * 64 + "\n", "a/" * 32])
def test_a_name_that_is_no_hash_is_never_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(DamagedWeights, match="malformed name"):
        WeightStore(tmp_path).path(name)


def test_a_size_is_at_least_one_byte() -> None:
    with pytest.raises(DamagedWeights, match="0 bytes"):
        BlobId(sha256=BLOB.sha256, size_bytes=0)


def test_a_broken_transfer_is_resumed_and_hashed_from_the_start(tmp_path: Path) -> None:
    store = WeightStore(tmp_path)
    first = store.begin(BLOB, "node")
    first.append(DATA[:5000])
    first.close()
    assert store.partial_bytes(BLOB.sha256, "node") == 5000
    second = WeightStore(tmp_path).begin(BLOB, "node")
    assert second.offset == 5000
    second.append(DATA[5000:])
    assert second.is_valid()
    second.close()


@pytest.mark.parametrize("data", [DATA[:-1], DATA[:-1] + b"\0", b""])
def test_what_does_not_match_is_emptied(tmp_path: Path, data: bytes) -> None:
    writer = WeightStore(tmp_path).begin(BLOB, "node")
    writer.append(data)
    assert not writer.is_valid()
    assert writer.offset == 0
    writer.append(DATA)
    assert writer.is_valid()
    writer.close()


def test_a_partial_that_is_too_long_is_begun_anew(tmp_path: Path) -> None:
    store = WeightStore(tmp_path)
    writer = store.begin(BLOB, "node")
    writer.append(DATA + b"more")
    writer.close()
    assert store.begin(BLOB, "node").offset == 0


def test_nodes_of_one_home_do_not_write_into_one_file(tmp_path: Path) -> None:
    a, b = (WeightStore(tmp_path).begin(BLOB, node) for node in ("a", "../b"))
    a.append(DATA)
    b.append(DATA[:3])
    assert a.is_valid()
    a.commit()
    assert WeightStore(tmp_path).has(BLOB.sha256)
    assert b.path.parent == tmp_path / "weights"
    assert b.offset == 3
    b.close()


def test_two_transfers_to_one_node_do_not_write_into_one_file(tmp_path: Path) -> None:
    store = WeightStore(tmp_path)
    first, second = store.begin(BLOB, "node"), store.begin(BLOB, "node")
    assert first.path != second.path
    first.close()
    assert store.begin(BLOB, "node").path == first.path


def test_transfers_of_one_blob_are_bounded(tmp_path: Path) -> None:
    store = WeightStore(tmp_path)
    for _ in range(8):
        store.begin(BLOB, "node")
    with pytest.raises(NodeError, match="8 transfers"):
        store.begin(BLOB, "node")


def test_a_cached_file_of_another_size_is_removed(tmp_path: Path) -> None:
    store = WeightStore(tmp_path)
    put(store)
    assert store.holds(BLOB)
    store.path(BLOB.sha256).write_bytes(DATA[:10])
    assert not store.holds(BLOB)
    assert not store.has(BLOB.sha256)


def test_a_full_disk_is_refused_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = WeightStore(tmp_path)
    free = weights.KEEP_FREE_BYTES + 100
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    store.check_room(100)
    with pytest.raises(NodeError, match=r"delete files in that folder"):
        store.check_room(101)


def test_a_home_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "weights").touch()
    with pytest.raises(NodeError, match=r"cannot be written to .*weights"):
        WeightStore(tmp_path).begin(BLOB, "node")
