"""A config that is written reads the same; whatever is written is a config, or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edgepipe.coordinator.train_config import (
    BatchConfig,
    Codecs,
    DataConfig,
    LoraConfig,
    OptimizerConfig,
    PlanConfig,
    RunConfig,
    TrainConfig,
)
from edgepipe.coordinator.train_config_file import parse_train_config
from edgepipe.core.dataset import DataFormat
from edgepipe.core.frame import Codec, DType
from edgepipe.core.learning_rate import Decay
from edgepipe.core.schedule import ScheduleName
from edgepipe.core.work import Strategy, TrainMode
from edgepipe.errors import UsageError

FILE = Path("/home/ann/tune/cat.toml")
SMALL = 'model = "smollm2-135m"\n[data]\npath = "cats.jsonl"\n'


def parse(text: str, *overrides: str) -> TrainConfig:
    return parse_train_config(text, FILE, overrides)


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1)
PATHS = WORDS.map(lambda word: Path("/") / word.replace("/", "-").strip(". ~"))
SMALL_FLOATS = st.floats(1e-6, 0.9)
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,9}", fullmatch=True)
NODES = st.from_regex(r"[a-z][a-z0-9.-]{0,9}", fullmatch=True)


def some(kind: Any, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(kind, **fields)


DATA = some(
    DataConfig,
    path=st.lists(PATHS, min_size=1, max_size=3, unique=True).map(tuple),
    eval_path=st.none(),
    eval_fraction=SMALL_FLOATS,
    format=st.sampled_from(DataFormat),
    sequence_length=st.integers(2, 4096),
    packing=st.booleans(),
)
CONFIGS = some(
    TrainConfig,
    model=st.sampled_from(["smollm2-135m", "org/model", '/a "b" \\ c']),
    mode=st.just(TrainMode.LORA),
    seed=st.integers(0, 2**63 - 1),
    steps=st.integers(50, 10**6),
    output=PATHS,
    data=DATA,
    batch=some(
        BatchConfig, sequences=st.integers(4, 4096), microbatches=st.none() | st.integers(1, 4)
    ),
    optimizer=some(
        OptimizerConfig,
        learning_rate=SMALL_FLOATS,
        warmup_steps=st.integers(0, 50),
        weight_decay=SMALL_FLOATS,
        betas=st.tuples(SMALL_FLOATS, SMALL_FLOATS),
        eps=SMALL_FLOATS,
        clip_norm=st.floats(0, 1e6),
        decay=st.sampled_from(Decay),
        eight_bit=st.booleans(),
    ),
    lora=some(
        LoraConfig,
        rank=st.integers(1, 256),
        alpha=st.floats(0.5, 512),
        dropout=SMALL_FLOATS,
        target_modules=st.none() | st.lists(NAMES, min_size=1, max_size=4, unique=True).map(tuple),
    ),
    run=some(
        RunConfig,
        dtype=st.sampled_from([None, DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16]),
        eval_every=st.integers(0, 1000),
        checkpoint_every=st.integers(0, 1000),
        keep_checkpoints=st.integers(0, 1000),
        guard_every=st.integers(0, 1000),
        guard_threshold=SMALL_FLOATS,
    ),
    plan=some(
        PlanConfig,
        strategy=st.sampled_from([Strategy.EXACT, Strategy.EQUAL, Strategy.PROPORTIONAL]),
        schedule=st.sampled_from([*ScheduleName, Path("/plans/mine.csv")]),
        codec=some(
            Codecs,
            forward=st.sampled_from([None, *Codec]),
            backward=st.sampled_from([None, Codec.NONE, Codec.BF16, Codec.INT8]),
        ),
        recompute=st.none() | st.booleans(),
        split=st.none(),
        nodes=st.none() | st.lists(NODES, min_size=1, max_size=4, unique=True).map(tuple),
    ),
)


def test_a_config_may_hold_what_is_hard_to_quote() -> None:
    config = parse(SMALL.replace("smollm2-135m", r"./a \"b\" \\ ü 🐈 = # c"))
    assert config.model == '/home/ann/tune/a "b" \\ ü 🐈 = # c'
    assert parse(config.to_toml()) == config


@settings(max_examples=50, deadline=None)
@given(CONFIGS)
def test_a_config_that_is_written_reads_the_same(config: TrainConfig) -> None:
    assert parse(config.to_toml()) == config


@settings(max_examples=20, deadline=None)
@given(CONFIGS)
def test_so_do_other_kinds_of_it(config: TrainConfig) -> None:
    plan = replace(config.plan, strategy=Strategy.MANUAL, split=(3, 7))
    data = replace(config.data, eval_path=Path("/held out"), eval_fraction=None)
    other = replace(config, mode=TrainMode.FULL, lora=None, plan=plan, data=data)
    assert parse(other.to_toml()) == other


def test_the_resolved_config_is_plain_text(golden: Callable[[str, str], None]) -> None:
    text = SMALL + '[plan]\nsplit = [10, 20]\ncodec = {forward = "int8"}\nnodes = ["a", "b", "c"]'
    golden("train_config_resolved", parse(text).to_toml())


def check(text: str, *overrides: str) -> None:
    """That it is a config, which can be written, or refused in one line."""
    try:
        config = parse(text, *overrides)
    except UsageError as error:
        said = str(error)
    else:
        said = "" if parse(config.to_toml()) == config else "\n"
    assert "\n" not in said


VALUES = st.one_of(
    st.sampled_from(["true", '""', "[]", "{}", "nan", "-inf", "1e400", "[1]", "1979-05-27", "0"]),
    st.integers().map(str),
    st.text(max_size=5),
)
LINES = parse(SMALL).to_toml().splitlines()


@settings(deadline=None)
@given(index=st.integers(0, len(LINES) - 1), value=VALUES)
def test_any_change_of_a_good_one_is_a_config_or_refused(index: int, value: str) -> None:
    key, equals, _ = LINES[index].partition("=")
    text = "\n".join([*LINES[:index], f"{key}{equals}{value}", *LINES[index + 1 :]])
    check(text.encode(errors="replace").decode())


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_set_is_a_change_or_refused(setting: str) -> None:
    check(SMALL, setting)
