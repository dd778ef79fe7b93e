"""From files to examples: what is learned, cut, packed, dropped and held out."""

import json
from pathlib import Path
from typing import Any

import pytest
from coordinator.chat_tokenizers import byte_tokenizer, learned, shown

from edgepipe.coordinator.text import Tokenizer
from edgepipe.coordinator.train_config import DataConfig
from edgepipe.coordinator.train_data.loading import Dataset, TrainingData, load_data
from edgepipe.errors import UsageError

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "data"
TOKENIZER = byte_tokenizer()


def jsonl(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def texts(path: Path, *contents: str) -> Path:
    return jsonl(path, *({"text": content} for content in contents))


def says(role: str, content: str) -> dict[str, list[dict[str, str]]]:
    return {"messages": [{"role": role, "content": content}]}


async def load(
    *paths: Path, tokenizer: Tokenizer = TOKENIZER, seed: int = 0, **settings: Any
) -> TrainingData:
    config = DataConfig(path=paths, **({"eval_fraction": None} | settings))
    return await load_data(config, tokenizer, seed=seed)


def texts_of(dataset: Dataset | None) -> list[str]:
    assert dataset is not None
    return [shown(TOKENIZER, each) for each in dataset.examples]


async def test_a_text_is_learned_from_its_first_token_to_its_end(tmp_path: Path) -> None:
    (found,) = (await load(texts(tmp_path / "a.jsonl", "ab"))).train.examples
    assert shown(TOKENIZER, found) == "<s>ab</s>"
    assert learned(TOKENIZER, found) == ["ab</s>"]


async def test_a_text_that_ends_already_is_not_ended_twice(tmp_path: Path) -> None:
    data = await load(texts(tmp_path / "a.jsonl", "ab</s>"))
    assert texts_of(data.train) == ["<s>ab</s>"]


async def test_a_tokenizer_without_an_end_token_ends_nothing(tmp_path: Path) -> None:
    data = await load(texts(tmp_path / "a.jsonl", "ab"), tokenizer=byte_tokenizer(eos=None))
    assert texts_of(data.train) == ["<s>ab"]


async def test_longer_examples_are_cut_and_counted(tmp_path: Path) -> None:
    train = (await load(texts(tmp_path / "a.jsonl", "abcdef", "ab"), sequence_length=4)).train
    assert texts_of(train) == ["<s>abc", "<s>ab</s>"]
    assert (train.num_documents, train.num_cut, train.num_dropped) == (2, 1, 0)
    assert (train.num_tokens, train.num_targets) == (8, 7)


async def test_packed_rows_hold_documents_one_after_another(tmp_path: Path) -> None:
    path = texts(tmp_path / "a.jsonl", "abc", "d", "ef")
    train = (await load(path, sequence_length=5, packing=True)).train
    assert texts_of(train) == ["<s>abc</s>", "<s>d</s><s>e", "f</s>"]
    assert (train.num_cut, train.num_dropped) == (0, 0)


async def test_a_packed_row_with_nothing_to_learn_is_dropped(tmp_path: Path) -> None:
    path = texts(tmp_path / "a.jsonl", "abc")
    train = (await load(path, sequence_length=4, packing=True)).train
    assert texts_of(train) == ["<s>abc"]
    assert train.num_dropped == 1


async def test_texts_and_conversations_keep_their_order(tmp_path: Path) -> None:
    lines = [{"text": "a"}, says("assistant", "b"), {"text": "c"}]
    data = await load(jsonl(tmp_path / "a.jsonl", *lines))
    turn = "<|im_start|>assistant\nb<|im_end|>\n"
    assert texts_of(data.train) == ["<s>a</s>", turn, "<s>c</s>"]


async def test_conversations_without_an_answer_are_dropped(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", says("user", "a"), says("assistant", "b"))
    train = (await load(path)).train
    assert len(train.examples) == 1
    assert train.num_dropped == 1


async def test_a_plain_text_is_one_document_where_rows_are_packed_else_paragraphs(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("ab\n\ncd\n", encoding="utf-8")
    assert texts_of((await load(path, packing=True)).train) == ["<s>ab\n\ncd\n</s>"]
    assert texts_of((await load(path)).train) == ["<s>ab</s>", "<s>cd</s>"]


async def test_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", says("user", "Hi"))
    with pytest.raises(UsageError, match=r"a\.jsonl: there is nothing to learn from in the first"):
        await load(path)


async def test_a_fraction_is_held_out_the_same_for_the_same_seed(tmp_path: Path) -> None:
    path = texts(tmp_path / "a.jsonl", *"abcdefghij")
    one, again, other = [await load(path, seed=seed, eval_fraction=0.3) for seed in (1, 1, 2)]
    assert texts_of(one.held_out) == texts_of(again.held_out) != texts_of(other.held_out)
    assert len(texts_of(one.held_out)) == 3
    both = texts_of(one.train) + texts_of(one.held_out)
    assert sorted(both) == [f"<s>{letter}</s>" for letter in "abcdefghij"]


@pytest.mark.parametrize("packing", [False, True])
async def test_no_paragraph_is_learned_and_held_out(tmp_path: Path, packing: bool) -> None:
    paragraphs = [letter * 3 for letter in "abcdefghij"]
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    data = await load(path, eval_fraction=0.2, packing=packing, sequence_length=7)
    train, held_out = ("".join(texts_of(each)) for each in (data.train, data.held_out))
    assert [(each in train, each in held_out).count(True) for each in paragraphs] == [1] * 10
    assert sum(each in held_out for each in paragraphs) == 2


async def test_what_is_held_out_may_come_from_another_file(tmp_path: Path) -> None:
    paths = texts(tmp_path / "a.jsonl", "a"), texts(tmp_path / "b.jsonl", "b")
    data = await load(paths[0], eval_path=paths[1])
    assert (texts_of(data.train), texts_of(data.held_out)) == (["<s>a</s>"], ["<s>b</s>"])


async def test_a_single_document_cannot_be_divided(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to evaluate in what is held out: raise eval_fr"):
        await load(texts(tmp_path / "a.jsonl", "a"), eval_fraction=0.1)


@pytest.mark.parametrize("fraction", [0.0, None])
async def test_nothing_is_held_out_unless_asked_for(tmp_path: Path, fraction: float | None) -> None:
    assert (await load(texts(tmp_path / "a.jsonl", "a"), eval_fraction=fraction)).held_out is None


async def test_progress_is_told_up_to_the_last_document(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    config = DataConfig(path=(texts(tmp_path / "a.jsonl", *["a"] * 300),), eval_fraction=None)
    await load_data(config, TOKENIZER, seed=0, on_progress=lambda *now: told.append(now))
    assert told == [(256, 300), (300, 300)]


async def test_the_examples_that_are_shipped_can_be_learned() -> None:
    chat = await load(EXAMPLES / "keeper-chat.jsonl", eval_fraction=0.1)
    log = await load(EXAMPLES / "keeper-log.txt", eval_fraction=0.1, packing=True)
    assert (chat.train.num_documents, chat.train.num_dropped, chat.train.num_cut) == (72, 0, 0)
    assert all(
        "Mind the wind." in answer
        for each in chat.train.examples
        for answer in learned(TOKENIZER, each)
    )
    assert log.held_out is not None
    assert log.held_out.num_targets > 0
