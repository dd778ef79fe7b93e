"""A hub on loopback that answers as Hugging Face's does: the real client, no real hub."""

import json
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants
from tiny_files import random_array, write_folder

from edgepipe.coordinator.models import resolve
from edgepipe.errors import ModelError

COMMIT = "a" * 40
EXTRA = ("modeling_evil.py", "pytorch_model.bin", "onnx/config.json", "README.md", "tokenizer.json")


class Hub(ThreadingHTTPServer):
    """Serves one repository, `org/tiny`, from a folder; remembers the files it was asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.sent: list[str] = []

    @property
    def files(self) -> list[str]:
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in paths)


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        if "gated/" in path:
            return self._send(403, b"", body=body, error="GatedRepo")
        if "org/tiny" not in path:
            return self._send(401, b"", body=body, error="RepoNotFound")
        if "/resolve/" in path:
            name = path.split("/resolve/")[1].partition("/")[2]
            if body:
                self.server.sent.append(name)
            return self._send(200, (self.server.folder / name).read_bytes(), body=body)
        return self._send(200, self._listing(path), body=body)

    def _listing(self, path: str) -> bytes:
        folder = self.server.folder
        if "/tree/" in path:
            sizes = {name: (folder / name).stat().st_size for name in self.server.files}
            entry = {"type": "file", "oid": "b" * 40}
            return json.dumps([{**entry, "path": n, "size": sizes[n]} for n in sizes]).encode()
        siblings = [{"rfilename": name} for name in self.server.files]
        return json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": siblings}).encode()

    def _send(self, status: int, content: bytes, *, body: bool, error: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{abs(hash(self.path)):x}"')
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = tmp_path / "repository"
    write_folder(folder, [{"a": random_array(2)}, {"b": random_array(2)}])
    for name in EXTRA:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    with Hub(folder) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        template = f"{constants.ENDPOINT}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield server
        server.shutdown()
        thread.join()


def test_planning_fetches_small_files_and_weights_come_when_asked_for(
    hub: Hub, tmp_path: Path
) -> None:
    model = resolve("org/tiny", home=tmp_path)
    assert model.name == "org/tiny"
    small = ["config.json", "model.safetensors.index.json", "tokenizer.json"]
    assert sorted(hub.sent) == small
    assert [tensor.name for tensor in model.tensors()] == ["a", "b"]
    assert sorted(hub.sent[3:]) == ["model-0.safetensors", "model-1.safetensors"]


def test_what_is_cached_is_enough_offline(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve("org/tiny", home=tmp_path).tensors()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.sent.clear()
    assert len(resolve("org/tiny", home=tmp_path).tensors()) == 2
    assert hub.sent == []


@pytest.mark.usefixtures("hub")
def test_offline_and_not_cached_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"org/tiny is no folder here, .* go online once"):
        resolve("org/tiny", home=tmp_path)


@pytest.mark.usefixtures("hub")
def test_weights_that_are_not_cached_offline_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = resolve("org/tiny", home=tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="only a part of it is"):
        model.tensors()


def test_a_repository_with_pickles_only_is_one_sentence(hub: Hub, tmp_path: Path) -> None:
    for path in hub.folder.glob("*.safetensors*"):
        path.unlink()
    with pytest.raises(ModelError, match="org/tiny has no safetensors on the hub, or"):
        resolve("org/tiny", home=tmp_path).tensors()


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "sentence"),
    [("gated/model", "gated/model is gated: ask for access"),
     ("org/other", "There is no model org/other")],
)  # fmt: skip
def test_a_model_that_the_hub_withholds_is_one_sentence(
    tmp_path: Path, name: str, sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        resolve(name, home=tmp_path)


@pytest.mark.usefixtures("hub")
def test_a_hub_that_is_out_of_reach_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(os.environ, "HF_HUB_ETAG_TIMEOUT", "1")
    with pytest.raises(ModelError, match="org/tiny"):
        resolve("org/tiny", home=tmp_path)
