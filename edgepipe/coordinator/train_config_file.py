"""Reading a training config: the file, what `--set` changes of it, and what makes no sense in it.

model, mode, seed, steps, output     [data] [batch] [optimizer] [lora] [run] [plan]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgepipe.coordinator import toml_values as toml
from edgepipe.coordinator import train_settings as readers
from edgepipe.coordinator.models import BUNDLED
from edgepipe.coordinator.overrides import override
from edgepipe.coordinator.toml_table import Table, parse_toml, read_toml
from edgepipe.coordinator.train_config import (
    BatchConfig,
    DataConfig,
    LoraConfig,
    OptimizerConfig,
    PlanConfig,
    RunConfig,
    TrainConfig,
)
from edgepipe.core.work import Strategy, TrainMode
from edgepipe.errors import UsageError

_WANTED = "a training config"
_LEARNING_RATES = {TrainMode.LORA: 2e-4, TrainMode.FULL: 2e-5}


def read_train_config(file: Path, settings: Sequence[str] = ()) -> TrainConfig:
    """The config of a file, with the settings of `--set` in place of its own.

    Raises UsageError where the file cannot be read, or something in it is wrong: what, and where.
    """
    return _overridden(read_toml(file, wanted=_WANTED), settings)


def parse_train_config(text: str, file: Path, settings: Sequence[str] = ()) -> TrainConfig:
    """The same of a file that was read: its paths begin at `file`'s folder. Raises UsageError."""
    return _overridden(parse_toml(file, text.encode(), wanted=_WANTED), settings)


def train_config_of(values: Mapping[str, Any]) -> TrainConfig:
    """The config of what would stand in its file; paths begin at the working folder.

    Raises UsageError.
    """
    return _config(Table(file=Path("config"), place="", values=_as_in_toml(values)))


def _as_in_toml(value: Any) -> Any:
    """A program's value as tomllib would have read it."""
    match value:
        case Mapping():
            return {key: _as_in_toml(each) for key, each in value.items()}
        case list() | tuple():
            return [_as_in_toml(each) for each in value]
        case Path():
            return str(value)
        case _:
            return value


def _overridden(whole: Table, settings: Sequence[str]) -> TrainConfig:
    changed = override(whole, settings)
    try:
        return _config(changed)
    except UsageError as error:
        if not settings:
            raise
        said = " ".join(f"--set {' '.join(setting.split())[:80]}" for setting in settings[:4])
        raise UsageError(f"{error} (with {said})") from None


def _config(whole: Table) -> TrainConfig:
    tables = ("data", "batch", "optimizer", "lora", "run", "plan")
    whole.check_keys((*readers.WHOLE, *tables))
    own = replace(
        whole, values={key: value for key, value in whole.values.items() if key in readers.WHOLE}
    )
    settings: dict[str, Any] = {
        "mode": TrainMode.LORA,
        "seed": 0,
        "steps": 200,
        "output": toml.located(whole, "output", f"runs/{whole.file.stem}"),
        **toml.given(own, readers.WHOLE),
    }
    if "model" not in settings:
        raise whole.wrong(f"model is missing: add it, as in model = {BUNDLED!r}")
    return TrainConfig(
        **settings,
        data=_data(whole.table("data")),
        batch=_batch(whole.table("batch")),
        optimizer=_optimizer(whole.table("optimizer"), settings["mode"], settings["steps"]),
        lora=_lora(whole, settings["mode"]),
        run=RunConfig(**toml.given(whole.table("run"), readers.RUN)),
        plan=_plan(whole.table("plan")),
    )


def _data(table: Table) -> DataConfig:
    settings = toml.given(table, readers.DATA)
    if "path" not in settings:
        raise table.wrong("path is missing: add a file to learn from, or a list of them")
    if "eval_path" not in settings:
        return DataConfig(**settings)
    if "eval_fraction" in settings:
        raise table.wrong("eval_path and eval_fraction are both there: leave one of them out")
    if settings["eval_path"] in settings["path"]:
        raise table.wrong("eval_path is learned from too: name another file, or eval_fraction")
    return DataConfig(**settings, eval_fraction=None)


def _batch(table: Table) -> BatchConfig:
    batch = BatchConfig(**toml.given(table, readers.BATCH))
    if batch.microbatches is not None and batch.microbatches > batch.sequences:
        raise table.wrong(
            f"microbatches is {batch.microbatches}, more than the {batch.sequences} sequences "
            "of a step: write fewer, or more sequences"
        )
    return batch


def _optimizer(table: Table, mode: TrainMode, steps: int) -> OptimizerConfig:
    settings: dict[str, Any] = {
        "learning_rate": _LEARNING_RATES[mode],
        "warmup_steps": min(steps // 20, 100),
        **toml.given(table, readers.OPTIMIZER),
    }
    if settings["warmup_steps"] > steps:
        raise table.wrong(
            f"warmup_steps is {settings['warmup_steps']}, more than the {steps} steps of the "
            "run: write fewer"
        )
    return OptimizerConfig(**settings)


def _lora(whole: Table, mode: TrainMode) -> LoraConfig | None:
    table = whole.table("lora")
    if mode is TrainMode.LORA:
        return LoraConfig(**toml.given(table, readers.LORA))
    if "lora" in whole.values:
        raise table.wrong('the mode is full: leave [lora] out, or write mode = "lora"')
    return None


def _plan(table: Table) -> PlanConfig:
    settings = toml.given(table, readers.PLAN)
    split = settings.get("split")
    if split is not None:
        settings.setdefault("strategy", Strategy.MANUAL)
    plan = PlanConfig(**settings)
    if split is not None and plan.strategy in {Strategy.EQUAL, Strategy.PROPORTIONAL}:
        raise table.wrong(f"split does not go with the strategy {plan.strategy}: leave one out")
    if split is None and plan.strategy is Strategy.MANUAL:
        raise table.wrong("the strategy manual needs a split: add one, as in split = [10, 20]")
    return plan
