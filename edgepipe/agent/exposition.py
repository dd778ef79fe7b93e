"""What Prometheus reads of an agent; docs/metrics.md has the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edgepipe.agent.figures import STEP_BUCKETS_S, Way
from edgepipe.agent.reading import Reading
from edgepipe.core.profile import DeviceId

Samples = Iterable[tuple[tuple[str, ...], float]]
"""Values, each with those of the labels that follow `device`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceView:
    """A device and its worker now; no reading where the worker is not there, or does not answer."""

    id: DeviceId
    memory_bytes: int
    memory_free_bytes: int
    is_leased: bool
    num_starts: int
    reading: Reading | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentView:
    """An agent now."""

    name: str
    version: str
    devices: Sequence[DeviceView]


class Exposition:
    """Writes views in Prometheus' text format, and what the supervisor's process takes."""

    def __init__(self) -> None:
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)

    def text(self, view: AgentView) -> bytes:
        """All figures of the agent."""
        return generate_latest(_Once(view)) + generate_latest(self._process)


class _Once(Collector):
    def __init__(self, view: AgentView) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        view = self._view
        build = GaugeMetricFamily("edgepipe_build_info", "Always 1.", labels=("node", "version"))
        build.add_metric((view.name, view.version), 1)
        yield build
        for family in FAMILIES:
            yield family.metric(view.devices)


