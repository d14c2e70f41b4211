"""What becomes of a recognition, as a whole table: doubtful or not, the policy's steps, who says what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, permutations, product

import numpy as np
import pytest

from featureloop.core.types import Change, ChangedBy, Opinion, Recognition, Task
from featureloop.sharing.change import Advisers, Decision, answered, contents, decide
from featureloop.sharing.policy import FINAL, STEPS, Share

FOUND = Recognition(Task.SEGMENTATION, np.array([[0.9, 0.1], [0.2, 0.3]], np.float32))
OTHER = Recognition(Task.SEGMENTATION, 1 - FOUND.probabilities)
THRESHOLD = 0.5

PROVIDE = ("all", "below-threshold", "changed", "nothing")
CHANGE = ("below-threshold", "any")
CONTENT = ("result-and-reliability", "result", "reliability")
ANSWERS = ("none", "later", "same", "different")
OPINIONS = ("none", "unsure", "same", "different")
OPEN = tuple(step for step in STEPS if step not in FINAL)


def all_steps() -> Iterator[tuple[str, ...]]:
    """Every order of the steps that a policy may name."""
    for n in range(len(OPEN) + 1):
        for first in permutations(OPEN, n):
            yield from (steps for last in ((), *((f,) for f in FINAL)) if (steps := (*first, *last)))


CASES = [
    (provide, change, doubt, steps, asked, said)
    for steps in all_steps()
    for provide, change, doubt in product(PROVIDE, CHANGE, ("sure", "doubtful"))
    for asked in (ANSWERS if "ask" in steps else ("none",))
    for said in (OPINIONS if set(steps) & {"consensus", "second-opinion"} else ("none",))
]


class Spy:
    """Counts who is asked, and gives the scripted answers."""

    def __init__(self, asked: str, said: str) -> None:
        self.calls: list[str] = []
        self._asked, self._said = asked, said

    def advisers(self) -> Advisers:
        """All of them."""
        return Advisers(self.person, self._asked == "later", self.opinion("consensus"), self.opinion("second-opinion"))

    def person(self) -> Change | None:
        """A person's answer."""
        self.calls.append("ask")
        found = {"same": FOUND, "different": OTHER}.get(self._asked)
        return None if found is None else Change(found.targets(), ChangedBy.CLINICIAN)

    def opinion(self, step: str) -> Callable[[], Opinion | None]:
        """What consensus or second opinion say."""

        def say() -> Opinion | None:
            self.calls.append(step)
            if self._said == "none":
                return None
            found = FOUND if self._said == "same" else OTHER
            return Opinion(found, THRESHOLD if self._said in ("same", "different") else THRESHOLD - 0.01)

        return say


def decided(case: tuple[str, str, str, tuple[str, ...], str, str]) -> tuple[Decision, list[str]]:
    provide, change, doubt, steps, asked, said = case
    spy = Spy(asked, said)
    decision = decide(
        FOUND,
        reliability=THRESHOLD - 0.1 if doubt == "doubtful" else THRESHOLD,
        threshold=THRESHOLD,
        share=Share(provide=provide, below_threshold=steps, change=change),  # type: ignore[arg-type]  # its own words
        advisers=spy.advisers(),
    )
    return decision, spy.calls


def settled(step: str, asked: str, said: str) -> str | None:
    """How a step settles a result, by the words of the reference; None where it doesn't."""
    if step == "ask":
        return {"none": None, "later": "asked", "same": "confirmed", "different": "changed"}[asked]
    if step in ("consensus", "second-opinion"):
        return {"none": None, "unsure": None, "same": "confirmed", "different": "changed"}[said]
    return {"soften": "softened", "withhold": "withheld", "provide": "provided"}[step]


