"""What a person can do about a plan, each with its number."""

from __future__ import annotations

from dataclasses import replace

import pytest
from on_paper import GIB, llama, machine, surveyed

from edgepipe.core.advice import advise, faster
from edgepipe.core.fit import Workload
from edgepipe.core.frame import DType
from edgepipe.core.plan import plan
from edgepipe.core.posing import Asked
from edgepipe.core.problem import Nic
from edgepipe.core.survey import Survey
from edgepipe.core.work import Batch, Objective, Strategy, TrainMode, Work

MODEL = llama(num_layers=8, hidden=256, width=512, vocab=4096)


def told(survey: Survey, *, context: int = 2048, slots: int = 1, **work: object) -> list[str]:
    workload = Workload(
        dtype=DType.FLOAT32, num_slots=slots, max_positions=context, prefill_chunk=128
    )
    wanted = Work(**{"objective": Objective.LATENCY, "workload": workload, **work})  # type: ignore[arg-type]
    asked = Asked.of(MODEL, survey, wanted)
    found = plan(asked, strategy=Strategy.EXACT)
    return [advice.sentence for advice in advise(asked, found)]


def test_a_device_that_slows_is_left_out_with_its_gain() -> None:
    survey = surveyed(MODEL, [machine("new"), machine("old")], [1.0, 50.0])
    (sentence,) = told(survey)
    assert sentence.startswith("leave old (cpu) out: +")


def test_a_machine_on_a_slow_medium_is_moved_to_a_cable() -> None:
    devices = [machine("desk", limit=GIB // 2), machine("sofa", limit=GIB // 2)]
    survey = surveyed(MODEL, devices, [1.0, 1.0])
    air = Nic(send_bytes_per_s=1e6, receive_bytes_per_s=1e6, medium="wifi")
    slow = tuple(replace(link, bytes_per_s=1e6) for link in survey.links)
    on_air = replace(survey, links=slow, nics={"sofa": air})
    sentences = told(on_air, objective=Objective.PREFILL, prompt_tokens=1024)
    assert any(sentence.startswith("move sofa to wired: ") for sentence in sentences)
    assert not any(sentence.startswith("move desk") for sentence in sentences)


def test_a_machine_whose_other_links_are_fast_is_on_a_cable_already() -> None:
    devices = [machine(name, limit=GIB // 2) for name in ("desk", "shed", "tower")]
    survey = surveyed(MODEL, devices, [1.0, 1.0, 1.0])
    behind = tuple(
        replace(link, bytes_per_s=1e6) if "shed" in {link.sender, link.receiver} else link
        for link in survey.links
    )
    sentences = told(replace(survey, links=behind), objective=Objective.PREFILL)
    assert not any(word in sentence for sentence in sentences for word in ("desk", "tower"))


def test_a_plan_that_takes_no_time_has_nothing_to_gain() -> None:
    survey = surveyed(MODEL, [machine("desk"), machine("sofa")], [0.0, 0.0])
    slow = tuple(replace(link, bytes_per_s=1e6) for link in survey.links)
    assert told(replace(survey, links=slow)) == []


@pytest.mark.parametrize(
    ("gain", "text"),
    [(0.034, "+3%"), (0.23, "+23%"), (8.9, "+890%"), (29, "30×"), (1e7, "over 1000×")],
)
def test_a_gain_is_told_so_that_it_can_be_read(gain: float, text: str) -> None:
    assert faster(gain) == text


def test_lora_where_full_fine_tuning_does_not_fit() -> None:
    survey = surveyed(MODEL, [machine("attic", limit=GIB // 4 + 90 * (1 << 20))])
    batch = Batch(mode=TrainMode.FULL, sequences=2, sequence_length=64)
    (sentence,) = told(survey, objective=Objective.TRAIN, batch=batch)
    assert sentence.startswith(f"full fine-tuning of {MODEL.name} does not fit by ")
    assert sentence.endswith(" MiB on attic; LoRA does")


def test_a_shorter_context_where_the_cache_does_not_fit() -> None:
    survey = surveyed(MODEL, [machine("attic", limit=GIB // 4 + 60 * (1 << 20))])
    (sentence,) = told(survey, context=8192)
    assert "does not fit by" in sentence
    assert sentence.endswith(" tokens does")


def test_another_machine_where_nothing_else_helps() -> None:
    (sentence,) = told(surveyed(MODEL, [machine("attic", limit=GIB // 4 + 1)]))
    assert sentence.endswith("whatever is given up: add a machine")
