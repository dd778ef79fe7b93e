"""What Prometheus reads at /metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from edgepipe.core.admission import FrontDesk

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """One server's figures, in a registry of its own."""

    def __init__(self, desk: FrontDesk) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "edgepipe_requests",
            "Requests by endpoint and HTTP status; 499 where the client hung up.",
            ("endpoint", "status"),
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "edgepipe_prompt_tokens", "Tokens of prompts that were admitted.", registry=registry
        )
        self.generated_tokens = Counter(
            "edgepipe_generated_tokens", "Tokens that were sampled.", registry=registry
        )
        self.cancelled = Counter(
            "edgepipe_cancelled_sequences",
            "Sequences that nobody wanted to the end.",
            registry=registry,
        )
        self.broken = Counter(
            "edgepipe_broken_answers", "Sequences that an error ended.", registry=registry
        )
        self.token_s = Histogram(
            "edgepipe_token_seconds",
            "Between two tokens of a sequence.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.waited_s = Histogram(
            "edgepipe_wait_seconds",
            "From a request to its slot.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.ttft_s = Histogram(
            "edgepipe_ttft_seconds",
            "From a request to its first token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.answer_s = Histogram(
            "edgepipe_answer_seconds",
            "From a request to its last token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.replans = Counter(
            "edgepipe_replans",
            "Pipelines that stood after the first, by what they were planned for.",
            ("reason",),
            registry=registry,
        )
        self.stages = Gauge(
            "edgepipe_stages", "Stages of the pipeline; 0 while there is none.", registry=registry
        )
        slots = Gauge("edgepipe_slots", "Sequences that can run at once.", registry=registry)
        slots.set_function(lambda: desk.num_slots)
        running = Gauge("edgepipe_running", "Sequences that hold a slot.", registry=registry)
        running.set_function(lambda: desk.num_running)
        waiting = Gauge("edgepipe_waiting", "Sequences that wait for a slot.", registry=registry)
        waiting.set_function(lambda: desk.num_waiting)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self._registry)