def expected(case: tuple[str, str, str, tuple[str, ...], str, str]) -> tuple[str, str | None, list[str]]:
    """The outcome, the step that settled it, and who was asked on the way."""
    provide, change, doubt, steps, asked, said = case
    if provide == "nothing" or (provide == "below-threshold" and doubt == "sure"):
        return "not-wanted", None, []
    tried = steps if doubt == "doubtful" or change == "any" else ()
    ways = [settled(step, asked, said) for step in tried]
    at = next((i for i, way in enumerate(ways) if way is not None), len(ways))
    calls = [step for step in tried[: at + 1] if step in OPEN]
    if at < len(ways):
        outcome, by = str(ways[at]), tried[at]
    elif doubt == "sure":
        outcome, by = "provided", None
    else:
        outcome, by = ("unanswered" if "ask" in tried else "withheld"), None
    if provide == "changed" and outcome in ("provided", "confirmed"):
        outcome = "not-wanted"
    return outcome, by, calls


BY = {"ask": "clinician", "consensus": "consensus", "second-opinion": "second-opinion", "soften": "softened"}


def test_every_combination_has_the_outcome_that_its_words_say() -> None:
    seen = set()
    for case in CASES:
        decision, calls = decided(case)
        outcome, by, asked = expected(case)
        assert (decision.outcome, decision.doubtful, calls) == (outcome, case[2] == "doubtful", asked), case
        assert decision.leaves == (outcome in ("provided", "changed", "confirmed", "softened")), case
        changed = outcome in ("changed", "confirmed", "softened")
        assert (decision.change is not None) == changed, case
        if decision.change is not None:
            assert decision.change.by == BY[str(by)], case
        seen.add(outcome)
    assert seen == {"provided", "changed", "confirmed", "softened", "asked", "unanswered", "withheld", "not-wanted"}
    assert len(CASES) > 4000


def test_nothing_doubtful_ever_leaves_that_no_step_settled() -> None:
    """The other way round: what leaves was changed or confirmed, or the policy says `provide`."""
    for case in CASES:
        decision, _ = decided(case)
        if decision.leaves and decision.doubtful and decision.change is None:
            assert case[3][-1] == "provide", case


def test_a_change_is_what_its_step_said_and_softened_ones_are_probabilities() -> None:
    by_step = {
        "ask": OTHER.targets(),
        "consensus": OTHER.targets(),
        "second-opinion": OTHER.targets(),
        "soften": np.array([[229, 26], [51, 77]]),
    }
    for step, targets in by_step.items():
        decision, _ = decided(("all", "below-threshold", "doubtful", (step,), "different", "different"))
        assert decision.change is not None
        np.testing.assert_array_equal(decision.change.targets, targets)


@pytest.mark.parametrize(("changed", "content"), list(product((True, False), CONTENT)))
def test_what_goes_with_the_features(*, changed: bool, content: str) -> None:
    goes = contents(changed=changed, content=content)  # type: ignore[arg-type]  # one of its words
    assert goes.changed == changed
    assert goes.recognition == (changed or "result" in content)
    assert goes.reliability == ("reliability" in content)


@pytest.mark.parametrize("provide", PROVIDE)
def test_a_later_answer_has_the_outcome_of_one_at_once(provide: str) -> None:
    share = Share(provide=provide)  # type: ignore[arg-type]  # one of its words
    for answer, found in (("same", FOUND), ("different", OTHER)):
        at_once, _ = decided((provide, "below-threshold", "doubtful", ("ask",), answer, "none"))
        later = answered(FOUND, Change(found.targets(), ChangedBy.CLINICIAN), share=share)
        assert later.outcome == at_once.outcome
    rejected = answered(FOUND, None, share=share)
    assert rejected.outcome == ("not-wanted" if provide == "nothing" else "withheld")


def test_without_anybody_to_ask_a_doubtful_result_stays_unanswered() -> None:
    decision = decide(FOUND, reliability=0.1, threshold=0.5, share=Share())
    assert (decision.outcome, decision.leaves) == ("unanswered", False)


def test_steps_are_tried_in_every_order_that_can_be_named() -> None:
    assert len(set(all_steps())) == len(list(all_steps())) == 4 * 16 - 1
    assert set(chain.from_iterable(all_steps())) == set(STEPS)
