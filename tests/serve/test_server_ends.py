"""How a server ends: those who wait for an answer are told, and devices are given back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import openai
import pytest
from cluster.conftest import Cluster, Edgepipe
from openai import OpenAI
from serve.conftest import Served, serving
from serve.small_model import CONTEXT

KEY = "a key that nobody guesses"
FLAGS = ("--stages", 2, "--slots", 2, "--api-key", KEY)


@contextmanager
def a_long_answer(client: OpenAI) -> Iterator[openai.Stream[openai.types.Completion]]:
    """An answer that has begun, and would go on for a while."""
    with client.completions.create(
        model="small", prompt="w5", max_tokens=CONTEXT - 10, stream=True
    ) as stream:
        assert len(list(islice(stream, 3))) == 3
        yield stream


def check_key(server: Served) -> None:
    refused = server.http("/v1/models")
    assert refused.status == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.error["code"] == "invalid_api_key"
    for shown in (f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY, "Bearer"):
        assert server.http("/v1/models", Authorization=shown).status == 401
    assert server.http("/v1/models", Authorization=f"Bearer {KEY}").status == 200
    health = server.http("/health").json
    assert health["status"] == "ok"
    assert [set(stage) for stage in health["stages"]] == [{"node", "device", "layers"}] * 2
    assert server.http("/metrics").status == 200


def test_a_key_is_wanted_and_ctrl_c_stops_the_server(
    edgepipe: Edgepipe, pair: Cluster, small: Path
) -> None:
    with serving(edgepipe, small, *FLAGS, *pair.flags) as server:
        check_key(server)
        with server.client(api_key=KEY) as client, a_long_answer(client) as stream:
            server.process.send_signal(signal.SIGINT)
            with pytest.raises(openai.APIError, match="The server is stopping"):
                list(stream)
        assert server.process.wait(timeout=10) == 0
    nodes = edgepipe("nodes", "--json", *pair.flags).json["nodes"]
    assert [device.get("lease") for node in nodes for device in node["devices"]] == [None, None]
