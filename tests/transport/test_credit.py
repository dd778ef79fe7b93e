import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.errors import WireError
from edgepipe.transport.credit import Credit


def test_a_frame_beyond_the_credits_is_refused():
    credit = Credit(granted=2, ceiling=2)
    credit.hold()
    credit.hold()
    with pytest.raises(WireError, match="beyond the 2 credits"):
        credit.hold()


def test_a_frame_for_a_credit_that_has_not_gone_back_is_refused():
    credit = Credit(granted=1, ceiling=1)
    credit.hold()
    credit.consume()
    with pytest.raises(WireError):
        credit.hold()
    assert credit.settle() == 1
    credit.hold()


def test_more_credits_than_were_spent_are_refused():
    credit = Credit(granted=1, ceiling=2)
    credit.spend()
    with pytest.raises(WireError, match="2 credits came back, but only 1"):
        credit.refill(2)


@pytest.mark.parametrize(("granted", "owed"), [(1, 1), (2, 1), (3, 2), (4, 3), (9, 7)])
def test_credits_are_due_once_three_quarters_are_owed(granted, owed):
    credit = Credit(granted=granted, ceiling=1)
    for _ in range(owed):
        assert not credit.due
        credit.hold()
        credit.consume()
    assert credit.due


@given(st.integers(1, 9), st.lists(st.sampled_from(["send", "consume"]), max_size=80))
def test_a_sender_out_of_credits_always_has_a_frame_waiting_or_a_credit_under_way(window, moves):
    sender, receiver = Credit(granted=1, ceiling=window), Credit(granted=window, ceiling=1)
    for move in moves:
        if move == "send" and sender.available:
            sender.spend()
            receiver.hold()
        elif move == "consume" and receiver.held:
            receiver.consume()
        if receiver.due:
            sender.refill(receiver.settle())
        assert receiver.held + receiver.owed == sender.spent <= window
        assert sender.available or receiver.held
