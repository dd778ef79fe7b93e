"""From a training config to a run: data, plan, stages, then step after step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from edgepipe.coordinator.checkpoints import Checkpoint, clear_leftovers
from edgepipe.coordinator.launch import Interface, Running, Tailor, Where, open_model
from edgepipe.coordinator.loss_plot import draw_loss
from edgepipe.coordinator.manifest import Manifest, config_hash
from edgepipe.coordinator.orders import Orders
from edgepipe.coordinator.planning import How
from edgepipe.coordinator.prepared import Prepared, prepare
from edgepipe.coordinator.run_folder import RunFolder, check_new, check_run, create_run, open_run
from edgepipe.coordinator.step_metrics import StepMetrics
from edgepipe.coordinator.train_batches import Batches, planned_batch
from edgepipe.coordinator.train_config import TrainConfig
from edgepipe.coordinator.train_data.loading import TrainingData, load_data
from edgepipe.coordinator.train_loop import Shown, TrainLoop
from edgepipe.coordinator.train_resuming import keeping_plan, last_checkpoint
from edgepipe.coordinator.train_saving import Saver
from edgepipe.coordinator.train_setup import adapters_of, codecs_of, trained
from edgepipe.core import work
from edgepipe.core.codec_guard import Guard
from edgepipe.core.commit import Commit
from edgepipe.core.frame import DType
from edgepipe.core.loss_scale import LossScale
from edgepipe.core.pipeline import Plan
from edgepipe.core.rescheduling import rescheduled, schedule_of
from edgepipe.core.schedule import Schedule
from edgepipe.core.schedule_choice import Wish
from edgepipe.core.shuffle import Cursor
from edgepipe.core.training import Adapters
from edgepipe.core.work import Objective
from edgepipe.errors import PlanError


class TrainInterface(Interface, Shown, Protocol):
    """What a person is shown of a run, from its data on."""

    def tokenising(self, done: int, total: int) -> None:
        """Documents that became tokens; called from any thread."""
        ...

    def starting(self, running: Running, config: TrainConfig) -> None:
        """The stages are ready; the first step follows."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a run came to: its last step, None where none was left to do, and its folder."""

    metrics: StepMetrics | None
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """All that is known before a device is asked."""

    config: TrainConfig
    prepared: Prepared
    data: TrainingData
    batch: work.Batch
    adapters: Adapters | None
    wish: Wish
    resumed: Checkpoint | None

    @property
    def num_done(self) -> int:
        """Steps of the checkpoint that is gone on from."""
        return self.resumed.manifest.step if self.resumed is not None else 0

    def schedule(self, plan: Plan) -> Schedule:
        """The actions of a full step."""
        return schedule_of(plan, self.wish)

    @property
    def tailor(self) -> Tailor:
        """Makes a plan and a deployment those of a run."""
        return Tailor(
            plan=lambda plan: rescheduled(plan, self.schedule(plan)),
            deployment=lambda deployment, plan: trained(
                deployment,
                plan,
                self.schedule(plan),
                config=self.config,
                batch=self.batch,
                shape=self.prepared.shape,
                adapters=self.adapters,
            ),
        )

    def facts(self, dtype: DType) -> Manifest:
        """What every checkpoint says of the run."""
        model = self.config.model
        return Manifest(
            step=0,
            mode=self.config.mode,
            model=str(Path(model).resolve()) if Path(model).exists() else model,
            num_layers=self.prepared.shape.num_layers,
            config_sha256=config_hash(self.prepared.model.config),
            dtype=dtype,
            seed=self.config.seed,
            cursor=Cursor(),
            optimizer=self.config.optimizer.adamw,
            adapters=self.adapters,
        )


async def train(
    config: TrainConfig,
    where: Where,
    how: How,
    *,
    wish: Wish,
    resume: Path | None,
    interface: TrainInterface,
) -> Trained:
    """Train a config's run, or go on with one that is there.

    Raises whatever is wrong with it, before a device is asked where that can be known.
    """
    run = await _prepare(config, where.home, wish, resume, interface)
    if resume is not None and run.num_done >= config.steps:
        return Trained(metrics=None, folder=resume)
    how = _planned_how(run, how, resume)
    max_positions = run.batch.longest or run.batch.sequence_length
    async with open_model(
        run.prepared,
        where,
        how,
        max_positions=max_positions,
        interface=interface,
        tailor=run.tailor,
    ) as running:
        with await asyncio.to_thread(_folder, run, running.plan, resume) as folder:
            async with _loop(run, running, folder, interface) as loop:
                interface.starting(running, config)
                metrics = await loop.run()
            await asyncio.to_thread(draw_loss, folder.path, folder.metrics.read())
    return Trained(metrics=metrics, folder=folder.path)


