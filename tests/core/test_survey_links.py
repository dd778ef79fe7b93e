"""A survey: devices in order, and the links between them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from on_paper import llama, machine, surveyed

from edgepipe.core.fit import Workload
from edgepipe.core.frame import DType
from edgepipe.core.posing import Asked
from edgepipe.core.survey import LOOPBACK_LATENCY_S, UNREACHABLE_S, Survey
from edgepipe.core.work import Batch, Objective, Work
from edgepipe.errors import PlanError

SMOL = llama()
HOME = (machine("c"), machine("a"), machine("b"))


def test_nodes_choose_devices_and_their_order_and_speeds_go_along() -> None:
    survey = surveyed(SMOL, HOME, (3.0, 1.0, 2.0))
    chosen = survey.of(["b", "c"])
    assert [device.node for device in chosen.devices] == ["b", "c"]
    assert [speed.items[1].update_s for speed in chosen.speeds] == [2e-3, 3e-3]


def test_without_nodes_all_come_by_name() -> None:
    survey = surveyed(SMOL, HOME, (3.0, 1.0, 2.0)).of(None)
    assert [device.node for device in survey.devices] == ["a", "b", "c"]
    assert [speed.items[1].update_s for speed in survey.speeds] == [1e-3, 2e-3, 3e-3]


def test_a_node_that_is_not_here_is_one_sentence() -> None:
    with pytest.raises(PlanError, match="no usable device on a node called d"):
        surveyed(SMOL, HOME).of(["d"])


def test_a_stated_link_counts() -> None:
    survey = surveyed(SMOL, HOME)
    assert survey.link(*survey.devices[:2]).bytes_per_s == 117e6


def test_devices_of_one_machine_reach_each_other_over_loopback() -> None:
    devices = (machine("a", "cuda:0"), machine("a", "cuda:1"))
    survey = surveyed(SMOL, devices)
    assert survey.link(*survey.devices).latency_s == LOOPBACK_LATENCY_S


def test_two_nodes_of_one_machine_do_too() -> None:
    devices = tuple(replace(machine(node), host="box") for node in ("a", "b"))
    bare = Survey(devices=devices, speeds=surveyed(SMOL, devices).speeds)
    assert bare.link(*bare.devices).latency_s == LOOPBACK_LATENCY_S


def test_no_plan_will_want_a_link_that_nobody_found() -> None:
    devices = tuple(replace(machine(node), host=node) for node in ("a", "b"))
    bare = Survey(devices=devices, speeds=surveyed(SMOL, devices).speeds)
    assert bare.link(*bare.devices).latency_s == UNREACHABLE_S


def test_a_head_trains_on_the_rows_that_have_a_target_and_all_else_on_all() -> None:
    survey = surveyed(SMOL, HOME, (3.0, 1.0, 2.0))
    whole, learning = (each.speeds[0].items for each in (survey, survey.learning(0.25)))
    assert learning[:-1] == whole[:-1]
    assert learning[-1].forward.at(64) == 0.25 * whole[-1].forward.at(64)
    assert learning[-1].backward.at(64) == 0.25 * whole[-1].backward.at(64)
    assert learning[-1].update_s == whole[-1].update_s


def test_a_batch_is_planned_with_the_targets_that_it_has() -> None:
    work = Work(
        objective=Objective.TRAIN,
        workload=Workload(dtype=DType.FLOAT32, num_slots=1, max_positions=8, prefill_chunk=8),
        batch=Batch(learned=0.5),
    )
    survey = surveyed(SMOL, HOME)
    assert Asked.of(SMOL, survey, work).survey == survey.of(None).learning(0.5)
