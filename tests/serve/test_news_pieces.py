"""Tokens as they are told: their bytes are those of the text, however it is cut."""

from __future__ import annotations

import pytest
from coordinator.chat_tokenizers import byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepipe.coordinator.generation import Answer, Asked, ask
from edgepipe.coordinator.text import Tokenizer
from edgepipe.core.byte_level import byte_level_bytes
from edgepipe.core.frame import FinishReason, Likely, SampledToken, SequenceId
from edgepipe.core.sampling import Sampling
from edgepipe.serve.pieces import Piece, PieceMaker

EOS = 1
BYTES = byte_tokenizer()


def ids(text: str) -> list[int]:
    return BYTES.conversation_ids([text])[0][0]


def answer_of(tokenizer: Tokenizer, stops: tuple[str, ...] = ()) -> Answer:
    asked = Asked(
        sequence=SequenceId(1),
        prompt_ids=[0],
        sampling=Sampling(),
        max_tokens=99,
        eos_ids=[EOS],
        stops=stops,
    )
    return ask(tokenizer, asked)


def pieces(text: str, *, stops: tuple[str, ...] = (), ends: bool = True) -> list[Piece]:
    answer = answer_of(BYTES, stops)
    maker = PieceMaker(choice=0, tokenizer=BYTES, answer=answer, tells_tokens=True)
    found = []
    tokens = [*ids(text), *([EOS] if ends else [])]
    for position, token in enumerate(tokens):
        finish = FinishReason.STOP if token == EOS else None
        if position == len(tokens) - 1 and not ends:
            finish = FinishReason.LENGTH
        shown = answer.take(
            SampledToken(
                sequence=SequenceId(1),
                slot=0,
                position=position,
                token=token,
                logprob=-float(position),
                finish=finish,
                likely=(Likely(token, -1.0), Likely(EOS, -2.0)),
            )
        )
        if shown:
            found.append(maker.piece(shown))
        if answer.finish is not None:
            break
    return found


@settings(max_examples=40, deadline=None)
@given(text=st.text(alphabet="ab é€🎈", max_size=12), ends=st.booleans())
def test_the_bytes_of_the_tokens_are_those_of_the_text(text: str, ends: bool) -> None:
    found = pieces(text, ends=ends)
    assert "".join(piece.text for piece in found) == text
    for piece in found:
        assert b"".join(told.token.data for told in piece.tokens) == piece.text.encode()


def test_a_character_in_parts_comes_with_all_its_tokens() -> None:
    one, two = pieces("a€")
    assert [told.token.data for told in one.tokens] == [b"a"]
    assert [told.token.data for told in two.tokens] == [b"\xe2", b"\x82", b"\xac"]
    assert [told.offset for told in (*one.tokens, *two.tokens)] == [0, 1, 1, 1]
    assert [told.token.logprob for told in (*one.tokens, *two.tokens)] == [0, -1, -2, -3]


def test_tokens_of_a_stop_string_are_not_told_and_those_of_a_false_alarm_are() -> None:
    found = pieces("ab STOX STOP cd", stops=("STOP",))
    assert "".join(piece.text for piece in found) == "ab STOX "
    told = b"".join(each.token.data for piece in found for each in piece.tokens)
    assert told == b"ab STOX "


def test_a_special_token_is_told_by_its_name() -> None:
    likely = pieces("a")[0].tokens[0].likely
    assert [each.data for each in likely] == [b"a", b"</s>"]


@pytest.mark.parametrize(
    ("name", "data"), [("Ġa", b" a"), ("Ċ", b"\n"), ("âĤ", b"\xe2\x82"), ("€", None)]
)
def test_the_alphabet_of_bytes(name: str, data: bytes | None) -> None:
    assert byte_level_bytes(name) == data
