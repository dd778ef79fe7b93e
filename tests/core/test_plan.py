"""Plans: every layer once, as equal as can be, memory counted to the byte."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_paper import GIB, llama, machine, surveyed

from edgepipe.core.candidates import Candidate
from edgepipe.core.fit import Workload
from edgepipe.core.frame import Codec, DType
from edgepipe.core.model import ModelShape
from edgepipe.core.pipeline import Plan
from edgepipe.core.plan import plan
from edgepipe.core.posing import Asked
from edgepipe.core.remedy import require_fit
from edgepipe.core.size import human_size
from edgepipe.core.work import Objective, Strategy, Work
from edgepipe.errors import DoesNotFit, PlanError, SplitError, UsageError

MIB = 1 << 20
SMOL = llama()
HOME = (machine("attic"), machine("cellar"), machine("desk", "cuda:0"), machine("desk", "cuda:1"))


def make(
    model: ModelShape = SMOL,
    devices: tuple[Candidate, ...] = HOME,
    *,
    strategy: Strategy = Strategy.EQUAL,
    num_slots: int = 1,
    max_positions: int = 2048,
    num_stages: int | None = None,
    nodes: tuple[str, ...] | None = None,
    split: tuple[int, ...] | None = None,
    dtype: DType = DType.FLOAT32,
) -> Plan:
    workload = Workload(
        dtype=dtype, num_slots=num_slots, max_positions=max_positions, prefill_chunk=128
    )
    asked = Asked.of(
        model,
        surveyed(model, devices),
        Work(objective=Objective.LATENCY, workload=workload),
        nodes=nodes,
        num_stages=num_stages,
    )
    return plan(asked, strategy=strategy, split=split, rivals=())


def layers_of(made: Plan) -> list[tuple[int, int]]:
    return [(stage.first, stage.end) for stage in made.stages]


def places_of(made: Plan) -> list[str]:
    return [f"{stage.node} {stage.device}" for stage in made.stages]


def as_text(made: Plan) -> str:
    """A plan as a person checks it."""
    lines = [f"{made.model}, {made.strategy}, {'fits' if made.feasible else 'does not fit'}"]
    for stage in made.stages:
        marks = " embedding" * stage.embedding + " head" * stage.head
        sizes = (stage.baseline_bytes, stage.weight_bytes, stage.kv_bytes, stage.workspace_bytes)
        total = f"{human_size(stage.memory_bytes)} of {human_size(stage.memory_limit_bytes)}"
        lines.append(f"{stage.node} ({stage.device}) [{stage.first}, {stage.end}){marks}")
        lines.append(f"    {' + '.join(human_size(size) for size in sizes)} = {total}")
    lines += [f"without {out.node} ({out.device}): {out.reason}" for out in made.left_out]
    try:
        require_fit(made)
    except DoesNotFit as error:
        lines.append(str(error))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("plan_equal_four", make()),
        (
            "plan_equal_two_roomiest",
            make(devices=(*HOME, machine("big", limit=9 * GIB)), num_stages=2),
        ),
        ("plan_manual", make(strategy=Strategy.MANUAL, nodes=("desk", "attic"), split=(4, 20))),
        ("plan_bfloat16", make(dtype=DType.BFLOAT16, nodes=("desk",))),
        (
            "plan_too_small",
            make(
                llama(
                    num_layers=32,
                    hidden=4096,
                    width=14336,
                    kv=1024,
                    vocab=128256,
                    tied=False,
                    name="8b",
                ),
                num_slots=8,
                max_positions=8192,
            ),
        ),
        (
            "plan_shared_pool",
            make(
                devices=(
                    machine("mac", "cpu", limit=GIB, pool="unified"),
                    machine("mac", "mps", limit=GIB, pool="unified"),
                    machine("pi", limit=2 * GIB),
                ),
                num_slots=8,
            ),
        ),
    ],
)
def test_golden(name: str, made: Plan, golden: Callable[[str, str], None]) -> None:
    golden(name, as_text(made))


@given(
    num_layers=st.integers(1, 80),
    num_devices=st.integers(1, 12),
    tied=st.booleans(),
    data=st.data(),
)
def test_equal_covers_each_layer_once_and_differs_by_at_most_one(
    num_layers: int, num_devices: int, tied: bool, data: st.DataObject
) -> None:
    devices = tuple(
        machine(f"n{at:02}", limit=data.draw(st.integers(1, GIB))) for at in range(num_devices)
    )
    made = make(llama(num_layers=num_layers, tied=tied, hidden=64, width=128), devices)
    covered = [layer for first, end in layers_of(made) for layer in range(first, end)]
    sizes = [end - first for first, end in layers_of(made)]
    assert covered == list(range(num_layers))
    assert max(sizes) - min(sizes) <= 1
    assert [stage.embedding for stage in made.stages] == [True] + [False] * (len(sizes) - 1)
    assert [stage.head for stage in made.stages] == [False] * (len(sizes) - 1) + [True]
    assert len(made.stages) == min(num_layers, num_devices)
    assert len(made.stages) + len(made.left_out) == num_devices


@given(num_layers=st.integers(2, 60), data=st.data())
def test_weights_add_up_and_a_tied_tensor_counts_once_per_stage(
    num_layers: int, data: st.DataObject
) -> None:
    tied = data.draw(st.booleans())
    model = llama(num_layers=num_layers, tied=tied, hidden=64, width=128)
    num_stages = data.draw(st.integers(1, min(6, num_layers)))
    cuts = data.draw(
        st.lists(
            st.integers(1, num_layers - 1),
            min_size=num_stages - 1,
            max_size=num_stages - 1,
            unique=True,
        )
    )
    devices = tuple(machine(f"n{at}") for at in range(num_stages))
    made = make(model, devices, strategy=Strategy.MANUAL, split=tuple(sorted(cuts)))
    copies = model.parameters["embed"] if tied and num_stages > 1 else 0
    assert sum(stage.weight_bytes for stage in made.stages) == 4 * (
        sum(model.parameters.values()) + copies
    )
    assert sum(stage.kv_bytes for stage in made.stages) == 4 * 2048 * num_layers * 2 * 192
    for stage in made.stages:
        parts = (stage.baseline_bytes, stage.weight_bytes, stage.kv_bytes, stage.workspace_bytes)
        assert stage.memory_bytes == sum(parts)


@settings(max_examples=50, deadline=None)
@given(short=st.integers(-10 * MIB, 10 * MIB), num_slots=st.integers(1, 16))
def test_short_by_is_exact_to_the_byte(short: int, num_slots: int) -> None:
    needed = make(devices=(machine("a"),), num_slots=num_slots).stages[0].memory_bytes
    made = make(devices=(machine("a", limit=needed - short),), num_slots=num_slots)
    assert made.feasible == (short <= 0)
    assert made.short_by_bytes == max(short, 0)


@settings(max_examples=50, deadline=None)
@given(limits=st.tuples(st.integers(GIB // 2, GIB), st.integers(GIB // 2, GIB)))
def test_devices_of_one_pool_share_its_memory(limits: tuple[int, int]) -> None:
    devices = (
        machine("mac", "cpu", limit=limits[0], pool="unified"),
        machine("mac", "mps", limit=limits[1], pool="unified"),
    )
    made = make(devices=devices)
    needs = [stage.memory_bytes for stage in made.stages]
    over_device = sum(max(0, need - limit) for need, limit in zip(needs, limits, strict=True))
    assert made.short_by_bytes == max(over_device, sum(needs) - max(limits), 0)
    assert made.feasible == (made.short_by_bytes == 0)


def test_an_idle_device_still_holds_its_baseline_in_a_shared_pool() -> None:
    devices = (
        machine("mac", "cpu", baseline=GIB // 8, pool="unified"),
        machine("mac", "mps", baseline=GIB // 4, pool="unified"),
    )
    alone = make(devices=devices, num_stages=1)
    limit = alone.stages[0].memory_bytes
    tight = tuple(
        machine("mac", device, limit=limit, baseline=baseline, pool="unified")
        for device, baseline in (("cpu", GIB // 8), ("mps", GIB // 4))
    )
    assert make(devices=tight, num_stages=1).short_by_bytes == GIB // 4


def test_a_node_with_two_gpus_gives_two_devices() -> None:
    assert places_of(make(nodes=("desk", "attic"))) == ["desk cuda:0", "desk cuda:1", "attic cpu"]


def test_equal_prefers_memory_and_keeps_the_order_of_names() -> None:
    devices = (
        machine("c", limit=4 * GIB),
        machine("a", limit=2 * GIB),
        machine("b", limit=3 * GIB),
    )
    made = make(devices=devices, num_stages=2)
    assert places_of(made) == ["b cpu", "c cpu"]
    assert [(out.node, out.reason) for out in made.left_out] == [("a", "the plan has 2 stages")]


def test_manual_takes_the_first_nodes_by_name() -> None:
    made = make(strategy=Strategy.MANUAL, split=(7,))
    assert places_of(made) == ["attic cpu", "cellar cpu"]
    assert layers_of(made) == [(0, 7), (7, 30)]


@pytest.mark.parametrize(
    ("split", "sentence"),
    [
        ((0,), "the split names layer 0: a model of 30 layers can be cut between 1 and 29"),
        ((10, 30), "the split names layer 30: a model of 30 layers can be cut between 1 and 29"),
        ((-3,), "the split names layer -3: a model of 30 layers can be cut between 1 and 29"),
        ((20, 10), "the split must rise: 10 stands after 20"),
        ((10, 10), "the split must rise: 10 stands after 10"),
    ],
)
def test_a_bad_split_is_named(split: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(SplitError) as caught:
        make(strategy=Strategy.MANUAL, split=split)
    assert str(caught.value) == sentence
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"num_stages": 5}, PlanError, "5 stages need 5 devices, and only 4 are usable"),
        ({"num_stages": 0}, UsageError, "0 stages make no pipeline"),
        (
            {"nodes": ("attic", "barn")},
            PlanError,
            "called barn: usable nodes are attic, cellar, desk",
        ),
        ({"nodes": ("attic", "attic")}, UsageError, "attic is named twice"),
        ({"devices": ()}, PlanError, "no device is usable"),
        ({"devices": (machine("a"), machine("a"))}, PlanError, "two nodes are called a"),
        ({"split": (10,)}, UsageError, "a split needs the strategy manual"),
        ({"strategy": Strategy.MANUAL}, UsageError, "manual needs --split"),
        (
            {"strategy": Strategy.MANUAL, "split": (10,), "num_stages": 3},
            SplitError,
            "the split makes 2 stages for 3 devices",
        ),
        (
            {"strategy": Strategy.MANUAL, "split": (9, 10), "nodes": ("desk",)},
            SplitError,
            "the split makes 3 stages for 2 devices",
        ),
        (
            {"strategy": Strategy.MANUAL, "split": (1, 2, 3, 4)},
            PlanError,
            "5 stages need 5 devices, and only 4 are usable",
        ),
        (
            {"model": llama(num_layers=2), "num_stages": 3},
            PlanError,
            "3 stages cannot share 2 layers",
        ),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(
    options: dict[str, object], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        make(**options)  # type: ignore[arg-type]


def test_more_devices_than_layers_leaves_devices_out_unless_they_were_named() -> None:
    two_layers = llama(num_layers=2)
    assert len(make(two_layers).stages) == 2
    with pytest.raises(PlanError, match="3 stages cannot share 2 layers"):
        make(two_layers, nodes=("attic", "desk"))


def test_does_not_fit_says_by_how_much_and_where() -> None:
    made = make(devices=(machine("attic", limit=GIB // 2),))
    with pytest.raises(DoesNotFit) as caught:
        require_fit(made)
    assert caught.value.short_by_bytes == made.short_by_bytes > 0
    assert "more on attic (cpu): " in str(caught.value)


def test_slots_are_blamed_only_where_fewer_would_help() -> None:
    with pytest.raises(DoesNotFit, match="fewer slots, a shorter context, or another machine"):
        require_fit(make(devices=(machine("a", limit=GIB),), num_slots=8))
    with pytest.raises(DoesNotFit, match="another machine or a smaller dtype would help"):
        require_fit(make(devices=(machine("a", limit=GIB // 2),)))


def test_json_has_the_contracts_shape() -> None:
    document = make(num_stages=2).to_json()
    assert {"schema", "model", "feasible", "objective", "strategy", "stages", "left_out",
            "predicted", "rivals", "inputs", "short_by_bytes"} <= document.keys()  # fmt: skip
    assert document["schema"] == 1
    assert document["stages"][0]["layers"] == [0, 15]
    assert document["inputs"].keys() >= {"items", "devices", "links"}
    assert len(document["inputs"]["items"]) == 32


def test_the_inputs_suffice_to_compute_the_weights_again() -> None:
    document = make(num_stages=1).to_json()
    items = document["inputs"]["items"]
    weights = sum(item["weight_bytes"] - item["shared_bytes"] for item in items)
    assert weights == document["stages"][0]["weight_bytes"]


@pytest.mark.parametrize("made", [make(), make(num_stages=1, num_slots=4096)])
def test_a_saved_plan_is_read_back(made: Plan) -> None:
    assert Plan.loads(json.dumps(made.to_json())) == made


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"schema": 2}, "its schema is not 1"),
        ({"stages": []}, "its stages do not follow one another"),
        ({"stages": [{}]}, "a stage's layers are not"),
        ({"strategy": "best"}, ".strategy is not one of exact, proportional, equal, manual"),
        ({"feasible": 1}, ".feasible is not of type bool"),
        ({"inputs": []}, ".inputs is not an object"),
    ],
)
def test_a_damaged_plan_is_one_sentence(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        Plan.from_json({**make().to_json(), **change})


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_a_file_that_is_no_plan_is_one_sentence(text: str) -> None:
    with pytest.raises(PlanError, match="not a plan that edgepipe saved"):
        Plan.loads(text)


def test_a_plan_with_a_gap_is_refused() -> None:
    document = make(num_stages=2).to_json()
    document["stages"][1]["layers"] = [16, 30]
    with pytest.raises(PlanError, match="do not follow one another"):
        Plan.from_json(document)


def test_a_plan_whose_gradients_would_be_int4_is_refused() -> None:
    document = make(num_stages=2).to_json()
    document["stages"][0]["codec_forward"] = "int4"
    document["stages"][1]["codec_backward"] = "int8"
    assert Plan.from_json(document).stages[0].codec_forward is Codec.INT4
    document["stages"][1]["codec_backward"] = "int4"
    with pytest.raises(PlanError, match="gradients would travel as int4"):
        Plan.from_json(document)
