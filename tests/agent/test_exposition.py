from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from edgepipe.agent.exposition import FAMILIES, AgentView, DeviceView, Exposition
from edgepipe.agent.figures import STEP_BUCKETS_S, Content, Figures, Pass, Way
from edgepipe.agent.reading import Memory, Reading
from edgepipe.agent.role import Depths
from edgepipe.core.admission import FrontDesk
from edgepipe.core.frame import Codec
from edgepipe.core.profile import DeviceId
from edgepipe.serve.metrics import Metrics

DOCUMENT = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
ROW = re.compile(r"^\| `(edgepipe_\w+)` \| (\w+) \| ([^|]+) \| ([^|]*)\|", re.MULTILINE)


def figures() -> Figures:
    """Something of everything."""
    found = Figures(sampled_tokens=3, applied_steps=2, skipped_steps=1, dropped_frames=1)
    found.computed(Pass.GENERATE, 5, 0.25)
    found.faults["StageLost"] += 1
    found.step_s.observe(0.02)
    found.step_s.observe(1000)
    found.traffic("attic", Way.SENT, Content.ACTIVATIONS)[Codec.INT8].count(10)
    return found


def view(reading: Reading | None) -> AgentView:
    device = DeviceView(
        id=DeviceId("cpu"),
        memory_bytes=100,
        memory_free_bytes=60,
        is_leased=True,
        num_starts=2,
        reading=reading,
    )
    return AgentView(name="desk", version="1.2.3", devices=[device])


def reading() -> Reading:
    memory = Memory(resident_bytes=4, peak_bytes=5, weight_bytes=6, kv_bytes=7)
    depths = Depths(queued_frames=1, unsent_frames=2, inflight=3, running=4, waiting=5)
    return Reading.of(figures(), runs=True, depths=depths, memory=memory)


def families(text: bytes) -> dict[str, Metric]:
    """By the names of the document: a counter's ends in _total."""
    return {
        f"{each.name}_total" if each.type == "counter" else each.name: each
        for each in text_string_to_metric_families(text.decode())
        if each.name.startswith("edgepipe_") and not each.name.endswith("_created")
    }


def labels(metric: Metric) -> set[str]:
    return {name for sample in metric.samples for name in sample.labels} - {"le"}


def documented(section: str) -> dict[str, tuple[str, set[str]]]:
    """Type and labels of each metric of a part of the document."""
    part = DOCUMENT.partition(f"## {section}\n")[2].partition("\n## ")[0]
    return {
        name: (kind, set(re.findall(r"`(\w+)`", cell.partition(";")[0])))
        for name, kind, _unit, cell in ROW.findall(part)
    }


def test_the_document_has_every_metric_of_an_agent() -> None:
    found = families(Exposition().text(view(reading())))
    told = documented("Of an agent")
    assert {name: (each.type, labels(each) - {"device"}) for name, each in found.items()} == told
    assert all(name == "edgepipe_build_info" or "device" in labels(found[name]) for name in told)


def test_the_document_has_every_metric_of_a_server() -> None:
    metrics = Metrics(FrontDesk(num_slots=2, max_waiting=1))
    metrics.requests.labels("/v1/models", 200).inc()
    metrics.replans.labels("lost").inc()
    found = families(metrics.text())
    told = documented("Of a server")
    assert {name: (each.type, labels(each)) for name, each in found.items()} == told


def test_values_are_those_of_the_reading() -> None:
    found = families(Exposition().text(view(reading())))

    def value(name: str, **wanted: str) -> float:
        (sample,) = [s for s in found[name].samples if wanted.items() <= s.labels.items()]
        return sample.value

    link = {"peer": "attic", "way": "sent", "content": "activations", "codec": "int8"}
    assert value("edgepipe_link_payload_bytes_total", **link) == 10
    assert value("edgepipe_stage_busy_seconds_total", work="generate") == 0.25
    assert value("edgepipe_stage_rows_total", work="generate") == 5
    assert value("edgepipe_stage_steps_total", outcome="skipped") == 1
    assert value("edgepipe_stage_sequences", state="waiting") == 5
    assert value("edgepipe_stage_faults_total", error="StageLost") == 1
    assert value("edgepipe_worker_up") == value("edgepipe_device_leased") == 1
    assert value("edgepipe_build_info", node="desk", version="1.2.3") == 1


def test_a_histogram_is_cumulative() -> None:
    metric = families(Exposition().text(view(reading())))["edgepipe_stage_step_seconds"]
    buckets = {s.labels["le"]: s.value for s in metric.samples if s.name.endswith("_bucket")}
    assert (buckets["0.01"], buckets["0.025"], buckets["300.0"], buckets["+Inf"]) == (0, 1, 1, 2)
    assert len(buckets) == len(STEP_BUCKETS_S) + 1
    assert next(s.value for s in metric.samples if s.name.endswith("_count")) == 2


def test_without_a_reading_the_supervisors_own_figures_remain() -> None:
    found = families(Exposition().text(view(None)))
    assert next(iter(found["edgepipe_worker_up"].samples)).value == 0
    remaining = {name for name, metric in found.items() if metric.samples}
    assert remaining == {
        "edgepipe_build_info",
        "edgepipe_worker_up",
        "edgepipe_worker_starts_total",
        "edgepipe_device_memory_bytes",
        "edgepipe_device_memory_free_bytes",
        "edgepipe_device_leased",
    }


def test_names_are_unique() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_a_reading_passes_a_pipe() -> None:
    here = reading()
    line = here.to_line().encode() + b"\n"
    assert Reading.from_line(line) == here
    assert line.count(b"\n") == 1


def test_what_a_library_prints_is_no_reading() -> None:
    for line in (b"Loading weights\n", b"[]\n", b"3\n", b"{}\n", b'{"depths": 1}\n', b"\xff\n"):
        assert Reading.from_line(line) is None
