"""A stage that generates: sequences are admitted, tokens come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from edgepipe.agent import deploy
from edgepipe.agent.device import WorkerDevice
from edgepipe.agent.figures import Neighbours
from edgepipe.agent.role import Depths, Tell
from edgepipe.agent.runner import Outcome, PromptLogits, Runner
from edgepipe.core.frame import JobId, SequenceId
from edgepipe.engine.base import Engine
from edgepipe.errors import WireError
from edgepipe.transport import convert
from edgepipe.transport.link import Link
from edgepipe.wire.v1 import stage_pb2


@dataclass(slots=True, kw_only=True)
class Generating:
    """See `Role`."""

    load: stage_pb2.Load
    runner: Runner
    tell: Tell

    @classmethod
    def of(
        cls,
        load: stage_pb2.Load,
        device: WorkerDevice,
        engine: Engine,
        *,
        upstream: Link,
        downstream: Link,
        neighbours: Neighbours,
        tell: Tell,
    ) -> Self:
        """The role of a stage that is loaded and connected."""
        runner = Runner(
            job=JobId(load.job),
            epoch=load.epoch,
            engine=engine,
            device=device.torch_device,
            slowdown=device.slowdown,
            codec=convert.codec_from_wire(load.codec),
            compute=device.compute,
            coding=device.coding,
            intake=deploy.intake(load),
            batching=deploy.batching(load),
            tails=deploy.tails(load),
            upstream=upstream,
            downstream=downstream,
            emit=lambda outcome: tell(_event(outcome)),
            figures=device.figures,
            neighbours=neighbours,
        )
        return cls(load=load, runner=runner, tell=tell)

    async def run(self) -> None:
        """See `Role.run`."""
        await self.runner.run()

    def obey(self, command: stage_pb2.Command) -> None:
        """See `Role.obey`."""
        match command.WhichOneof("command"):
            case "admit":
                self._admit(command.admit)
            case "cancel":
                self.runner.cancel(SequenceId(command.cancel.sequence))
                cancelled = stage_pb2.Cancelled(sequence=command.cancel.sequence)
                self.tell(stage_pb2.Event(cancelled=cancelled))
            case "meter":
                runner = self.runner
                metered = stage_pb2.Metered(busy_s=runner.busy_s, num_frames=runner.num_frames)
                self.tell(stage_pb2.Event(metered=metered))
            case _:
                raise WireError("a command arrived that a stage that generates does not know")

    def depths(self) -> Depths:
        """See `Role.depths`."""
        return self.runner.depths()

    def _admit(self, admit: stage_pb2.Admit) -> None:
        admission = convert.admission_from_wire(admit)
        deploy.check_admission(admit, self.load)
        self.runner.admit(admission, admit.prompt_ids)
        self.tell(stage_pb2.Event(admitted=stage_pb2.Admitted(sequence=admit.sequence)))


def _event(outcome: Outcome) -> stage_pb2.Event:
    match outcome:
        case PromptLogits():
            logits = stage_pb2.Logits(
                sequence=outcome.sequence,
                start=outcome.start,
                num_rows=outcome.rows.shape[0],
                rows=outcome.rows.tobytes(),
            )
            return stage_pb2.Event(logits=logits)
        case _:
            tokens = [convert.sampled_to_wire(token) for token in outcome]
            return stage_pb2.Event(sampled=stage_pb2.Sampled(tokens=tokens))
