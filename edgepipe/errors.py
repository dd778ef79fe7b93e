"""Everything edgepipe raises on purpose. Each message is one sentence that says what to do.

EdgepipeError
├── UsageError            the command was used wrongly (exit code 2)
│   └── SplitError        a split that does not rise, or leaves the model's range
├── ModelError            a model that is unknown, damaged or not supported
│   ├── PromptTooLong     a prompt that leaves no room in the context
│   └── DamagedWeights    a weight file or blob that is not what it should be
├── PlanError             no plan for these devices
│   └── DoesNotFit        ... because memory is short: by how much, and where
├── NodeError             an agent that cannot be used
│   ├── Unreachable       nothing answers at any of its addresses
│   ├── VersionMismatch   it speaks another version of the wire
│   ├── NodeLeaving       it was told to stop, and ends what it holds
│   └── PortInUse         the address it should listen on is taken
├── LeaseError            a device that is not ours (any more)
│   ├── LeaseHeld         another job holds it: which, and on whose machine
│   └── LeaseLost         our lease expired or was fenced off
├── WireError             bytes that are not a valid frame
├── CheckpointError       a checkpoint that cannot be written, or is not whole
├── RunFolderError        a run's folder that cannot be written, or is damaged
├── ServiceError          the agent cannot be installed as a service, or its manager says no
└── StageError            a stage failed while it loaded or ran
    └── StageLost         its connection is gone
"""

from __future__ import annotations

from typing import ClassVar


class EdgepipeError(Exception):
    """Base of the tree; `str(error)` is shown to the operator as it is."""

    exit_code: ClassVar[int] = 1


class UsageError(EdgepipeError):
    """The command was used wrongly."""

    exit_code = 2


class SplitError(UsageError):
    """A split that does not rise strictly inside the model's layers."""


class ModelError(EdgepipeError):
    """A model that is unknown, damaged or not supported."""


class PromptTooLong(ModelError):
    """The prompt leaves no room in the context."""


class DamagedWeights(ModelError):
    """A weight file or blob is not what it should be."""


class PlanError(EdgepipeError):
    """There is no plan for these devices."""


class DoesNotFit(PlanError):
    """Memory is short by `short_by_bytes` in all; the message says where."""

    def __init__(self, message: str, *, short_by_bytes: int = 0) -> None:
        super().__init__(message)
        self.short_by_bytes = short_by_bytes


class NodeError(EdgepipeError):
    """An agent cannot be used."""


class Unreachable(NodeError):
    """Nothing answers at any of its addresses."""


class VersionMismatch(NodeError):
    """It speaks another version of the wire."""


class NodeLeaving(NodeError):
    """It was told to stop."""


class PortInUse(NodeError):
    """The address it should listen on is taken."""


class LeaseError(EdgepipeError):
    """The device is not ours."""


class LeaseHeld(LeaseError):
    """Another job holds the device."""


class LeaseLost(LeaseError):
    """Our lease expired or was fenced off."""


class WireError(EdgepipeError):
    """Bytes that are not a valid frame."""


class CheckpointError(EdgepipeError):
    """A checkpoint cannot be written, or is not whole."""


class RunFolderError(EdgepipeError):
    """A run's folder cannot be written, or is damaged."""


class ServiceError(EdgepipeError):
    """The agent cannot be installed as a service, or its service manager refused."""


class StageError(EdgepipeError):
    """A stage failed while it loaded or ran."""


class StageLost(StageError):
    """A stage's connection is gone."""


def first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure of a group of tasks: what came after it is its consequence."""
    error = failures.exceptions[0]
    return first_of(error) if isinstance(error, BaseExceptionGroup) else error