async def _prepare(
    config: TrainConfig,
    home: Path,
    wish: Wish,
    resume: Path | None,
    interface: TrainInterface,
) -> _Run:
    prepared = await prepare(config.model, home=home)
    _check_length(config, prepared)
    adapters = await asyncio.to_thread(_adapters, config, prepared)
    resumed = None
    if resume is None:
        await asyncio.to_thread(check_new, config.output)
    else:
        await asyncio.to_thread(check_run, resume)
        resumed = await asyncio.to_thread(last_checkpoint, resume, config, prepared, adapters)
    tokenizer = await asyncio.to_thread(prepared.model.tokenizer)
    data = await load_data(
        config.data, tokenizer, seed=config.seed, on_progress=interface.tokenising
    )
    return _Run(
        config=config,
        prepared=prepared,
        data=data,
        batch=planned_batch(config, data.train, data.held_out),
        adapters=adapters,
        wish=wish,
        resumed=resumed,
    )


def _check_length(config: TrainConfig, prepared: Prepared) -> None:
    most = prepared.shape.max_positions
    if config.data.sequence_length > most:
        raise PlanError(
            f"sequence_length is {config.data.sequence_length}, and {config.model} has room for "
            f"{most} tokens: lower it"
        )


def _adapters(config: TrainConfig, prepared: Prepared) -> Adapters | None:
    """Which modules get adapters; reading their names takes seconds of imports."""
    if config.lora is None:
        return None
    from edgepipe.engine.torch.linear import check_leaf_names, leaf_names  # noqa: PLC0415

    known = leaf_names(prepared.model.config)
    if config.lora.target_modules is not None:
        check_leaf_names(config.lora.target_modules, known)
    return adapters_of(config, known)


def _planned_how(run: _Run, how: How, resume: Path | None) -> How:
    """How to plan for training; a run that is resumed keeps its plan where that is possible."""
    how = replace(
        how,
        objective=Objective.TRAIN,
        batch=run.batch,
        dtype=how.dtype or run.config.run.dtype,
    )
    return keeping_plan(how, resume) if resume is not None else how


def _folder(run: _Run, plan: Plan, resume: Path | None) -> RunFolder:
    """The run's folder, new or cut back to the checkpoint that is gone on from."""
    if resume is None:
        return create_run(run.config.output, config=run.config.to_toml(), plan=plan.to_json())
    folder = open_run(resume)
    try:
        clear_leftovers(resume)
        folder.write_config(replace(run.config, output=resume.resolve()).to_toml())
        folder.write_plan(plan.to_json())
        folder.cut_back(run.num_done)
    except BaseException:
        folder.close()
        raise
    return folder


@asynccontextmanager
async def _loop(
    run: _Run, running: Running, folder: RunFolder, shown: Shown
) -> AsyncIterator[TrainLoop]:
    """The run's loop, with what it needs around it; from a checkpoint where it is resumed."""
    config, plan = run.config, running.plan
    orders = Orders(pipeline=running.pipeline)
    stages = [f"{stage.node} ({stage.device})" for stage in plan.stages]
    half = plan.inputs.dtype is DType.FLOAT16
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(orders.listen())
        saver = Saver(orders=orders, run=folder.path, keep=config.run.keep_checkpoints, tasks=tasks)
        loop = TrainLoop(
            config=config,
            plan=plan,
            orders=orders,
            batches=Batches(
                dataset=run.data.train,
                num_sequences=run.batch.sequences,
                seed=config.seed,
                schedule=run.schedule(plan),
            ),
            held_out=run.data.held_out.examples if run.data.held_out is not None else (),
            folder=folder,
            saver=saver,
            commit=Commit(
                stages=stages,
                clip_norm=config.optimizer.clip_norm,
                learning_rate=config.learning_rate,
                loss_scale=LossScale() if half else None,
            ),
            guard=Guard(every=config.run.guard_every, threshold=config.run.guard_threshold),
            facts=run.facts(plan.inputs.dtype),
            shown=shown,
            codecs=codecs_of(plan),
        )
        if run.resumed is not None:
            await saver.restore(run.resumed)
            loop.go_on(run.resumed.manifest)
        yield loop
        listening.cancel()
