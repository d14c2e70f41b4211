"""Change: what happens to a recognition before anything is provided.

One pure decision, `decide`, from the policy, the reliability and what those say who are asked in the policy's
order; `contents` says what of it goes into the record. A table of all cases is in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from featureloop.core.types import Change, ChangedBy, Opinion, Recognition
from featureloop.sharing.policy import Content, Share

Outcome = Literal[
    "provided",
    "changed",
    "confirmed",
    "softened",
    "asked",
    "unanswered",
    "withheld",
    "not-wanted",
    "near-duplicate",
]
ASKED: Outcome = "asked"
_LEAVE = ("provided", "changed", "confirmed", "softened")


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What becomes of one frame's recognition.

    Attributes
    ----------
    outcome
        `provided` as recognized; `changed` and `confirmed` by whom or what `change` says; `softened`: with its
        probabilities. Of the others nothing leaves. `asked`: it waits for somebody's answer. `unanswered`: nobody was
        there to answer. `withheld`: the policy keeps it back, or nothing that it names could settle it. `not-wanted`:
        the policy provides only other frames. `near-duplicate`: one like it was provided.
    change
        What replaced the recognition; None where it stands.
    doubtful
        Whether the reliability was below the threshold.
    """

    outcome: Outcome
    change: Change | None
    doubtful: bool

    @property
    def leaves(self) -> bool:
        """Whether a record is provided."""
        return self.outcome in _LEAVE


@dataclass(frozen=True, slots=True)
class Advisers:
    """Who or what can be asked about a recognition; each is called only where the policy's steps come to it.

    Attributes
    ----------
    person
        A person's answer; None where there is none now.
    later
        Whether a person can be asked later.
    consensus, second_opinion
        What neighbouring frames say together, and what somebody says who looks again; None for nothing.
    """

    person: Callable[[], Change | None] = lambda: None
    later: bool = False
    consensus: Callable[[], Opinion | None] = lambda: None
    second_opinion: Callable[[], Opinion | None] = lambda: None


NOBODY = Advisers()


def decide(
    recognition: Recognition,
    *,
    reliability: float,
    threshold: float,
    share: Share,
    advisers: Advisers = NOBODY,
) -> Decision:
    """Apply the site's policy to one recognition.

    A doubtful one goes through the policy's steps until one settles it; with `change = "any"`, every one does.
    Consensus and second opinion settle it where their own reliability reaches the threshold. What no step settles
    doesn't leave; a result that was not doubtful stands.
    """
    doubtful = reliability < threshold
    if share.provide == "nothing" or (share.provide == "below-threshold" and not doubtful):
        return Decision("not-wanted", None, doubtful)
    steps = share.steps if doubtful or share.change == "any" else ()
    for step in steps:
        decision = _try(step, recognition, doubtful=doubtful, threshold=threshold, share=share, advisers=advisers)
        if decision is not None:
            return decision
    if not doubtful:
        return _unchanged(doubtful=doubtful, share=share)
    # Somebody may be there the next time; what else there is to ask will say the same again.
    return Decision("unanswered" if "ask" in steps else "withheld", None, doubtful)


def answered(recognition: Recognition, change: Change | None, *, share: Share, doubtful: bool = True) -> Decision:
    """What becomes of a recognition after somebody's or something's answer.

    Parameters
    ----------
    change
        What replaces the recognition, or the same again; None: it is no use to anybody.
    """
    if share.provide == "nothing" or (share.provide == "below-threshold" and not doubtful):
        return Decision("not-wanted", None, doubtful)
    if change is None:
        return Decision("withheld", None, doubtful)
    if change.by is ChangedBy.SOFTENED:
        return Decision("softened", change, doubtful)
    same = bool((change.targets == recognition.targets()).all())
    if same and share.provide == "changed":
        return Decision("not-wanted", None, doubtful)
    # A confirmed result is kept as a change to itself: the learner weighs it by who or what confirmed it.
    return Decision("confirmed" if same else "changed", change, doubtful)


@dataclass(frozen=True, slots=True)
class Contents:
    """What goes with the features of a frame: the recognition, its reliability, and what changed it."""

    recognition: bool
    reliability: bool
    changed: bool


def contents(*, changed: bool, content: Content) -> Contents:
    """What the policy lets go with the features; a change never goes without what it changed."""
    return Contents(changed or content != "reliability", content != "result", changed)


def _try(
    step: str, recognition: Recognition, *, doubtful: bool, threshold: float, share: Share, advisers: Advisers
) -> Decision | None:
    """What a step makes of a recognition; None where it doesn't settle it."""
    if step == "withhold":
        return Decision("withheld", None, doubtful)
    if step == "provide":
        return _unchanged(doubtful=doubtful, share=share)
    change: Change | None
    if step == "soften":
        change = Change(recognition.soft_targets(), ChangedBy.SOFTENED)
    elif step == "ask":
        change = advisers.person()
        if change is None and advisers.later:
            return Decision(ASKED, None, doubtful)
    else:
        found, by = (
            (advisers.consensus, ChangedBy.CONSENSUS)
            if step == "consensus"
            else (advisers.second_opinion, ChangedBy.SECOND_OPINION)
        )
        opinion = found()
        sure = opinion is not None and opinion.reliability >= threshold
        change = Change(opinion.recognition.targets(), by) if opinion is not None and sure else None
    return None if change is None else answered(recognition, change, share=share, doubtful=doubtful)


def _unchanged(*, doubtful: bool, share: Share) -> Decision:
    return Decision("not-wanted" if share.provide == "changed" else "provided", None, doubtful)
