"""The guarantee of a threshold: it may fail as often as it says, and no more."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from featureloop.core.errors import InputError
from featureloop.learner.guarantee import NOTHING, drift, guarantee, p_value

Float64 = np.ndarray[tuple[int], np.dtype[np.float64]]
Draw = Callable[[np.random.Generator, int], Float64]


def errors(rng: np.random.Generator, n: int) -> Float64:
    return (rng.random(n) < 0.1).astype(np.float64)


def scattered(rng: np.random.Generator, n: int) -> Float64:
    return rng.beta(0.2, 1.8, n)


def mostly_nothing(rng: np.random.Generator, n: int) -> Float64:
    return np.where(rng.random(n) < 0.2, 0.5, 0.0)


@pytest.mark.parametrize("draw", [errors, scattered, mostly_nothing])
@pytest.mark.parametrize("n", [5, 60, 400])
def test_small_p_values_are_as_rare_as_they_say_where_the_risk_is_just_too_large(draw: Draw, n: int) -> None:
    rng = np.random.default_rng(1)
    found = np.array([p_value(draw(rng, n), 0.1) for _ in range(2000)])
    for level in (0.2, 0.05, 0.01):
        assert (found <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / len(found))


@pytest.mark.parametrize("draw", [errors, scattered, mostly_nothing])
def test_a_risk_that_is_clearly_smaller_is_shown_with_a_few_hundred_patients(draw: Draw) -> None:
    rng = np.random.default_rng(2)
    found = np.array([p_value(draw(rng, 300), 0.2) for _ in range(200)])
    assert (found <= 0.01).mean() > 0.9


def test_without_a_result_nothing_is_shown() -> None:
    assert p_value(np.zeros(0), 0.1) == 1.0


class Clinic:
    """Patients with three frames each, whose losses go together, and a score that knows of them."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def draw(self, patients: int) -> tuple[Float64, Float64, list[str]]:
        """Reliabilities, losses and whose they are."""
        rng = self._rng
        hard = rng.random(patients).repeat(3)
        reliable = np.clip(1 - hard**2 + rng.normal(0, 0.1, 3 * patients), 0, 1)
        wrong = (rng.random(3 * patients) < 0.5 * hard**2).astype(np.float64)
        return reliable, wrong, [f"p{i // 3}" for i in range(3 * patients)]


def risk_above(threshold: float) -> float:
    """The risk above a threshold over many patients."""
    reliable, wrong, groups = Clinic(99).draw(40_000)
    owner = np.array([int(g[1:]) for g in groups])
    over = reliable >= threshold
    count = np.bincount(owner[over], minlength=40_000)
    return float((np.bincount(owner[over], wrong[over], minlength=40_000)[count > 0] / count[count > 0]).mean())


def test_over_many_splits_the_bound_fails_as_rarely_as_promised_and_accepts_what_it_can() -> None:
    clinic, failed, accepted = Clinic(3), 0, []
    risks: dict[float, float] = {}
    for _ in range(200):
        found, _ = guarantee(*clinic.draw(250), risk=0.1, confidence=0.9)
        accepted.append(found.accepted)
        if found.threshold < NOTHING:
            true = risks.setdefault(found.threshold, risk_above(found.threshold))
            failed += true > 0.1
    assert failed / 200 <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 200)
    assert np.mean(accepted) > 0.3


def test_what_a_guarantee_holds_is_what_was_counted() -> None:
    reliable = np.repeat([0.97, 0.5], 100)
    losses = np.repeat([0.0, 1.0], 100)
    found, curve = guarantee(reliable, losses, [f"p{i}" for i in range(200)], risk=0.05, confidence=0.95)
    assert (found.threshold, found.accepted, found.frames, found.groups) == (0.51, 0.5, 200, 200)
    assert curve[51].risk == 0.0
    assert curve[50].risk == 0.5
    assert found.curve[50] == (0.5, 1.0, 0.5)
    assert (found.reliabilities[0], found.reliabilities[-1]) == (0.5, 0.97)


