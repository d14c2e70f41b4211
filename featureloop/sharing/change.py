"""Change: what happens to a doubtful recognition before anything is provided.

One pure decision, `decide`, from the policy, the reliability and the answer of
whoever was asked; a table of all its cases is in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from featureloop.core.ports import Reviewer
from featureloop.core.types import Change, Frame, Recognition
from featureloop.sharing.policy import Share

Outcome = Literal["provided", "changed", "confirmed", "asked", "unanswered", "withheld", "not-wanted", "near-duplicate"]
ASKED: Outcome = "asked"


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """What becomes of one frame's recognition.

    Attributes
    ----------
    outcome
        `provided` as recognized; `changed` and `confirmed` after somebody was
        asked; `asked`: it waits for somebody's answer; `unanswered` and `withheld`: nothing leaves; `not-wanted`: the
        policy provides only other frames; `near-duplicate`: one like it was provided.
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
        return self.outcome in ("provided", "changed", "confirmed")


def decide(
    frame: Frame,
    recognition: Recognition,
    *,
    reliability: float,
    threshold: float,
    share: Share,
    reviewer: Reviewer | None,
) -> Decision:
    """Apply the site's policy to one recognition; asks the reviewer only where the policy asks."""
    doubtful = reliability < threshold
    if share.provide == "nothing":
        return Decision("not-wanted", None, doubtful)
    if not doubtful:
        return Decision("provided" if share.provide == "all" else "not-wanted", None, doubtful)
    if share.below_threshold == "withhold":
        return Decision("withheld", None, doubtful)
    if share.below_threshold == "provide":
        return Decision("not-wanted" if share.provide == "changed" else "provided", None, doubtful)
    change = reviewer.review(frame, recognition) if reviewer else None
    return Decision("unanswered", None, doubtful) if change is None else answered(recognition, change, share=share)


def answered(recognition: Recognition, change: Change | None, *, share: Share) -> Decision:
    """What becomes of a doubtful recognition after somebody's answer; None: it is no use to anybody."""
    if share.provide == "nothing":
        return Decision("not-wanted", None, True)
    if change is None:
        return Decision("withheld", None, True)
    same = bool((change.targets == recognition.targets()).all())
    if same and share.provide == "changed":
        return Decision("not-wanted", None, True)
    # A confirmed result is kept as a change to itself: the learner weighs it as seen by a person.
    return Decision("confirmed" if same else "changed", change, True)
