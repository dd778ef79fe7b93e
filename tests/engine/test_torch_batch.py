from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.frame import Span
from edgepipe.engine.torch.batch import MAX_PADDED_TOKENS, batches

SPANS = st.lists(
    st.builds(
        Span,
        slot=st.integers(0, 30),
        start=st.integers(0, 50),
        count=st.integers(1, 2 * MAX_PADDED_TOKENS),
    ),
    min_size=1,
    max_size=9,
    unique_by=lambda span: span.slot,
)


def span(slot: int, start: int, count: int) -> Span:
    return Span(slot=slot, start=start, count=count)


def test_short_spans_share_a_batch_padded_by_their_first_token() -> None:
    (batch,) = batches([span(5, 7, 1), span(4, 2, 3)], together=True)
    assert batch.spans == (span(4, 2, 3), span(5, 7, 1))
    assert batch.order == (1, 0)
    assert batch.rows().tolist() == [[1, 2, 3], [0, 0, 0]]
    assert batch.positions().tolist() == [[2, 3, 4], [7, 7, 7]]


def test_a_long_span_runs_alone() -> None:
    first, second = batches([span(0, 0, MAX_PADDED_TOKENS + 1), span(1, 3, 1)], together=True)
    assert first.rows().tolist() == [[MAX_PADDED_TOKENS + 1]]
    assert second.num_tokens == MAX_PADDED_TOKENS + 1


def test_rows_run_one_by_one_where_they_must() -> None:
    assert [b.order for b in batches([span(3, 0, 1), span(1, 0, 1)], together=False)] == [
        (1,),
        (0,),
    ]


@given(spans=SPANS)
def test_every_token_is_in_one_batch_at_its_position(spans: list[Span]) -> None:
    expected = [p for one in spans for p in range(one.start, one.end)]
    seen: dict[int, int] = {}
    for batch in batches(spans, together=True):
        rows, positions = batch.rows().flatten().tolist(), batch.positions().flatten().tolist()
        assert not seen.keys() & set(rows)
        for row, position in zip(rows, positions, strict=True):
            assert seen.setdefault(row, position) == position
        assert batch.end == max(one.end for one in batch.spans)
    assert [seen[row] for row in range(len(expected))] == expected
