"""Training configs: what they mean, and what is wrong with one in a sentence naming the place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

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
from edgepipe.coordinator.train_config_file import parse_train_config, read_train_config
from edgepipe.core.frame import Codec, DType
from edgepipe.core.learning_rate import Decay, LearningRate
from edgepipe.core.training import AdamW
from edgepipe.core.work import Strategy, TrainMode
from edgepipe.errors import UsageError

FILE = Path("/home/ann/tune/cat.toml")
SMALL = 'model = "smollm2-135m"\n[data]\npath = "cats.jsonl"\n'
FULL = SMALL.replace("[data]", 'mode = "full"\n[data]')


def parse(text: str, *overrides: str) -> TrainConfig:
    return parse_train_config(text, FILE, overrides)


def test_a_model_and_data_are_enough() -> None:
    config = parse(SMALL)
    assert config == TrainConfig(
        model="smollm2-135m",
        mode=TrainMode.LORA,
        seed=0,
        steps=200,
        output=Path("/home/ann/tune/runs/cat"),
        data=DataConfig(path=(Path("/home/ann/tune/cats.jsonl"),)),
        batch=BatchConfig(),
        optimizer=OptimizerConfig(learning_rate=2e-4, warmup_steps=10),
        lora=LoraConfig(),
        run=RunConfig(),
        plan=PlanConfig(),
    )


def test_full_training_has_a_lower_learning_rate_and_no_adapters() -> None:
    config = parse(FULL)
    assert (config.optimizer.learning_rate, config.lora) == (2e-5, None)


@pytest.mark.parametrize(("steps", "warmup_steps"), [(10, 0), (60, 3), (100_000, 100)])
def test_the_warm_up_follows_from_the_steps(steps: int, warmup_steps: int) -> None:
    config = parse(f"steps = {steps}\n{SMALL}")
    assert config.learning_rate == LearningRate(
        peak=2e-4, num_steps=steps, warmup_steps=warmup_steps, decay=Decay.COSINE
    )


def test_stages_are_told_of_the_optimizer() -> None:
    text = (
        SMALL + "[optimizer]\nweight_decay = 0.1\nbetas = [0.8, 0.9]\neps = 1e-6\neight_bit = true"
    )
    assert parse(text).optimizer.adamw == AdamW(
        weight_decay=0.1, betas=(0.8, 0.9), eps=1e-6, eight_bit=True
    )


def test_what_is_held_out_is_a_file_or_a_part() -> None:
    assert parse(SMALL + "eval_fraction = 0").data.eval_fraction == 0
    held_out = parse(SMALL + 'eval_path = "dogs.jsonl"').data
    assert (held_out.eval_path, held_out.eval_fraction) == (FILE.parent / "dogs.jsonl", None)


def test_paths_begin_at_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    file = tmp_path / "cat.toml"
    file.write_text(
        'model = "tiny"\noutput = "../out"\n[data]\npath = ["a.txt", "/data/b.txt"]\n'
        '[plan]\nschedule = "mine.csv"\n'
    )
    config = read_train_config(file)
    assert config.model == str(tmp_path / "tiny")
    assert config.output == tmp_path.parent / "out"
    assert config.data.path == (tmp_path / "a.txt", Path("/data/b.txt"))
    assert config.plan.schedule == tmp_path / "mine.csv"


@pytest.mark.parametrize(
    ("written", "model"),
    [
        ("smollm2-135m", "smollm2-135m"),
        ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B"),
        ("./llama", "/home/ann/tune/llama"),
        ("llama.gguf", "/home/ann/tune/llama.gguf"),
        ("/models/llama", "/models/llama"),
    ],
)
def test_a_model_is_a_path_or_a_name(written: str, model: str) -> None:
    assert parse(SMALL.replace("smollm2-135m", written)).model == model


@pytest.mark.parametrize(
    ("written", "codecs"),
    [
        ('"auto"', Codecs()),
        ('"int8"', Codecs(forward=Codec.INT8, backward=Codec.INT8)),
        (
            '{forward = "int4", backward = "none"}',
            Codecs(forward=Codec.INT4, backward=Codec.NONE),
        ),
        ('{forward = "int4"}', Codecs(forward=Codec.INT4)),
    ],
)
def test_a_codec_is_for_both_directions_or_for_each(written: str, codecs: Codecs) -> None:
    assert parse(f"{SMALL}[plan]\ncodec = {written}").plan.codec == codecs


def test_a_split_is_a_strategy() -> None:
    plan = parse(SMALL + "[plan]\nsplit = [10, 20]").plan
    assert (plan.split, plan.strategy) == ((10, 20), Strategy.MANUAL)


def test_auto_is_left_to_edgepipe() -> None:
    text = (
        SMALL + '[batch]\nmicrobatches = "auto"\n[run]\ndtype = "auto"\n[plan]\nrecompute = "auto"'
    )
    assert parse(text) == parse(SMALL)


def test_set_changes_the_file() -> None:
    config = parse(
        SMALL,
        "steps=60",
        "mode=full",
        "optimizer.betas=[0.8, 0.9]",
        "run.dtype=bfloat16",
        "plan.codec.forward=int8",
        "data.path=more cats.jsonl",
    )
    assert (config.steps, config.mode, config.lora) == (60, TrainMode.FULL, None)
    assert config.optimizer.betas == (0.8, 0.9)
    assert config.run.dtype is DType.BFLOAT16
    assert config.plan.codec == Codecs(forward=Codec.INT8)
    assert config.data.path == (FILE.parent / "more cats.jsonl",)


WRONG: dict[str, tuple[str | bytes, *tuple[str, ...]]] = {
    "damaged TOML": ("model = = 1",),
    "not UTF-8": (b"# caf\xe9",),
    "larger than a config is": ("#" * ((1 << 18) + 1),),
    "no model": (SMALL.replace("model", "#"),),
    "a model that is a list": (SMALL.replace('"smollm2-135m"', "[1]"),),
    "an empty model": (SMALL.replace("smollm2-135m", ""),),
    "no data": ('model = "smollm2-135m"\n',),
    "no path": (SMALL.replace("path", "#"),),
    "no paths": (SMALL.replace('"cats.jsonl"', "[]"),),
    "a path twice": (SMALL.replace('"cats.jsonl"', '["a", "a"]'),),
    "a path that is a number": (SMALL.replace('"cats.jsonl"', "7"),),
    "paths of which one is a number": (SMALL.replace('"cats.jsonl"', '["a", 7]'),),
    "a home of nobody": (SMALL.replace("cats.jsonl", "~no-such-user/x"),),
    "an unknown table": (SMALL + "[optimiser]\n",),
    "an unknown key": ("step = 3\n" + SMALL,),
    "an unknown key of a table": (SMALL + "[lora]\nranks = 3\n",),
    "a table that is a number": ("lora = 3\n" + SMALL,),
    "a mode that is none": (SMALL.replace("[data]", 'mode = "qlora"\n[data]'),),
    "a seed below zero": ("seed = -1\n" + SMALL,),
    "no steps": ("steps = 0\n" + SMALL,),
    "steps that are no whole number": ("steps = 1.5\n" + SMALL,),
    "steps in words": ('steps = "many"\n' + SMALL,),
    "huge steps": (f"steps = {'9' * 30}\n" + SMALL,),
    "two kinds of held-out data": (SMALL + 'eval_path = "x"\neval_fraction = 0.1',),
    "held-out data that is learned": (SMALL + 'eval_path = "./cats.jsonl"',),
    "a held-out fraction of more than all": (SMALL + "eval_fraction = 1.5",),
    "a format that is none": (SMALL + 'format = "csv"',),
    "sequences of one token": (SMALL + "sequence_length = 1",),
    "packing in words": (SMALL + 'packing = "yes"',),
    "no sequences": (SMALL + "[batch]\nsequences = 0",),
    "more microbatches than sequences": (SMALL + "[batch]\nmicrobatches = 9",),
    "microbatches in words": (SMALL + '[batch]\nmicrobatches = "some"',),
    "a negative learning rate": (SMALL + "[optimizer]\nlearning_rate = -1",),
    "a learning rate that is not a number": (SMALL + "[optimizer]\nlearning_rate = nan",),
    "one beta": (SMALL + "[optimizer]\nbetas = [0.9]",),
    "a beta of one": (SMALL + "[optimizer]\nbetas = [0.9, 1]",),
    "a warm-up beyond the run": ("steps = 5\n" + SMALL + "[optimizer]\nwarmup_steps = 6",),
    "a decay that is none": (SMALL + '[optimizer]\ndecay = "exponential"',),
    "adapters in full training": (FULL + "[lora]\nrank = 8",),
    "a rank of zero": (SMALL + "[lora]\nrank = 0",),
    "a dropout of everything": (SMALL + "[lora]\ndropout = 1.0",),
    "a module by its path": (SMALL + '[lora]\ntarget_modules = ["self_attn.q_proj"]',),
    "modules that are a word": (SMALL + '[lora]\ntarget_modules = "linear"',),
    "no modules": (SMALL + "[lora]\ntarget_modules = []",),
    "a dtype of integers": (SMALL + '[run]\ndtype = "int64"',),
    "evaluations in between": (SMALL + "[run]\neval_every = 0.5",),
    "a strategy that is none": (SMALL + '[plan]\nstrategy = "best"',),
    "a schedule that is none": (SMALL + '[plan]\nschedule = "zb-v"',),
    "a schedule that is a number": (SMALL + "[plan]\nschedule = 1",),
    "a codec that is none": (SMALL + '[plan]\ncodec = "zstd"',),
    "gradients as int4": (SMALL + '[plan]\ncodec = "int4"',),
    "a direction that is none": (SMALL + '[plan]\ncodec = {down = "int8"}',),
    "recompute in words": (SMALL + '[plan]\nrecompute = "yes"',),
    "a split that does not rise": (SMALL + "[plan]\nsplit = [20, 10]",),
    "a split at layer 0": (SMALL + "[plan]\nsplit = [0]",),
    "a split for another strategy": (SMALL + '[plan]\nsplit = [10]\nstrategy = "equal"',),
    "a manual strategy without a split": (SMALL + '[plan]\nstrategy = "manual"',),
    "a node that is no name": (SMALL + '[plan]\nnodes = ["desk", "an attic"]',),
    "a node twice": (SMALL + '[plan]\nnodes = ["desk", "desk"]',),
    "set: nothing": (SMALL, "lora.rank"),
    "set: no value": (SMALL, "lora.rank="),
    "set: half a list": (SMALL, "plan.split=[1,"),
    "set: a key of a setting": (SMALL, "model.name=x"),
    "set: an unknown key": (SMALL, "lora.ranks=3"),
    "set: a value that cannot be": (SMALL, "steps=60", "lora.rank=0"),
    "set: two lines": (SMALL, "seed=1\nsteps=2"),
}


def refusal(tmp_path: Path, text: str | bytes, *overrides: str) -> str:
    file = tmp_path / "cat.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UsageError) as refused:
        read_train_config(file, overrides)
    said = str(refused.value)
    assert "\n" not in said
    return said.replace(f"{tmp_path}/", "")


def test_what_is_wrong_is_said_with_its_place(
    tmp_path: Path, golden: Callable[[str, str], None]
) -> None:
    said = {name: refusal(tmp_path, *case) for name, case in WRONG.items()}
    golden(
        "train_config_refusals",
        "".join(f"{name}\n    {sentence}\n" for name, sentence in said.items()),
    )


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml cannot be read"):
        read_train_config(tmp_path / "none.toml")
