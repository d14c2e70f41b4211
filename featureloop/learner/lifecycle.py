"""The life of a package at the learner, as a table of transitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from featureloop.core.errors import GateError


class State(StrEnum):
    """Where a package is in its life."""

    CANDIDATE = "candidate"
    LIVE = "live"
    RETIRED = "retired"
    REJECTED = "rejected"


class Step(StrEnum):
    """What can happen to a package."""

    PROMOTE = "promote"
    REJECT = "reject"
    RETIRE = "retire"
    ROLLBACK = "rollback"


TRANSITIONS: Mapping[tuple[State, Step], State] = {
    (State.CANDIDATE, Step.PROMOTE): State.LIVE,
    (State.CANDIDATE, Step.REJECT): State.REJECTED,
    (State.LIVE, Step.RETIRE): State.RETIRED,
    (State.RETIRED, Step.ROLLBACK): State.LIVE,
}
"""All steps that are allowed; every other one is a GateError."""

ENTRIES = (State.CANDIDATE, State.REJECTED)
"""The states in which a package may come in: nothing becomes live without a decision."""


def after(state: State, step: Step) -> State:
    """The state that a step leads to.

    Raises
    ------
    GateError
        The step is not allowed in this state.
    """
    if (state, step) not in TRANSITIONS:
        allowed = ", ".join(s for (at, s) in TRANSITIONS if at is state) or "nothing"
        raise GateError(f"a package that is {state} can't be changed by '{step}'; allowed is {allowed}")
    return TRANSITIONS[state, step]


@dataclass(frozen=True, slots=True)
class Entry:
    """One package's line in the registry.

    Attributes
    ----------
    digest, line
        Hexadecimal, 64 digits each.
    state
        Where it is in its life.
    created
        When it was added, seconds since the epoch.
    parent
        The package it was trained from; None for a founding package.
    replaced
        The package that was live before this one became it: what a rollback returns to.
    metrics
        What the gate measured.
    """

    digest: str
    line: str
    state: State
    created: float
    parent: str | None
    replaced: str | None
    metrics: Mapping[str, Any]
