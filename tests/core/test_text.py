from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.text import StopScanner

ALPHABET = "ab "
STOPS = st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=4)
PIECES = st.lists(st.text(ALPHABET, max_size=5), max_size=12)


def naive(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Try every end, shortest first, and there every stop string, longest first."""
    for end in range(len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)], stop
    return text, None


def scan(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    scanner = StopScanner(stops)
    shown = "".join(scanner.feed(piece) for piece in pieces)
    return shown + scanner.finish(), scanner.found


@given(pieces=PIECES, stops=STOPS)
def test_agrees_with_a_naive_search_however_the_text_is_cut(
    pieces: list[str], stops: list[str]
) -> None:
    assert scan(pieces, stops) == naive("".join(pieces), stops)


@given(pieces=PIECES, stops=STOPS)
def test_what_is_shown_is_never_taken_back(pieces: list[str], stops: list[str]) -> None:
    final, _ = naive("".join(pieces), stops)
    scanner, shown = StopScanner(stops), ""
    for piece in pieces:
        shown += scanner.feed(piece)
        assert final.startswith(shown)


@given(pieces=PIECES, stops=STOPS)
def test_nothing_is_held_that_cannot_become_a_stop_string(
    pieces: list[str], stops: list[str]
) -> None:
    scanner, shown = StopScanner(stops), ""
    for i, piece in enumerate(pieces):
        shown += scanner.feed(piece)
        text = "".join(pieces[: i + 1])
        if scanner.found is None and shown != text:
            assert any(stop.startswith(text[len(shown) :]) for stop in stops)


def test_a_stop_string_over_several_pieces_is_never_shown() -> None:
    scanner = StopScanner(["END"])
    assert [scanner.feed(piece) for piece in ("the E", "N", "D of", "it")] == ["the ", "", "", ""]
    assert scanner.found == "END"


def test_a_stop_string_inside_one_piece_cuts_it() -> None:
    scanner = StopScanner(["\n\n"])
    assert scanner.feed("one\n\ntwo") == "one"
    assert scanner.finish() == ""


def test_an_empty_stop_string_stops_nothing() -> None:
    assert scan(["abc"], [""]) == ("abc", None)
