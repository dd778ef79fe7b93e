"""Prompts and token streams, against transformers' own tokenizer classes."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from edgepipe.coordinator.models import Model
from edgepipe.coordinator.text import Tokenizer, check_length, load_tokenizer
from edgepipe.errors import ModelError, PromptTooLong, UsageError

SPECIAL = ["<s>", "</s>", "<|end|>"]
CORPUS = ["the end of the story", "naïve café €5 𝄞 日本語 🙂🙃 é", "one\n\ntwo  three ENDING"] * 3
TEXT = st.text(st.sampled_from("theEND \n€日é𝄞🙂a"), max_size=30)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'narrator' %}"
    "{{ raise_exception('roles must be user and assistant') }}{% endif %}"
    "{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def byte_level() -> Backend:
    """GPT-2, Llama 3, Qwen: bytes are letters."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def byte_fallback() -> Backend:
    """Llama 2, Gemma: letters, a token for every byte that has none, the first space dropped."""
    pieces = ["\u2581the", "\u2581end", "the", "\u2581", *"theENDa \n"]
    names = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocabulary = {name: index for index, name in enumerate(dict.fromkeys(names))}
    backend = Backend(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<s>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    return backend


def tokenizer(backend: Backend, *, template: str | None = TEMPLATE) -> Tokenizer:
    backend.add_special_tokens(SPECIAL)
    begin = ("<s>", backend.token_to_id("<s>"))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begin])
    inner = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=template
    )
    return Tokenizer(inner)


LEVEL = tokenizer(byte_level())
FALLBACK = tokenizer(byte_fallback())
BOTH = pytest.mark.parametrize("tok", [LEVEL, FALLBACK], ids=["byte-level", "byte-fallback"])
IDS = st.lists(st.integers(0, 260), max_size=40)


def stream_of(tok: Tokenizer, ids: list[int], **options: object) -> tuple[list[str], str]:
    stream = tok.stream(**options)
    pieces = [stream.feed(token) for token in ids]
    pieces.append(stream.finish())
    return pieces, stream.text


@BOTH
@given(text=TEXT)
def test_the_pieces_of_a_text_are_the_text(tok: Tokenizer, text: str) -> None:
    ids = tok.prompt_ids(text, raw=True)
    pieces, final = stream_of(tok, ids)
    assert "".join(pieces) == final == tok.decode(ids)


@BOTH
@given(text=TEXT)
def test_a_character_over_several_tokens_comes_whole(tok: Tokenizer, text: str) -> None:
    pieces, _ = stream_of(tok, tok.prompt_ids(text, raw=True))
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@BOTH
@given(ids=IDS)
def test_the_final_text_of_any_tokens_is_the_tokenizers(tok: Tokenizer, ids: list[int]) -> None:
    _, final = stream_of(tok, ids)
    assert final == tok.decode(ids)


@given(ids=IDS)
def test_byte_level_pieces_are_the_text_of_any_tokens(ids: list[int]) -> None:
    pieces, final = stream_of(LEVEL, ids)
    assert "".join(pieces) == final


