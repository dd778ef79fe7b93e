"""Config, list of actions, saved plan: what does not agree is refused before a device is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from on_paper import llama, machine, surveyed

from edgepipe.coordinator.planned import Planned
from edgepipe.coordinator.planning import How, check_cut, make_plan
from edgepipe.coordinator.schedule_file import read_wish
from edgepipe.coordinator.train_asking import configured, how_to_train
from edgepipe.coordinator.train_config import PlanConfig, TrainConfig
from edgepipe.coordinator.train_config_file import parse_train_config
from edgepipe.coordinator.train_setup import codecs_of, tailored
from edgepipe.core.frame import Codec, DType
from edgepipe.core.pipeline import Plan
from edgepipe.core.schedule import gpipe, one_f_one_b
from edgepipe.core.schedule_choice import Wish
from edgepipe.core.work import Batch, Objective, Strategy, TrainMode
from edgepipe.errors import EdgepipeError, PlanError, UsageError

MODEL = llama(num_layers=4)
BATCH = Batch(mode=TrainMode.LORA, sequences=8, sequence_length=64, longest=128, rank=16)
LENGTH = 128


def config(**tables: str) -> TrainConfig:
    lines = {"data": 'path = "texts.jsonl"', **tables}
    sections = "\n".join(f"[{name}]\n{text}" for name, text in lines.items())
    return parse_train_config(f'model = "smollm2-135m"\n{sections}', Path("/runs/config.toml"))


def planned(how: How) -> Plan:
    survey = surveyed(MODEL, [machine("ada"), machine("bob")])
    return make_plan(MODEL, survey, how, LENGTH)


@pytest.fixture(scope="module")
def saved() -> Plan:
    """Of two stages and four microbatches, in float32 with int8 across."""
    batch = replace(BATCH, microbatches=4, recompute=False)
    return planned(
        How(
            objective=Objective.TRAIN,
            num_stages=2,
            batch=batch,
            dtype=DType.FLOAT32,
            codec=Codec.INT8,
        )
    )


def asking(how: How, *, learns: Batch = BATCH, wish: Wish | None = None, **tables: str) -> How:
    return how_to_train(how, config(**tables), learns, wish or Wish(), MODEL)


# ------------------------------------------------------------------------------ a plan of a file


def test_a_plan_that_has_room_for_the_run_is_taken(saved: Plan) -> None:
    settings = {"batch": "microbatches = 4", "plan": "recompute = false"}
    found = asking(How(pinned=saved), **settings, run='dtype = "float32"')
    assert found.pinned == saved
    assert found.objective is Objective.TRAIN


REFUSED_SETTINGS = {
    "microbatches": ({"batch": "microbatches = 2"}, "microbatches is 2, and 4 in the plan"),
    "recompute": ({"plan": "recompute = true"}, "recompute is true, and false in the plan"),
    "dtype": ({"run": 'dtype = "float16"'}, "dtype is float16, and float32 in the plan"),
}


@pytest.mark.parametrize(
    ("tables", "sentence"), REFUSED_SETTINGS.values(), ids=REFUSED_SETTINGS.keys()
)
def test_a_setting_that_is_another_in_the_plan_is_refused(
    saved: Plan, tables: dict[str, str], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        asking(How(pinned=saved), **tables)


REFUSED_BATCHES: dict[str, tuple[dict[str, Any], str]] = {
    "mode": ({"mode": TrainMode.FULL}, "for the mode lora, not for full"),
    "rank": ({"rank": 32}, "adapters of rank 16, not of 32"),
    "sequences": ({"sequences": 12}, "microbatches of 256 tokens, and the longest is of 384"),
    "longest": ({"longest": 129}, "keeps 128 tokens per sequence, and 129 are wanted"),
}


@pytest.mark.parametrize(
    ("changes", "sentence"), REFUSED_BATCHES.values(), ids=REFUSED_BATCHES.keys()
)
def test_a_plan_for_another_mode_or_for_less_is_refused(
    saved: Plan, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(PlanError, match=sentence):
        asking(How(pinned=saved), learns=replace(BATCH, **changes))


def test_a_plan_for_answers_is_refused() -> None:
    answering = planned(How(num_stages=2))
    with pytest.raises(
        PlanError, match="for --objective latency: plan anew with --objective train"
    ):
        asking(How(pinned=answering))


@pytest.mark.parametrize(
    ("forward", "backward", "codecs"),
    [
        (None, None, (Codec.INT8, Codec.INT8)),
        (Codec.INT4, None, (Codec.INT4, Codec.INT8)),
        (Codec.NONE, None, (Codec.NONE, Codec.NONE)),
        (None, Codec.BF16, (Codec.INT8, Codec.BF16)),
    ],
)
def test_a_codec_that_is_named_is_what_is_sent(
    saved: Plan, forward: Codec | None, backward: Codec | None, codecs: tuple[Codec, Codec]
) -> None:
    how = asking(How(pinned=saved, codec=forward, codec_backward=backward))
    given = Planned(plan=saved, surveyed=None)
    found = tailored(given, Wish(), how, shape=MODEL, max_positions=LENGTH)
    sent = codecs_of(found)
    assert (*sent.forward, *sent.backward) == codecs
    assert (found.predicted is None) == (found != saved)


# -------------------------------------------------------------------------- a list of actions

ACTIONS = Wish(name="own.csv", given=one_f_one_b(2, 4))


def test_actions_say_how_many_stages_and_microbatches() -> None:
    found = asking(How(), wish=ACTIONS)
    assert found.num_stages == 2
    assert found.batch == replace(BATCH, microbatches=4)
    plan = planned(found)
    assert (len(plan.stages), plan.microbatches) == (2, 4)


@pytest.mark.parametrize(
    ("how", "tables", "sentence"),
    [
        (How(num_stages=3), {}, "own.csv is for 2 stages, not for 3: leave out --stages"),
        (How(), {"batch": "microbatches = 2"}, "for 4 microbatches, and .* is 2: leave it out"),
        (How(), {"batch": "sequences = 3"}, "4 microbatches, more than the 3 sequences"),
    ],
)
def test_what_the_actions_are_not_for_is_refused(
    how: How, tables: dict[str, str], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        asking(how, wish=ACTIONS, **tables)


def test_actions_that_are_not_for_the_plan_are_refused(saved: Plan) -> None:
    with pytest.raises(UsageError, match="for 2 stages and 8 microbatches, not for 2 and 4"):
        asking(How(pinned=saved), wish=Wish(name="own.csv", given=gpipe(2, 8)))


@pytest.mark.parametrize("text", [None, "0F0,0X0", "0F0\n"], ids=["none", "no action", "too few"])
def test_a_file_of_actions_is_refused_by_the_settings_name(
    tmp_path: Path, text: str | None
) -> None:
    file = tmp_path / "own.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_wish(str(file), "[plan] schedule")
    assert str(caught.value).startswith(f"[plan] schedule {file} cannot be ")


# -------------------------------------------------------------------------------- flags and config

CUT = PlanConfig(strategy=Strategy.MANUAL, split=(1,))


@pytest.mark.parametrize(
    ("flags", "settings", "strategy", "split"),
    [
        (How(), CUT, Strategy.MANUAL, (1,)),
        (How(strategy=Strategy.EQUAL), CUT, Strategy.EQUAL, None),
        (How(strategy=Strategy.MANUAL), CUT, Strategy.MANUAL, (1,)),
        (How(split=(2,)), PlanConfig(strategy=Strategy.EQUAL), None, (2,)),
        (How(), PlanConfig(strategy=Strategy.EXACT, split=(1,)), Strategy.EXACT, (1,)),
        (How(), PlanConfig(), None, None),
    ],
)
def test_flags_win(
    flags: How, settings: PlanConfig, strategy: Strategy | None, split: tuple[int, ...] | None
) -> None:
    found = configured(flags, settings)
    assert (found.strategy, found.split) == (strategy, split)
    check_cut(found, MODEL)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (How(num_stages=3), "the split makes 2 stages, and 3 are asked for"),
        (How(nodes=("ada", "bob", "cyd")), "the split makes 2 stages for 3 nodes"),
    ],
)
def test_a_split_into_other_than_the_flags_stages_is_refused(flags: How, sentence: str) -> None:
    with pytest.raises(EdgepipeError, match=sentence):
        check_cut(configured(flags, CUT), MODEL)


def test_a_node_may_have_several_of_the_splits_stages() -> None:
    check_cut(How(nodes=("ada",), split=(1, 2)), MODEL)