class Family(Protocol):
    """Figures of one name, of every device."""

    @property
    def name(self) -> str:
        """As it is exposed, but that a histogram's has further endings."""
        ...

    def metric(self, devices: Sequence[DeviceView]) -> Metric:
        """The figures now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gauge:
    name: str
    help: str
    of: Callable[[DeviceView], Samples]
    labels: tuple[str, ...] = ()

    def metric(self, devices: Sequence[DeviceView]) -> Metric:
        metric = GaugeMetricFamily(self.name, self.help, labels=("device", *self.labels))
        for device in devices:
            for labels, value in self.of(device):
                metric.add_metric((device.id, *labels), value)
        return metric


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counter:
    name: str
    help: str
    of: Callable[[DeviceView], Samples]
    labels: tuple[str, ...] = ()

    def metric(self, devices: Sequence[DeviceView]) -> Metric:
        metric = CounterMetricFamily(self.name, self.help, labels=("device", *self.labels))
        for device in devices:
            for labels, value in self.of(device):
                metric.add_metric((device.id, *labels), value)
        return metric


@dataclass(frozen=True, slots=True, kw_only=True)
class _StepSeconds:
    name: str = "edgepipe_stage_step_seconds"

    def metric(self, devices: Sequence[DeviceView]) -> Metric:
        metric = HistogramMetricFamily(
            self.name,
            "Of a step of training, from when the stage could begin it to when it was applied.",
            labels=("device",),
        )
        for device in devices:
            if (reading := device.reading) is not None:
                metric.add_metric((device.id,), _cumulative(reading.step_counts), reading.steps_s)
        return metric


def _cumulative(counts: Sequence[int]) -> list[tuple[str, float]]:
    bounds = [*(str(float(bound)) for bound in STEP_BUCKETS_S), "+Inf"]
    return [(bound, sum(counts[: index + 1])) for index, bound in enumerate(bounds)]


def _one(value: float) -> Samples:
    return (((), value),)


def _read(of: Callable[[Reading], float]) -> Callable[[DeviceView], Samples]:
    return _each(lambda reading: _one(of(reading)))


def _each(of: Callable[[Reading], Samples]) -> Callable[[DeviceView], Samples]:
    return lambda device: () if device.reading is None else of(device.reading)


_LINK = ("peer", "way", "content", "codec")

FAMILIES: tuple[Family, ...] = (
    _Gauge(
        name="edgepipe_worker_up",
        help="1 where the device's worker answers within 2 s.",
        of=lambda device: _one(device.reading is not None),
    ),
    _Counter(
        name="edgepipe_worker_starts_total",
        help="How often the worker was started: more than once where it died.",
        of=lambda device: _one(device.num_starts),
    ),
    _Gauge(
        name="edgepipe_worker_resident_bytes",
        help="Resident set of the worker.",
        of=_read(lambda reading: reading.memory.resident_bytes),
    ),
    _Gauge(
        name="edgepipe_worker_peak_bytes",
        help="The largest resident set of the worker since the stage began to load.",
        of=_read(lambda reading: reading.memory.peak_bytes),
    ),
    _Gauge(
        name="edgepipe_device_memory_bytes",
        help="Memory of the device.",
        of=lambda device: _one(device.memory_bytes),
    ),
    _Gauge(
        name="edgepipe_device_memory_free_bytes",
        help="Memory of the device that can be had without pushing others out.",
        of=lambda device: _one(device.memory_free_bytes),
    ),
    _Gauge(
        name="edgepipe_device_leased",
        help="1 while a job holds the device.",
        of=lambda device: _one(device.is_leased),
    ),
    _Gauge(
        name="edgepipe_stage_running",
        help="1 while a stage is on the device.",
        of=_read(lambda reading: reading.runs),
    ),
    _Gauge(
        name="edgepipe_stage_weight_bytes",
        help="Weights that are loaded, parked ones included.",
        of=_read(lambda reading: reading.memory.weight_bytes),
    ),
    _Gauge(
        name="edgepipe_stage_kv_bytes",
        help="KV cache, taken as a whole when a stage is loaded.",
        of=_read(lambda reading: reading.memory.kv_bytes),
    ),
    _Counter(
        name="edgepipe_stage_busy_seconds_total",
        help="Time in which the engine computed.",
        labels=("work",),
        of=_each(lambda reading: (((work,), s) for work, s in reading.busy_s.items())),
    ),
    _Counter(
        name="edgepipe_stage_passes_total",
        help="Frames or microbatches that the stage computed.",
        labels=("work",),
        of=_each(lambda reading: (((work,), n) for work, n in reading.passes.items())),
    ),
    _Counter(
        name="edgepipe_stage_rows_total",
        help="Positions of sequences that the stage computed.",
        labels=("work",),
        of=_each(lambda reading: (((work,), n) for work, n in reading.rows.items())),
    ),
    _Counter(
        name="edgepipe_stage_sampled_tokens_total",
        help="Tokens that were sampled here, by a last stage.",
        of=_read(lambda reading: reading.sampled_tokens),
    ),
    _Counter(
        name="edgepipe_stage_steps_total",
        help="Steps of training that were decided.",
        labels=("outcome",),
        of=_each(
            lambda reading: (
                (("applied",), reading.applied_steps),
                (("skipped",), reading.skipped_steps),
            )
        ),
    ),
    _StepSeconds(),
    _Gauge(
        name="edgepipe_stage_queued_frames",
        help="Frames that arrived and are not computed yet.",
        of=_read(lambda reading: reading.depths.queued_frames),
    ),
    _Gauge(
        name="edgepipe_stage_unsent_frames",
        help="Frames that were computed and have not gone: in an encoder, or without a credit.",
        of=_read(lambda reading: reading.depths.unsent_frames),
    ),
    _Gauge(
        name="edgepipe_stage_inflight",
        help="Microbatches whose backward has not come; on a first stage, sequences in the ring.",
        of=_read(lambda reading: reading.depths.inflight),
    ),
    _Gauge(
        name="edgepipe_stage_sequences",
        help="Sequences in a slot, or waiting for one, on a first stage.",
        labels=("state",),
        of=_each(
            lambda reading: (
                (("running",), reading.depths.running),
                (("waiting",), reading.depths.waiting),
            )
        ),
    ),
    _Counter(
        name="edgepipe_stage_dropped_frames_total",
        help="Frames of an older epoch.",
        of=_read(lambda reading: reading.dropped_frames),
    ),
    _Counter(
        name="edgepipe_stage_faults_total",
        help="Stages that an error ended.",
        labels=("error",),
        of=_each(lambda reading: (((error,), n) for error, n in reading.faults.items())),
    ),
    _Counter(
        name="edgepipe_link_frames_total",
        help="Frames that passed a stage boundary.",
        labels=_LINK,
        of=_each(lambda reading: ((link[:4], link.num_frames) for link in reading.links)),
    ),
    _Counter(
        name="edgepipe_link_payload_bytes_total",
        help="Their payloads as they travelled, without headers.",
        labels=_LINK,
        of=_each(lambda reading: ((link[:4], link.payload_bytes) for link in reading.links)),
    ),
    _Counter(
        name="edgepipe_link_coding_seconds_total",
        help="Time in which they were encoded or decoded.",
        labels=_LINK,
        of=_each(lambda reading: ((link[:4], link.coding_s) for link in reading.links)),
    ),
    _Counter(
        name="edgepipe_link_stalled_seconds_total",
        help="Time in which a frame was ready and had no credit.",
        labels=_LINK,
        of=_each(
            lambda reading: (
                (link[:4], link.stalled_s) for link in reading.links if link.way == Way.SENT
            )
        ),
    ),
)
