"""The controller's states and every way between them: the table that the machine obeys and docs are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from clover.errors import InvalidTransitionError

State = Literal["waiting", "deciding", "rolling", "serving"]
Cause = Literal["ready", "resumed", "triggered", "overtaken", "kept", "changes", "step", "through", "aborted"]

#: Transitions that are remembered.
_TOLD = 20

#: What each state means, for people.
STATES: dict[State, str] = {
    "waiting": "the fleet or the grid is not known yet",
    "deciding": "a plan is being made",
    "rolling": "targets are being applied, step by step",
    "serving": "the plan is in force everywhere",
}


@dataclass(frozen=True, slots=True)
class Transition:
    """A way from one state to the next: what causes it, and when, for people."""

    source: State
    cause: Cause
    target: State
    when: str


TRANSITIONS: tuple[Transition, ...] = (
    Transition("waiting", "ready", "deciding", "all expected nodes and the intensity are known"),
    Transition("waiting", "resumed", "rolling", "a plan was found: its roll is finished, or found finished"),
    Transition("deciding", "kept", "serving", "the decision changes no target"),
    Transition("deciding", "changes", "rolling", "the decision changes a layout or the dispatch"),
    Transition("deciding", "overtaken", "deciding", "the guard was raised: its measure needs no plan"),
    Transition("rolling", "step", "rolling", "a step is through: the next GPUs change"),
    Transition("rolling", "through", "serving", "the last step is through"),
    Transition("rolling", "aborted", "deciding", "a GPU failed to change, or the guard was raised"),
    Transition("serving", "triggered", "deciding", "a trigger, not held back by the pace"),
)

_TABLE: dict[tuple[State, Cause], State] = {(each.source, each.cause): each.target for each in TRANSITIONS}


def target_of(source: State, cause: Cause) -> State | None:
    """Return where a cause leads from a state; None if it must not happen there."""
    return _TABLE.get((source, cause))


@dataclass(slots=True)
class Story:
    """The present state and the last transitions, which are told when something impossible happens."""

    state: State = "waiting"
    told: list[str] = field(default_factory=list[str])

    def enter(self, cause: Cause, why: str) -> None:
        """Go where a cause leads; raises InvalidTransitionError if it must not happen here."""
        target = target_of(self.state, cause)
        if target is None:
            raise InvalidTransitionError(f"{cause} in state {self.state}: no such way. Story: {'; '.join(self.told)}")
        self.told = [*self.told[-_TOLD + 1 :], f"{self.state} -> {target}: {why}"]
        self.state = target

    def expect(self, state: State, event: object) -> None:
        """Raise InvalidTransitionError if an event came in another state than the one that asks for it."""
        if self.state != state:
            told = "; ".join(self.told)
            raise InvalidTransitionError(
                f"{type(event).__name__} in state {self.state}, expected {state}. Story: {told}"
            )


def state_diagram(transitions: Sequence[Transition] = TRANSITIONS) -> str:
    """Write the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> waiting"]
    lines += [f"    {state} : {state}, {meaning}" for state, meaning in STATES.items()]
    lines += [f"    {each.source} --> {each.target} : {each.cause}" for each in transitions]
    return "\n".join(lines)


def transition_rows(transitions: Sequence[Transition] = TRANSITIONS) -> str:
    """Write the table in Markdown."""
    rows = [f"| {each.source} | {each.cause} | {each.target} | {each.when} |" for each in transitions]
    return "\n".join(["| from | cause | to | when |", "|---|---|---|---|", *rows])
