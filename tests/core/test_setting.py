"""What a plan may choose besides the placement."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.fit import Workload
from edgepipe.core.frame import DType
from edgepipe.core.goal import Latency, Prefill, Throughput, Train
from edgepipe.core.setting import MAX_MICROBATCHES, Setting, settings_of
from edgepipe.core.work import Batch, Objective, Work


def work(
    objective: Objective, *, slots: int = 1, positions: int = 2048, sequences: int | None = None
) -> Work:
    return Work(
        objective=objective,
        workload=Workload(
            dtype=DType.BFLOAT16, num_slots=slots, max_positions=positions, prefill_chunk=128
        ),
        batch=None if sequences is None else Batch(sequences=sequences, sequence_length=64),
    )


@given(st.integers(1, 200))
def test_microbatches_divide_the_batch_and_recomputation_comes_last(sequences: int) -> None:
    found = settings_of(work(Objective.TRAIN, sequences=sequences))
    counts = [each.num_microbatches for each in found if not each.recompute]
    divisors = [n for n in range(1, sequences + 1) if sequences % n == 0 and n <= MAX_MICROBATCHES]
    assert counts == sorted(divisors, reverse=True)
    assert [each.num_microbatches for each in found if each.recompute] == counts
    assert [each.recompute for each in found] == sorted(each.recompute for each in found)


@given(st.integers(1, 48))
def test_groups_hold_every_slot_and_none_too_many(slots: int) -> None:
    found = settings_of(work(Objective.THROUGHPUT, slots=slots))
    for each in found:
        assert (each.num_groups - 1) * each.group_size < slots <= each.num_groups * each.group_size
    sizes = [each.group_size for each in found]
    assert len(set(sizes)) == len(sizes)
    assert set(sizes) == {-(-slots // count) for count in range(1, min(slots, 32) + 1)}


def test_one_stream_and_one_prompt_leave_no_choice() -> None:
    assert settings_of(work(Objective.LATENCY)) == (Setting(objective=Objective.LATENCY),)
    (prefill,) = settings_of(work(Objective.PREFILL))
    assert prefill.num_chunks == 4


@pytest.mark.parametrize(
    ("positions", "prompt", "chunks", "rows"), [(2048, 512, 4, 128), (300, 299, 3, 299 / 3)]
)
def test_a_prompt_leaves_room_for_a_token_in_chunks_of_like_size(
    positions: int, prompt: int, chunks: int, rows: float
) -> None:
    asked = work(Objective.PREFILL, positions=positions)
    assert (asked.prompt, asked.num_chunks) == (prompt, chunks)
    assert asked.chunk_rows == pytest.approx(rows)


@pytest.mark.parametrize(
    ("setting", "goal"),
    [
        (Setting(objective=Objective.LATENCY), Latency()),
        (
            Setting(objective=Objective.THROUGHPUT, num_groups=3, group_size=2),
            Throughput(num_groups=3, group_size=2),
        ),
        (Setting(objective=Objective.PREFILL, num_chunks=5), Prefill(num_chunks=5)),
        (
            Setting(objective=Objective.TRAIN, num_microbatches=4),
            Train(num_microbatches=4, fixed_s=0.5),
        ),
    ],
)
def test_a_setting_is_searched_for_its_goal(setting: Setting, goal: object) -> None:
    assert setting.goal(0.5) == goal


def test_groups_of_any_size_compare_by_the_token() -> None:
    asked = work(Objective.THROUGHPUT, slots=8)
    by_size = {each.group_size: each.weight(asked) for each in settings_of(asked)}
    assert by_size == {1: 1.0, 2: 0.5, 3: 3 / 8, 4: 0.25, 8: 0.125}
    assert Setting(objective=Objective.LATENCY).weight(asked) == 1.0


def test_a_thousand_slots_are_not_a_thousand_searches() -> None:
    grouped = settings_of(work(Objective.THROUGHPUT, slots=1024))
    assert len(grouped) <= 16
    assert {each.num_groups for each in grouped} >= {1, 2, 4, 8, 16, 32}
    assert all(each.num_groups * each.group_size >= 1024 for each in grouped)
