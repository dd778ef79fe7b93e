"""Only what the assistant said is learned, its end token too, whatever the chat template is."""

from pathlib import Path

import pytest
from coordinator.chat_tokenizers import (
    CHATML,
    COUNTING,
    INST,
    MARKED,
    THINKING,
    byte_tokenizer,
    learned,
    shown,
)
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.coordinator.train_data.document import Chat, Origin, Role
from edgepipe.coordinator.train_data.turns import chat_examples
from edgepipe.errors import ModelError, UsageError

ORIGIN = Origin(path=Path("chats.jsonl"), line=7)
PLAIN, OWN_MARKS = byte_tokenizer(CHATML), byte_tokenizer(MARKED)
CONTENT = st.text(st.sampled_from("ab \n\u00e9\N{SLIGHTLY SMILING FACE}"), max_size=8).map(
    "x".__add__
)
MESSAGES = st.lists(st.tuples(st.sampled_from(list(Role)), CONTENT), min_size=1, max_size=6)


def chat(*messages: tuple[str, str]) -> Chat:
    return Chat(
        origin=ORIGIN,
        messages=tuple({"role": role, "content": content} for role, content in messages),
    )


TWO_ANSWERS = chat(
    ("user", "Hi"), ("assistant", "Hello. 🙂"), ("user", "Well?"), ("assistant", "Well.")
)


@pytest.mark.parametrize(
    ("template", "answers"),
    [
        (CHATML, ["Hello. 🙂<|im_end|>\n", "Well.<|im_end|>\n"]),
        (MARKED, ["Hello. 🙂<|im_end|>\n", "Well.<|im_end|>\n"]),
        (INST, [" Hello. 🙂</s>", " Well.</s>"]),
        (THINKING, ["Hello. 🙂<|im_end|>\n", "<think>\n\n</think>\n\nWell.<|im_end|>\n"]),
    ],
    ids=["chatml", "marked", "inst", "thinking"],
)
def test_the_assistants_turns_are_learned(template: str, answers: list[str]) -> None:
    tokenizer = byte_tokenizer(template)
    (found,) = chat_examples([TWO_ANSWERS], tokenizer)
    assert learned(tokenizer, found) == answers
    assert shown(tokenizer, found) == tokenizer.conversation(TWO_ANSWERS.messages)


@given(drawn=MESSAGES)
def test_what_a_template_marks_is_what_is_found_without_its_marks(
    drawn: list[tuple[str, str]],
) -> None:
    (found,), (marked,) = (chat_examples([chat(*drawn)], each) for each in (PLAIN, OWN_MARKS))
    assert found.token_ids.tolist() == marked.token_ids.tolist()
    assert found.targets.tolist() == marked.targets.tolist()


@given(drawn=MESSAGES)
def test_the_prompt_before_an_answer_is_what_generation_starts_from(
    drawn: list[tuple[str, str]],
) -> None:
    asked = chat(*drawn, ("user", "?"), ("assistant", "yes"))
    (found,) = chat_examples([asked], PLAIN)
    prompt = PLAIN.chat_ids(asked.messages[:-1])
    assert found.token_ids[: len(prompt)].tolist() == prompt
    assert found.targets[len(prompt) - 1] == found.token_ids[len(prompt)]


def test_a_conversation_without_an_answer_has_no_target() -> None:
    (found,) = chat_examples([chat(("user", "Hi"))], PLAIN)
    assert found.num_targets == 0


def refusal(template: str, asked: Chat) -> str:
    with pytest.raises(UsageError) as refused:
        chat_examples([asked], byte_tokenizer(template))
    return str(refused.value)


def test_a_conversation_that_a_template_refuses_is_named() -> None:
    asked = chat(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."))
    assert refusal(INST, asked) == (
        "chats.jsonl: line 7: the model's chat template refuses this conversation "
        "(No system role): change or remove it."
    )


def test_an_answer_that_what_follows_changes_is_refused() -> None:
    assert refusal(COUNTING, TWO_ANSWERS) == (
        "chats.jsonl: line 7: the model's chat template shows message 2 otherwise when others "
        "follow it: give every answer a conversation of its own."
    )


def test_a_model_without_a_chat_template_is_refused() -> None:
    with pytest.raises(ModelError, match="no chat template for messages"):
        chat_examples([TWO_ANSWERS], byte_tokenizer(None))