def test_too_few_patients_guarantee_nothing() -> None:
    found, _ = guarantee(np.full(40, 0.99), np.zeros(40), [f"p{i}" for i in range(40)], risk=0.05, confidence=0.95)
    assert (found.threshold, found.accepted) == (NOTHING, 0.0)


def test_a_patient_counts_once_however_many_frames_there_are() -> None:
    one = ["a"] * 500 + [f"p{i}" for i in range(20)]
    found, _ = guarantee(np.full(520, 0.99), np.zeros(520), one, risk=0.05, confidence=0.95)
    assert (found.groups, found.accepted) == (21, 0.0)


def test_a_site_like_the_guarantees_is_seldom_called_another_and_another_site_is() -> None:
    clinic = Clinic(5)
    found, _ = guarantee(*clinic.draw(200), risk=0.1, confidence=0.9)
    alike = [drift(found, r, g) for r, _, g in (clinic.draw(80) for _ in range(300))]
    assert np.mean(np.array(alike) < 0.01) < 0.03
    reliable, _, groups = clinic.draw(80)
    assert drift(found, reliable * 0.7, groups) < 1e-4


def test_patients_that_share_one_reliability_of_many_decimals_are_no_other_site() -> None:
    rng, groups = np.random.default_rng(6), [f"p{i}" for i in range(200)]
    own, same = (np.where(rng.random(200) < 0.3, 0.9978858350951374, rng.random(200)) for _ in range(2))
    found, _ = guarantee(own, np.zeros(200), groups, risk=0.1, confidence=0.9)
    assert drift(found, same, groups) > 0.05


@pytest.mark.parametrize(("risk", "confidence"), [(0.0, 0.9), (1.0, 0.9), (0.1, 1.0), (0.1, 0.0)])
def test_numbers_that_are_no_shares_are_refused(risk: float, confidence: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        guarantee(np.ones(1), np.zeros(1), ["a"], risk=risk, confidence=confidence)


def test_no_result_is_refused() -> None:
    with pytest.raises(InputError, match="no result"):
        guarantee(np.zeros(0), np.zeros(0), [], risk=0.1, confidence=0.9)


def test_a_threshold_is_not_lower_than_the_least_that_is_asked_for() -> None:
    reliable, losses = np.linspace(0, 1, 200), np.zeros(200)
    groups = [str(i) for i in range(200)]
    found, _ = guarantee(reliable, losses, groups, risk=0.5, confidence=0.95)
    assert found.threshold == 0.0
    found, _ = guarantee(reliable, losses, groups, risk=0.5, confidence=0.95, least=0.42)
    assert found.threshold == 0.42
    assert found.accepted == pytest.approx(0.58, abs=0.01)


def test_of_two_tests_a_site_like_the_guarantees_is_called_another_no_oftener_than_stated() -> None:
    rng = np.random.default_rng(6)

    def draw(patients: int, shift: float = 0.0) -> tuple[Float64, Float64, list[str]]:
        """Reliabilities, and distances that have something to do with them."""
        hard = rng.random(patients).repeat(3)
        trust = np.clip(1 - 0.5 * hard + rng.normal(0, 0.05, 3 * patients), 0, 1)
        far = np.clip(0.2 + 0.1 * hard + shift + rng.normal(0, 0.03, 3 * patients), 0, 1)
        return trust, far, [f"p{i // 3}" for i in range(3 * patients)]

    alarms = []
    for _ in range(400):
        trust, far, groups = draw(120)
        found, _ = guarantee(trust, np.zeros(360), groups, risk=0.1, confidence=0.9, outlying=far)
        trust, far, groups = draw(60)
        alarms.append(drift(found, trust, groups, outlying=far) < 0.05)
    assert np.mean(alarms) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    trust, far, groups = draw(60, shift=0.06)
    assert drift(found, trust, groups) > 0.05
    assert drift(found, trust, groups, outlying=far) < 1e-4
