"""The decision over a recognition, as a whole table."""

from __future__ import annotations

import numpy as np
import pytest

from featureloop.core.types import Change, ChangedBy, Frame, Recognition, Task
from featureloop.sharing.change import decide
from featureloop.sharing.policy import Share
from featureloop.testing import FakeReviewer

FRAME = Frame(np.zeros((4, 4, 3), np.uint8), "frame")
FOUND = Recognition(Task.SEGMENTATION, np.array([[0.9, 0.1], [0.2, 0.3]], np.float32))
SAME = Change(FOUND.targets(), ChangedBy.CLINICIAN)
DIFFERENT = Change(1 - FOUND.targets(), ChangedBy.CLINICIAN)
ANSWERS = {"none": None, "same": SAME, "different": DIFFERENT}

# provide, below_threshold, doubtful, answer: outcome. `*` stands for every value.
TABLE = [
    ("nothing", "*", "*", "*", "not-wanted"),
    ("all", "*", "sure", "*", "provided"),
    ("below-threshold", "*", "sure", "*", "not-wanted"),
    ("changed", "*", "sure", "*", "not-wanted"),
    ("all", "withhold", "doubtful", "*", "withheld"),
    ("below-threshold", "withhold", "doubtful", "*", "withheld"),
    ("changed", "withhold", "doubtful", "*", "withheld"),
    ("all", "provide", "doubtful", "*", "provided"),
    ("below-threshold", "provide", "doubtful", "*", "provided"),
    ("changed", "provide", "doubtful", "*", "not-wanted"),
    ("all", "ask", "doubtful", "none", "unanswered"),
    ("below-threshold", "ask", "doubtful", "none", "unanswered"),
    ("changed", "ask", "doubtful", "none", "unanswered"),
    ("all", "ask", "doubtful", "same", "confirmed"),
    ("below-threshold", "ask", "doubtful", "same", "confirmed"),
    ("changed", "ask", "doubtful", "same", "not-wanted"),
    ("all", "ask", "doubtful", "different", "changed"),
    ("below-threshold", "ask", "doubtful", "different", "changed"),
    ("changed", "ask", "doubtful", "different", "changed"),
]
CASES = [
    (p, b, d, a)
    for p in ("all", "below-threshold", "changed", "nothing")
    for b in ("ask", "withhold", "provide")
    for d in ("sure", "doubtful")
    for a in ANSWERS
]


def expected(case: tuple[str, str, str, str]) -> list[str]:
    return [row[4] for row in TABLE if all(w in ("*", c) for w, c in zip(row, case, strict=False))]


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_every_case_has_one_outcome(case: tuple[str, str, str, str]) -> None:
    provide, below, doubt, answer = case
    (outcome,) = expected(case)
    reviewer = FakeReviewer([ANSWERS[answer]])
    decision = decide(
        FRAME,
        FOUND,
        reliability=0.4 if doubt == "doubtful" else 0.6,
        threshold=0.5,
        share=Share(provide=provide, below_threshold=below),  # type: ignore[arg-type]  # the table's words are its choices
        reviewer=reviewer,
    )
    assert decision.outcome == outcome
    assert decision.doubtful == (doubt == "doubtful")
    assert decision.leaves == (outcome in ("provided", "changed", "confirmed"))
    assert decision.change is (ANSWERS[answer] if outcome in ("changed", "confirmed") else None)
    asked = provide != "nothing" and below == "ask" and doubt == "doubtful"
    assert len(reviewer.asked) == asked


def test_without_a_reviewer_a_doubtful_result_that_must_be_asked_about_stays_unanswered() -> None:
    decision = decide(FRAME, FOUND, reliability=0.1, threshold=0.5, share=Share(), reviewer=None)
    assert (decision.outcome, decision.leaves) == ("unanswered", False)


def test_a_reliability_equal_to_the_threshold_is_not_doubtful() -> None:
    decision = decide(FRAME, FOUND, reliability=0.5, threshold=0.5, share=Share(), reviewer=None)
    assert (decision.outcome, decision.doubtful) == ("provided", False)
