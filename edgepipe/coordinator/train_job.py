"""From a training config to a run: data, plan, stages, then step after step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from edgepipe.coordinator.checkpoints import Checkpoint, clear_leftovers
from edgepipe.coordinator.launch import Interface, Running, Tailor, Where, open_model
from edgepipe.coordinator.loss_plot import draw_loss
from edgepipe.coordinator.manifest import Manifest, config_hash
from edgepipe.coordinator.orders import Orders
from edgepipe.coordinator.planning import How, check_cut
from edgepipe.coordinator.prepared import Prepared, prepare
from edgepipe.coordinator.run_folder import RunFolder, check_new, create_run, open_run
from edgepipe.coordinator.train_asking import how_to_train
from edgepipe.coordinator.train_batches import Batches, planned_batch
from edgepipe.coordinator.train_config import TrainConfig
from edgepipe.coordinator.train_data.loading import TrainingData, load_data
from edgepipe.coordinator.train_loop import Shown, TrainLoop
from edgepipe.coordinator.train_resuming import keeping_plan, last_checkpoint
from edgepipe.coordinator.train_saving import Saver
from edgepipe.coordinator.train_setup import adapters_of, codecs_of, tailored, trained
from edgepipe.core import work
from edgepipe.core.cadence import Cadence
from edgepipe.core.codec_guard import Guard
from edgepipe.core.commit import Commit
from edgepipe.core.frame import DType
from edgepipe.core.loss_scale import LossScale
from edgepipe.core.pipeline import Plan
from edgepipe.core.rescheduling import schedule_of
from edgepipe.core.schedule import Schedule
from edgepipe.core.schedule_choice import Wish
from edgepipe.core.shuffle import Cursor
from edgepipe.core.training import Adapters
from edgepipe.errors import PlanError, RunFolderError


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
    """What a run came to: its last line of metrics, and its folder.

    `is_new` tells whether a step was done now.
    """

    last: Mapping[str, Any]
    folder: Path
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """All that is known before a device is asked."""

    found: _Found
    data: TrainingData
    batch: work.Batch
    wish: Wish

    @property
    def config(self) -> TrainConfig:
        """What was asked for."""
        return self.found.config

    @property
    def prepared(self) -> Prepared:
        """The model."""
        return self.found.prepared

    @property
    def adapters(self) -> Adapters | None:
        """What is trained beside frozen weights."""
        return self.found.adapters

    def schedule(self, plan: Plan) -> Schedule:
        """The actions of a full step."""
        return schedule_of(plan, self.wish)

    def tailor(self, how: How) -> Tailor:
        """Makes a plan and a deployment those of a run."""
        max_positions = self.batch.longest or self.batch.sequence_length
        return Tailor(
            plan=lambda planned: tailored(
                planned, self.wish, how, shape=self.prepared.shape, max_positions=max_positions
            ),
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
    with ExitStack() as stack:
        resumed = None
        if resume is not None:  # nobody else goes on with it meanwhile
            resumed = stack.enter_context(await asyncio.to_thread(open_run, resume))
        return await _train(config, where, how, wish=wish, resumed=resumed, interface=interface)


async def _train(
    config: TrainConfig,
    where: Where,
    how: How,
    *,
    wish: Wish,
    resumed: RunFolder | None,
    interface: TrainInterface,
) -> Trained:
    resume = None if resumed is None else resumed.path
    found = await _find(config, where.home, resume, interface)
    if resumed is not None and found.num_done >= config.steps:
        return await asyncio.to_thread(_ended, resumed, is_new=False)
    run = await _prepare(found, wish, interface)
    how = _planned_how(run, how, resume)
    max_positions = run.batch.longest or run.batch.sequence_length
    async with open_model(
        run.prepared,
        where,
        how,
        max_positions=max_positions,
        interface=interface,
        tailor=run.tailor(how),
    ) as running:
        with _folder(run, running.plan, resumed) as folder:
            with _drawn(folder):
                async with _loop(run, running, folder, interface) as loop:
                    interface.starting(running, config)
                    await loop.run()
            return await asyncio.to_thread(_ended, folder, is_new=True)


def _ended(folder: RunFolder, *, is_new: bool) -> Trained:
    """The run as its folder tells it; its picture is drawn."""
    lines = folder.metrics.read()
    draw_loss(folder.path, lines)
    return Trained(last=lines[-1] if lines else {}, folder=folder.path, is_new=is_new)


@contextmanager
def _drawn(folder: RunFolder) -> Iterator[None]:
    """Draw the loss of a run that ends early too; what ended it is what is told."""
    try:
        yield
    except BaseException:
        with suppress(RunFolderError):
            draw_loss(folder.path, folder.metrics.read())
        raise


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What is known before the data is read."""

    config: TrainConfig
    prepared: Prepared
    adapters: Adapters | None
    resumed: Checkpoint | None

    @property
    def num_done(self) -> int:
        """Steps of the checkpoint that is gone on from."""
        return self.resumed.manifest.step if self.resumed is not None else 0


async def _find(
    config: TrainConfig, home: Path, resume: Path | None, interface: TrainInterface
) -> _Found:
    prepared = await prepare(config.model, home=home)
    _check_length(config, prepared)
    adapters = await asyncio.to_thread(_adapters, config, prepared)
    resumed = None
    if resume is None:
        await asyncio.to_thread(check_new, config.output)
    else:
        await asyncio.to_thread(clear_leftovers, resume)
        resumed, refused = await asyncio.to_thread(
            last_checkpoint, resume, config, prepared, adapters
        )
        for sentence in refused:
            interface.noted(f"{sentence} Going on from an earlier one.")
    return _Found(config=config, prepared=prepared, adapters=adapters, resumed=resumed)


async def _prepare(found: _Found, wish: Wish, interface: TrainInterface) -> _Run:
    config = found.config
    tokenizer = await asyncio.to_thread(found.prepared.model.tokenizer)
    data = await load_data(
        config.data, tokenizer, seed=config.seed, on_progress=interface.tokenising
    )
    return _Run(
        found=found,
        data=data,
        batch=planned_batch(config, data.train, data.held_out),
        wish=wish,
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
    shape = run.prepared.shape
    how = how_to_train(how, run.config, run.batch, run.wish, shape)
    check_cut(how, shape)
    return keeping_plan(how, resume, shape) if resume is not None else how


@contextmanager
def _folder(run: _Run, plan: Plan, resumed: RunFolder | None) -> Iterator[RunFolder]:
    """The run's folder, new or cut back to the checkpoint that is gone on from."""
    if resumed is None:
        new = create_run(run.config.output, config=run.config.to_toml(), plan=plan.to_json())
        with new as folder:
            yield folder
        return
    output = resumed.path.resolve()
    resumed.write_config(replace(run.config, output=output).to_toml())
    resumed.write_plan(plan.to_json())
    resumed.cut_back(run.found.num_done)
    yield resumed


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
        saver = Saver(
            orders=orders,
            run=folder.path,
            keep=config.run.keep_checkpoints,
            tasks=tasks,
            after=lambda: draw_loss(folder.path, folder.metrics.read()),
        )
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
            cadence=Cadence(
                num_steps=config.steps,
                eval_every=config.run.eval_every,
                checkpoint_every=config.run.checkpoint_every,
            ),
            facts=run.facts(plan.inputs.dtype),
            shown=shown,
            codecs=codecs_of(plan),
        )
        if (resumed := run.found.resumed) is not None:
            await saver.restore(resumed)
            loop.go_on(resumed.manifest)
        yield loop
        listening.cancel()
