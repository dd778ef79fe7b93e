from __future__ import annotations

import pytest

from edgepipe.agent import figures as module
from edgepipe.agent.figures import MAX_LINKS, OTHER, Content, Figures, Pass, Traffic, Way, pass_of
from edgepipe.core.frame import Codec
from edgepipe.core.order import Order, Task, Work
from edgepipe.core.schedule import backward, forward
from edgepipe.core.training import Microbatch, Purpose

LENGTHS = (3, 2)


def work(task: Task, purpose: Purpose = Purpose.TRAIN, *, back: bool = False) -> Work:
    action = (backward if back else forward)(0, 0) if task is Task.ACT else None
    order = Order(
        number=1,
        step=1,
        purpose=purpose,
        actions=(),
        microbatches=(Microbatch(step=1, index=0, lengths=LENGTHS),),
        loss_weight=1.0,
    )
    return Work(order=order, task=task, action=action)


@pytest.mark.parametrize(
    ("piece", "kind"),
    [
        (work(Task.ACT), Pass.FORWARD),
        (work(Task.ACT, back=True), Pass.BACKWARD),
        (work(Task.SETTLE), Pass.UPDATE),
        (work(Task.CONCLUDE), Pass.UPDATE),
        (work(Task.GIVE_ROWS), Pass.UPDATE),
        (work(Task.ACT, Purpose.EVALUATE), Pass.EVALUATE),
        (work(Task.ACT, Purpose.REHEARSE, back=True), Pass.EVALUATE),
        (work(Task.SETTLE, Purpose.EVALUATE), Pass.EVALUATE),
    ],
)
def test_what_a_piece_of_work_counts_as(piece: Work, kind: Pass) -> None:
    found = Figures()
    found.took(piece, 0.5)
    assert pass_of(piece) is kind
    assert found.busy_s[kind] == sum(found.busy_s.values()) == 0.5
    counted = (1, sum(LENGTHS)) if piece.task is Task.ACT else (0, 0)
    assert (found.passes[kind], found.rows[kind]) == counted


def test_the_same_link_is_counted_together_across_jobs() -> None:
    found = Figures()
    for _ in range(2):
        found.traffic("attic", Way.SENT, Content.GRADIENTS)[Codec.BF16].count(5)
    ((key, traffic),) = found.links.items()
    assert (key.peer, key.codec) == ("attic", Codec.BF16)
    assert (traffic.num_frames, traffic.payload_bytes) == (2, 10)


def test_what_passes_no_link_is_not_counted() -> None:
    found = Figures()
    found.traffic(None, Way.SENT, Content.TOKENS)[Codec.NONE].count(5)
    assert not found.links


def test_peers_are_bounded_and_their_names_checked() -> None:
    found = Figures()
    for number in range(MAX_LINKS + 5):
        found.traffic(f"node-{number}", Way.SENT, Content.TOKENS)[Codec.NONE].count(1)
    assert len(found.links) == MAX_LINKS + 1
    strange = found.traffic('a"\nb', Way.SENT, Content.TOKENS)[Codec.NONE]
    assert {key.peer for key, each in found.links.items() if each is strange} == {OTHER}
    assert strange.num_frames == 5


def test_a_stall_lasts_until_the_next_frame_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = iter((10.0, 12.5))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(now_s))
    traffic = Traffic()
    traffic.count(1)
    traffic.stall()
    traffic.stall()
    traffic.count(1)
    traffic.count(1)
    assert traffic.stalled_s == 2.5


def test_coding_is_timed_on_each_thread_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = iter((1.0, 2.0, 5.0, 5.5))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(now_s))
    traffic = Traffic()
    assert traffic.inline(lambda: "rows") == "rows"
    assert traffic.aside(lambda: "payload") == "payload"
    assert (traffic.inline_s, traffic.aside_s) == (1.0, 0.5)
