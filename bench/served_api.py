"""A server's API, asked as its users do."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from openai import OpenAI

ANSWER_WITHIN_S = 300.0
LOOK_EVERY_S = 0.5
MAX_TOKENS = 48
QUESTION = "Why is the sky blue?"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedApi:
    """What listens on a port of this machine and serves `model`."""

    port: int
    model: str

    def stages(self) -> Sequence[dict[str, Any]]:
        """The stages that serve now; none while the server plans."""
        url = f"http://127.0.0.1:{self.port}/health"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                stages: Sequence[dict[str, Any]] = json.load(response)["stages"]
        except urllib.error.HTTPError as error:
            error.close()
            return ()
        return stages

    def wait_for(self, holds: Callable[[Sequence[dict[str, Any]]], bool], within_s: float) -> None:
        """Until something holds of the stages. Raises TimeoutError."""
        deadline_s = time.monotonic() + within_s
        while not holds(stages := self.stages()):
            if time.monotonic() > deadline_s:
                there = ", ".join(stage["node"] for stage in stages) or "no node"
                raise TimeoutError(f"after {within_s:.0f} s the stages are on {there}")
            time.sleep(LOOK_EVERY_S)

    def ask(self) -> int:
        """Ask a question, and say how many tokens the answer has."""
        address = f"http://127.0.0.1:{self.port}/v1"
        with OpenAI(base_url=address, api_key="none", timeout=ANSWER_WITHIN_S) as client:
            reply = client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": QUESTION}],
                max_tokens=MAX_TOKENS,
                temperature=0,
            )
        assert reply.usage is not None
        return reply.usage.completion_tokens

    def tokens_per_s(self, clients: int) -> float:
        """Of answers to clients who ask at once, their prompts' time included."""
        began_s = time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            num_tokens = sum(pool.map(lambda _: self.ask(), range(clients)))
        return num_tokens / (time.monotonic() - began_s)
