"""A doubtful result's way through the review, as values: states, transitions, answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from featureloop.core.types import Asked, UInt8

Kind = Literal["confirmed", "changed", "rejected"]


class CaseState(StrEnum):
    """Where a case is on its way."""

    WAITING = "waiting"
    DISPUTED = "disputed"
    ANSWERED = "answered"
    SETTLING = "settling"
    SETTLED = "settled"
    EXPIRED = "expired"


TRANSITIONS = frozenset(
    {
        (CaseState.WAITING, CaseState.ANSWERED),
        (CaseState.WAITING, CaseState.DISPUTED),
        (CaseState.DISPUTED, CaseState.ANSWERED),
        (CaseState.ANSWERED, CaseState.WAITING),
        (CaseState.ANSWERED, CaseState.DISPUTED),
        (CaseState.DISPUTED, CaseState.WAITING),
        (CaseState.ANSWERED, CaseState.SETTLING),
        (CaseState.SETTLING, CaseState.SETTLED),
        (CaseState.WAITING, CaseState.EXPIRED),
        (CaseState.DISPUTED, CaseState.EXPIRED),
        (CaseState.ANSWERED, CaseState.EXPIRED),
        (CaseState.SETTLING, CaseState.EXPIRED),
    }
)
"""Every move there is. Those back are a reader's undo, up to the moment when settling begins; what is settled or
expired has no image any more."""

OPEN = (CaseState.WAITING, CaseState.DISPUTED)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What one reader said of a case.

    Attributes
    ----------
    kind
        The result is right, is replaced, or the frame is no use (nothing of it leaves).
    rows
        The rows of targets that hold from now on, uint8 (N, T), the recognized ones where it is confirmed; None
        where it is rejected.
    """

    kind: Kind
    rows: UInt8 | None

    def __post_init__(self) -> None:
        if (self.rows is None) != (self.kind == "rejected"):
            raise ValueError(f"an answer '{self.kind}' {'has' if self.rows is not None else 'lacks'} rows")


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A case as a reader sees it.

    Attributes
    ----------
    number
        Its number in this device's queue.
    state
        Waiting for a first or second reader, or disputed between two.
    asked
        The frame and its result.
    answers
        Of a disputed case what the two readers said, without their names.
    """

    number: int
    state: CaseState
    asked: Asked
    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the review is.

    Attributes
    ----------
    open
        Cases that this reader can still decide.
    mine
        Cases that this reader decided in the last 24 hours.
    median_s
        Median of this reader's seconds a case in that time; None where there is none.
    """

    open: int
    mine: int
    median_s: float | None


def agree(one: Answer, other: Answer, *, flags: int) -> bool:
    """Whether two readers say the same.

    Both reject, or the flags of their rows agree: wholly for one row a frame, by a Dice coefficient of 0.9 for rows of
    positions, since nobody draws the same line twice.

    Parameters
    ----------
    flags
        How many values of a row, from the first, are flags.
    """
    if one.rows is None or other.rows is None:
        return one.rows is other.rows
    a, b = one.rows[:, :flags] > 0, other.rows[:, :flags] > 0
    if a.shape != b.shape:
        return False
    if len(a) == 1:
        return bool((a == b).all())
    total = int(a.sum()) + int(b.sum())
    return total == 0 or 2.0 * int((a & b).sum()) / total >= AGREEMENT


AGREEMENT = 0.9
