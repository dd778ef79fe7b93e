"""What a run asks of its plan: the config, a list of actions and a saved plan must agree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgepipe.coordinator.pinned import pinned_plan
from edgepipe.coordinator.planning import How
from edgepipe.coordinator.train_config import PlanConfig, TrainConfig
from edgepipe.core.model import ModelShape
from edgepipe.core.pipeline import Plan
from edgepipe.core.rescheduling import schedule_of
from edgepipe.core.schedule import Schedule
from edgepipe.core.schedule_choice import Wish
from edgepipe.core.work import Batch, Objective, Strategy
from edgepipe.errors import PlanError, UsageError


def configured(how: How, plan: PlanConfig) -> How:
    """The flags, and what they leave to the config.

    A strategy or a split on the command line replaces both of the config's, but for `manual`, which
    takes the config's split.
    """
    free = how.pinned is None
    keeps_split = free and how.split is None and how.strategy in {None, Strategy.MANUAL}
    keeps_strategy = free and how.split is None and how.strategy is None
    split = plan.split if keeps_split else how.split
    # exact is what is done where nothing is said, but for a split
    strategy = None if (plan.strategy, split) == (Strategy.EXACT, None) else plan.strategy
    return replace(
        how,
        strategy=strategy if keeps_strategy else how.strategy,
        nodes=plan.nodes if free and how.nodes is None else how.nodes,
        split=split,
        codec=how.codec or plan.codec.forward,
        codec_backward=None if how.codec is not None else plan.codec.backward,
    )


def how_to_train(how: How, config: TrainConfig, batch: Batch, wish: Wish, shape: ModelShape) -> How:
    """How to plan for training by a config, whose data makes such batches.

    Raises UsageError where settings contradict each other, PlanError where the plan that was given
    is for something else or for less.
    """
    how = replace(how, objective=Objective.TRAIN, batch=batch, dtype=how.dtype or config.run.dtype)
    if wish.given is not None:
        how = _for_actions(how, config, batch, wish.name, wish.given)
    if how.pinned is not None:
        pinned_plan(how.pinned, shape, batch.longest or batch.sequence_length, how.objective)
        _check_pinned(how.pinned, how, config, batch)
        schedule_of(how.pinned, wish)
    return how


def _for_actions(how: How, config: TrainConfig, batch: Batch, name: str, actions: Schedule) -> How:
    """A list of actions is of so many stages, and so many microbatches."""
    stages, microbatches = actions.num_stages, actions.num_microbatches
    if how.num_stages not in {None, stages}:
        raise UsageError(
            f"[plan] schedule {name} is for {stages} stages, not for {how.num_stages}: "
            f"leave out --stages and --local, or ask for {stages}"
        )
    if config.batch.microbatches not in {None, microbatches}:
        raise UsageError(
            f"[plan] schedule {name} is for {microbatches} microbatches, and [batch] microbatches "
            f"is {config.batch.microbatches}: leave it out"
        )
    if microbatches > config.batch.sequences:
        raise UsageError(
            f"[plan] schedule {name} is for {microbatches} microbatches, more than the "
            f"{config.batch.sequences} sequences of a step: set [batch] sequences higher"
        )
    return replace(how, num_stages=stages, batch=replace(batch, microbatches=microbatches))


def _check_pinned(plan: Plan, how: How, config: TrainConfig, batch: Batch) -> None:
    """Refuse a plan whose choices are not the config's, or that has room for less."""
    planned = plan.inputs.batch
    if planned is None:
        raise PlanError("the plan does not say what a step is of: plan anew")
    if planned.mode is not batch.mode:
        raise PlanError(
            f"the plan is for the mode {planned.mode}, not for {batch.mode}: plan anew with "
            f"--mode {batch.mode}"
        )
    named: dict[str, tuple[Any, Any]] = {
        "[batch] microbatches": (config.batch.microbatches, plan.microbatches),
        "[plan] recompute": (config.plan.recompute, plan.recompute),
        "[run] dtype": (how.dtype, plan.inputs.dtype),
    }
    for setting, (wanted, found) in named.items():
        if wanted not in {None, found}:
            raise UsageError(
                f"{setting} is {_written(wanted)}, and {_written(found)} in the plan: leave it "
                "out, or plan anew"
            )
    _check_room(plan, planned, batch)


def _check_room(plan: Plan, planned: Batch, batch: Batch) -> None:
    """Memory was planned for adapters of a rank, and for so many tokens of a microbatch."""
    if planned.adapter_rank < batch.adapter_rank:
        raise PlanError(
            f"the plan has room for adapters of rank {planned.adapter_rank}, not of "
            f"{batch.adapter_rank}: plan anew, or lower [lora] rank"
        )
    room, wanted = (each.most_rows(plan.microbatches) for each in (planned, batch))
    if room < wanted:
        raise PlanError(
            f"the plan has room for microbatches of {room} tokens, and the longest is of {wanted}: "
            "plan anew with more --sequences or a greater --sequence-length"
        )


def _written(value: Any) -> str:
    """As a config has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
