"""A cluster for programs that wait: each method is a coroutine of Session, run to its end.

with edgepipe.connect() as cluster:
    print(cluster.plan("smollm2-135m"))
    for piece in cluster.generate("smollm2-135m", "Why is the sky blue?"):
        print(piece, end="")
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from edgepipe.api.background import Background, background
from edgepipe.api.cut import Cut, how_of, one_of
from edgepipe.api.generation import Generation
from edgepipe.api.model_plan import ModelPlan
from edgepipe.api.session import ModelWish, Session
from edgepipe.coordinator.answer_wish import Wish
from edgepipe.coordinator.launch import Where
from edgepipe.coordinator.local import check_local
from edgepipe.coordinator.node_rows import NodeRow
from edgepipe.coordinator.step_metrics import StepMetrics
from edgepipe.coordinator.text import Message
from edgepipe.coordinator.train_config_file import read_train_config, train_config_of
from edgepipe.coordinator.train_job import Trained
from edgepipe.core.work import DEFAULT_PROMPT_TOKENS, Batch, Objective, TrainMode
from edgepipe.discovery.peers import parse_peers
from edgepipe.errors import UsageError
from edgepipe.home import current_home


def connect(
    *,
    cluster: str | None = None,
    peers: Iterable[str] | None = None,
    local: int | None = None,
    threads: int | None = None,
    slowdown: Sequence[float] = (),
    home: Path | None = None,
) -> Cluster:
    """A cluster, to be closed; best in a `with` statement.

    Args:
        cluster: whose agents to use; default EDGEPIPE_CLUSTER, else "default".
        peers: HOST:PORT of agents that mDNS does not find; default EDGEPIPE_PEER.
        local: start so many private agents on this machine instead, and use them all.
        threads: CPU threads of each private agent.
        slowdown: how much slower each private agent computes.
        home: default EDGEPIPE_HOME, else the platform's place for an application's data.

    Raises:
        UsageError: these do not go together.
        NodeError: a private agent did not start.
    """
    if local is not None and peers is not None:
        raise UsageError("local uses private agents only: leave out peers")
    if local is None and (threads is not None or slowdown):
        raise UsageError("threads and slowdown are for the private agents of local")
    if local is not None:
        check_local(local, threads, slowdown)
    named = os.environ.get("EDGEPIPE_PEER", "").split(",") if peers is None else peers
    where = Where(
        home=home or current_home(),
        cluster=cluster or os.environ.get("EDGEPIPE_CLUSTER") or "default",
        peers=parse_peers(peer for peer in named if peer) if local is None else (),
        local=local,
        threads=threads,
        slowdowns=tuple(slowdown),
    )
    return Cluster(background(), where)


class Cluster:
    """Some agents. Made by `connect`, closed with the program at the latest.

    Methods raise what is below `edgepipe.errors.EdgepipeError`; each message says what to do. They
    are for one thread at a time. Ctrl-C ends what runs and leaves the cluster usable.
    """

    def __init__(self, background: Background, where: Where) -> None:
        self._background = background
        self._local = where.local
        self._session = Session(where=where)
        self._is_closed = False
        background.run(self._session.begin())
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give every device back; private agents end. The second time does nothing."""
        if not self._is_closed:
            self._is_closed = True
            atexit.unregister(self.close)
            self._background.run(self._session.end())

    def nodes(self) -> tuple[NodeRow, ...]:
        """Who is here, those that cannot be used too, by name."""
        return self._open.run(self._session.nodes())

    def plan(
        self,
        model: str,
        *,
        objective: str = "latency",
        context: int | None = None,
        slots: int = 1,
        prompt_tokens: int = DEFAULT_PROMPT_TOKENS,
        mode: str = "lora",
        sequences: int = 8,
        sequence_length: int = 512,
        **cut: Unpack[Cut],
    ) -> ModelPlan:
        """Who would run which layers; what is not known of the devices is measured first.

        Args:
            model: a folder, a .gguf file, a Hugging Face id, or smollm2-135m.
            objective: latency, throughput, prefill or train.
            context: tokens of each sequence to keep room for; default the model's, 4096 at most.
            slots: sequences at once.
            prompt_tokens: of the prompt, for prefill.
            mode: lora or full, for train.
            sequences: of a training step.
            sequence_length: tokens of each.
            cut: as the command's options, see Cut.

        A model that is open is closed first. The plan may not fit.
        """
        batch = Batch(
            mode=one_of(TrainMode, mode, "mode"),
            sequences=sequences,
            sequence_length=sequence_length,
        )
        how = replace(
            how_of(cut, objective, local=self._local),
            num_slots=slots,
            prompt_tokens=prompt_tokens,
            batch=batch,
        )
        wish = ModelWish(name=model, adapter=None, how=how, context=context)
        return ModelPlan(self._open.run(self._session.plan(wish)))

    def generate(
        self,
        model: str,
        prompt: str | Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        raw: bool = False,
        adapter: Path | str | None = None,
        context: int | None = None,
        plan: ModelPlan | None = None,
        **cut: Unpack[Cut],
    ) -> Generation:
        """An answer, generated as it is iterated over.

        The model stays open for the next call with the same model, adapter, context, plan and cut.
        One answer is generated at a time: the next call ends one that was left.

        Args:
            model: a folder, a .gguf file, a Hugging Face id, or smollm2-135m.
            prompt: what to ask, or the messages of a conversation.
            max_tokens: at most so many; default 512.
            temperature: 0 is greedy; default the model's own, else 0. So are top_p and top_k.
            top_p: nucleus.
            top_k: 0 is off.
            seed: the same seed gives the same answer.
            stop: the answer ends before any of these.
            raw: do not apply the chat template.
            adapter: the folder of a PEFT adapter of the model.
            context: tokens of prompt and answer; default the model's, 4096 at most.
            plan: one of `Cluster.plan` to use; leave out `cut`.
            cut: as the command's options, see Cut.
        """
        if plan is not None and cut:
            raise UsageError("plan is a whole plan: leave out how the model is cut")
        how = how_of(cut, Objective.LATENCY, local=self._local)
        wish = ModelWish(
            name=model,
            adapter=None if adapter is None else Path(adapter),
            how=how if plan is None else replace(how, num_stages=None, pinned=plan.plan),
            context=context,
        )
        sampling = Wish(
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
            stops=(stop,) if isinstance(stop, str) else tuple(stop),
        )
        answering = self._open.run(self._session.answer(wish, prompt, sampling, raw=raw))
        return Generation(self._background, answering)

    def train(
        self,
        config: Path | str | Mapping[str, Any],
        *,
        settings: Sequence[str] = (),
        on_step: Callable[[StepMetrics], None] = lambda _: None,
        resume: Path | str | None = None,
        **cut: Unpack[Cut],
    ) -> Trained:
        """Train a run; its `folder`, and the `last` line of its metrics.

        Args:
            config: the file of a training config, or what would stand in it; see docs/training.md.
                A dict's paths begin at the working folder.
            settings: what replaces a file's own, as `--set` takes it: `("steps=60",)`.
            on_step: gets every step's metrics, in this thread. If it raises, the run ends.
            resume: go on from the last checkpoint of this run.
            cut: in place of the config's [plan].
        """
        if isinstance(config, Mapping):
            if settings:
                raise UsageError("settings replace those of a file: put them into the dict itself")
            wanted = train_config_of(config)
        else:
            wanted = read_train_config(Path(config), settings)
        how = how_of(cut, Objective.TRAIN, local=self._local)
        run = None if resume is None else Path(resume)
        return self._open.run_telling(
            lambda tell: self._session.train(wanted, how, resume=run, tell=tell), on_step
        )

    @property
    def _open(self) -> Background:
        if self._is_closed:
            raise UsageError("the cluster is closed: connect again")
        return self._background