@BOTH
def test_a_long_answer_costs_the_same_per_token(
    tok: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    decode = tok.decode
    monkeypatch.setattr(tok, "decode", lambda ids: lengths.append(len(ids)) or decode(ids))
    stream = tok.stream()
    for token in tok.prompt_ids("the end € " * 200, raw=True):
        stream.feed(token)
    assert max(lengths) <= 16


@BOTH
@pytest.mark.parametrize("stop", ["END", "e e", "\n\n", "€", "🙂"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=TEXT, after=TEXT)
def test_a_stop_string_ends_the_text_before_it(
    tok: Tokenizer, stop: str, before: str, after: str
) -> None:
    ids = tok.prompt_ids(before + stop + after, raw=True)
    pieces, final = stream_of(tok, ids, stops=[stop])
    assert "".join(pieces) == final == tok.decode(ids).partition(stop)[0]


def test_tokens_count_up_to_the_one_that_completes_the_stop_string() -> None:
    ids = FALLBACK.prompt_ids("aEND more", raw=True)
    stream = FALLBACK.stream(stops=["END"])
    for token in ids:
        stream.feed(token)
    assert stream.stopped
    assert FALLBACK.decode(stream.token_ids) == "aEND"
    assert (stream.text, stream.finish()) == ("a", "")


def test_eos_ends_the_text_and_is_counted_but_not_shown() -> None:
    stream = FALLBACK.stream(eos_ids=[1], stops=["theend"])
    ids = FALLBACK.prompt_ids("a the", raw=True)
    shown = "".join(stream.feed(token) for token in (*ids, 1, ids[-1]))
    assert stream.stopped
    assert shown == stream.text == "a the"
    assert stream.token_ids == [*ids, 1]


def test_an_eos_that_is_no_special_token_is_not_shown_either() -> None:
    letter = FALLBACK.prompt_ids("a", raw=True)[-1]
    stream = FALLBACK.stream(eos_ids=[letter])
    ids = [token for token in FALLBACK.prompt_ids("the", raw=True) if token != letter]
    assert "".join(stream.feed(token) for token in (*ids, letter)) == stream.text == "the"


def test_text_that_might_have_become_a_stop_string_is_shown_in_the_end() -> None:
    pieces, final = stream_of(LEVEL, LEVEL.prompt_ids("the EN", raw=True), stops=["END"])
    assert "EN" in pieces[-1]
    assert final == "the EN"


@BOTH
def test_a_prompt_goes_through_the_template_with_one_bos(tok: Tokenizer) -> None:
    ids = tok.prompt_ids("the end")
    assert ids == tok.chat_ids([{"role": "user", "content": "the end"}])
    assert ids.count(0) == 1
    assert tok.decode(ids).endswith("assistant: ")


@BOTH
def test_a_raw_prompt_has_one_bos_too(tok: Tokenizer) -> None:
    assert tok.prompt_ids("the end", raw=True).count(0) == 1
    assert tok.prompt_ids("<s>the end", raw=True).count(0) == 1


def test_a_model_without_a_template_takes_prompts_raw_and_cannot_chat() -> None:
    plain = tokenizer(byte_level(), template=None)
    assert not plain.has_template
    assert plain.prompt_ids("the end") == plain.prompt_ids("the end", raw=True)
    with pytest.raises(ModelError, match="no chat template"):
        plain.chat_ids([{"role": "user", "content": "hi"}])


def test_a_conversation_keeps_its_turns() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "the"},
             {"role": "user", "content": "end"}]  # fmt: skip
    assert LEVEL.decode(LEVEL.chat_ids(turns)) == "user: aassistant: theuser: endassistant: "


def test_messages_that_the_template_refuses_are_one_sentence() -> None:
    with pytest.raises(ModelError, match=r"refuses these messages .*roles must be"):
        LEVEL.chat_ids([{"role": "narrator", "content": "hi"}])


def test_an_imported_gguf_brings_its_template(tiny_gguf_model: Model) -> None:
    tok = tiny_gguf_model.tokenizer()
    assert tok.has_template
    assert tok.prompt_ids("x").count(1) == 1


def test_a_folder_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    LEVEL._inner.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for exact in (False, True):
        again = load_tokenizer(tmp_path, exact=exact)
        assert again.prompt_ids("naïve €") == LEVEL.prompt_ids("naïve €")


UNKNOWN_MODEL = '{"version": "1.0", "added_tokens": [], "model": {"type": "Nope"}}'


@pytest.mark.parametrize("content", ["", "{}", "[1]", UNKNOWN_MODEL])
def test_a_damaged_tokenizer_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("prompt", "wanted", "positions", "allowed"),
    [(10, 5, 100, 5), (10, 90, 100, 90), (10, 91, 100, 90), (99, 64, 100, 1), (10, None, 100, 90)],
)
def test_the_room_that_is_left_bounds_the_answer(
    prompt: int, wanted: int | None, positions: int, allowed: int
) -> None:
    assert check_length(prompt, wanted, positions) == allowed


@pytest.mark.parametrize("prompt", [100, 101, 5000])
def test_a_prompt_that_leaves_no_room_names_both_numbers(prompt: int) -> None:
    with pytest.raises(PromptTooLong, match=f"{prompt} tokens long and the context 100"):
        check_length(prompt, 5, 100)


@pytest.mark.parametrize(("prompt", "wanted"), [(0, 5), (5, 0), (5, -1)])
def test_nothing_to_do_is_wrong_use(prompt: int, wanted: int) -> None:
    with pytest.raises(UsageError):
        check_length(prompt, wanted, 100)
