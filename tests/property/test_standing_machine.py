"""A server's pipelines against a shell that carries everything out, and breaks at any time."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgepipe.core.standing import (
    Admit,
    BackOff,
    Close,
    Closed,
    Drop,
    Event,
    Found,
    Hold,
    Instruction,
    Loaded,
    Looked,
    Lost,
    MakePlan,
    Missing,
    NotFound,
    Offer,
    Open,
    Opened,
    Phase,
    Standing,
    Started,
    Waited,
)

DEVICES = st.frozensets(st.sampled_from([("ada", "cpu"), ("bob", "cpu"), ("cyd", "cpu")]))


class StandingMachine(RuleBasedStateMachine):
    """`lives` are the plans that are made, deployed or stand: one, and at most one beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.standing = Standing()
        self.now_s = 0.0
        self.lives = 0
        self.stands = self.admits = self.is_closing = self.waits = False
        self.take(Started(now_s=0.0))

    def take(self, event: Event) -> None:
        for instruction in self.standing.handle(event):
            self.carry_out(instruction)

    def carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case MakePlan():
                assert self.lives == self.stands
                self.lives, self.waits = self.lives + 1, False
            case Open():
                assert (self.lives, self.stands) == (1, False)
            case Drop():
                assert self.lives > 1 or not self.stands
                self.lives -= 1
            case Close():
                assert self.stands
                self.is_closing = True
            case Hold() | Admit():
                self.admits = isinstance(instruction, Admit)
            case BackOff():
                self.waits = True
            case Missing():
                assert not self.stands

    def end(self) -> None:
        self.stands = self.admits = self.is_closing = False
        self.lives -= 1

    def is_planning(self) -> bool:
        return self.standing.phase is Phase.PLANNING or self.standing.is_planning_beside

    @rule(seconds=st.sampled_from([0.1, 20.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(devices=DEVICES)
    def look(self, devices: frozenset[tuple[str, str]]) -> None:
        self.take(Looked(devices=devices, now_s=self.now_s))

    @precondition(lambda self: self.stands)
    @rule(num_running=st.integers(0, 2))
    def load(self, num_running: int) -> None:
        self.take(Loaded(num_running=num_running, now_s=self.now_s))

    @precondition(lambda self: self.is_planning())
    @rule(devices=DEVICES, seconds=st.sampled_from([1.0, 0.95, 0.5]), as_asked=st.booleans())
    def find(self, devices: frozenset[tuple[str, str]], seconds: float, as_asked: bool) -> None:
        offer = Offer(used=devices, considered=devices, seconds=seconds, as_asked=as_asked)
        self.take(Found(offer=offer, now_s=self.now_s))

    @precondition(lambda self: self.is_planning())
    @rule(devices=DEVICES)
    def find_nothing(self, devices: frozenset[tuple[str, str]]) -> None:
        self.lives -= 1
        failed = NotFound(reason="it does not fit", considered=devices, now_s=self.now_s)
        self.take(failed)

    @precondition(lambda self: self.standing.phase is Phase.OPENING)
    @rule()
    def open(self) -> None:
        self.stands = True
        self.take(Opened(now_s=self.now_s))

    @precondition(lambda self: self.stands or self.standing.phase is Phase.OPENING)
    @rule()
    def lose(self) -> None:
        self.end()
        self.take(Lost(reason="it is gone", now_s=self.now_s))

    @precondition(lambda self: self.is_closing)
    @rule()
    def close(self) -> None:
        self.end()
        self.take(Closed(now_s=self.now_s))

    @precondition(lambda self: self.waits)
    @rule()
    def wait(self) -> None:
        self.waits = False
        self.take(Waited(now_s=self.now_s))

    @invariant()
    def somebody_is_always_at_it(self) -> None:
        assert self.lives or self.waits
        assert 0 <= self.lives <= 1 + self.stands

    @invariant()
    def sequences_start_where_a_pipeline_stands_that_is_not_held(self) -> None:
        held = self.standing.is_holding or self.is_closing
        assert self.admits is (self.stands and not held)


StandingMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestStanding = StandingMachine.TestCase
