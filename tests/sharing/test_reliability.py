"""Reliability: calibrated against a known distortion, monotone, and with a threshold that keeps its promise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featureloop.core.errors import InputError
from featureloop.core.intervals import calibration_error
from featureloop.core.types import Float32, Recognition, Task, UInt8
from featureloop.model.manifest import Calibration, uncalibrated
from featureloop.model.score_words import AGREEMENT, COMBINED, SCORES
from featureloop.model.tasks import RULES
from featureloop.model.tasks.segmentation import dice
from featureloop.sharing.reliability import calibrate, is_unlike, mean_reliability, reliability, with_mean_map

SEEDS = st.integers(0, 2**32 - 1)


def distorted_masks(temperature: float, *, frames: int, seed: int) -> tuple[list[Float32], list[UInt8]]:
    """Logits of truths drawn from them, multiplied by a known temperature."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, 2, (frames, 16, 16)) + rng.normal(0, 1, (frames, 1, 1))
    truths = (rng.random(honest.shape) < 1 / (1 + np.exp(-honest))).astype(np.uint8)
    return list((temperature * honest).astype(np.float32)), list(truths)


def distorted_classes(temperature: float, *, frames: int, seed: int) -> tuple[list[Float32], list[UInt8]]:
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, 2, (frames, 1, 3))
    p = np.exp(honest) / np.exp(honest).sum(-1, keepdims=True)
    labels = [rng.choice(3, p=row[0]) for row in p]
    return list((temperature * honest).astype(np.float32)), [np.eye(3, dtype=np.uint8)[[k]] for k in labels]


def recognized(logits: Float32, task: Task, calibration: Calibration) -> Recognition:
    return RULES[task].recognition(logits, calibration)


def quality(found: Recognition, truth: UInt8) -> float:
    return RULES[found.task].quality(found, truth)


def raw_score(found: Recognition) -> float:
    return RULES[found.task].raw_score(found)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_distortion_is_found_and_taken_back(temperature: float) -> None:
    logits, truths = distorted_masks(temperature, frames=60, seed=1)
    found = calibrate(logits, truths, task=Task.SEGMENTATION, risk=0.3)
    # Within a step and a half of the grid, each 9 %.
    assert found.temperature == pytest.approx(temperature, rel=0.14)
    logits, truths = distorted_classes(temperature, frames=1500, seed=2)
    found = calibrate(logits, truths, task=Task.CLASSIFICATION, risk=0.3)
    assert found.temperature == pytest.approx(temperature, rel=0.14)
    assert (found.method, found.samples) == ("max-probability", 1500)


def test_reliability_is_the_share_that_is_right() -> None:
    logits, truths = distorted_classes(3.0, frames=3000, seed=3)
    fitted = calibrate(logits, truths, task=Task.CLASSIFICATION, risk=0.1)
    logits, truths = distorted_classes(3.0, frames=3000, seed=4)
    results = [recognized(x, Task.CLASSIFICATION, fitted) for x in logits]
    trust = np.array([reliability(r, fitted) for r in results])
    right = np.array([quality(r, t) for r, t in zip(results, truths, strict=True)])
    for low, high in ((0.0, 0.6), (0.6, 0.8), (0.8, 0.95), (0.95, 1.0)):
        inside = (trust >= low) & (trust <= high)
        assert inside.sum() > 100
        assert right[inside].mean() == pytest.approx(trust[inside].mean(), abs=0.06)


@settings(max_examples=25, deadline=None)
@given(
    SEEDS,
    st.integers(1, 25),
    st.sampled_from([0.05, 0.1, 0.3, 0.6]),
    st.sampled_from([Task.CLASSIFICATION, Task.SEGMENTATION]),
)
def test_the_map_rises_stays_in_0_1_and_the_threshold_keeps_the_corrected_loss(
    seed: int, frames: int, risk: float, task: Task
) -> None:
    make = distorted_masks if task is Task.SEGMENTATION else distorted_classes
    logits, truths = make(2.0, frames=frames, seed=seed)
    fitted = calibrate(logits, truths, task=task, risk=risk)
    assert list(fitted.raw) == sorted(fitted.raw)
    assert list(fitted.reliability) == sorted(fitted.reliability)
    assert 0.0 <= min(fitted.reliability) <= max(fitted.reliability) < 1.0
    results = [recognized(x, task, fitted) for x in logits]
    trust = np.array([reliability(r, fitted) for r in results])
    losses = np.array([1 - quality(r, t) for r, t in zip(results, truths, strict=True)])

    def corrected(threshold: float) -> float:
        accepted = losses[trust >= threshold]
        return float((accepted.sum() + 1) / (len(accepted) + 1))

    kept = [t for t in np.unique(trust) if corrected(t) <= risk]
    # The most results that keep the promise are accepted; and where no threshold keeps it, none is.
    assert fitted.threshold == (min(kept) if kept else 1.0)
    if not kept:
        assert not (trust >= fitted.threshold).any()


def test_a_few_lucky_frames_are_not_enough_for_the_promise() -> None:
    logits = [np.array([[9.0, 0.0, 0.0]], np.float32)] * 5
    truths = [np.array([[1, 0, 0]], np.uint8)] * 5
    fitted = calibrate(logits, truths, task=Task.CLASSIFICATION, risk=0.05)
    assert fitted.threshold == 1.0
    assert reliability(recognized(logits[0], Task.CLASSIFICATION, fitted), fitted) == pytest.approx(6 / 7)


def test_enough_right_frames_are() -> None:
    logits = [np.array([[9.0, 0.0, 0.0]], np.float32)] * 25
    truths = [np.array([[1, 0, 0]], np.uint8)] * 25
    fitted = calibrate(logits, truths, task=Task.CLASSIFICATION, risk=0.05)
    assert reliability(recognized(logits[0], Task.CLASSIFICATION, fitted), fitted) >= fitted.threshold


def test_without_a_frame_there_is_no_calibration() -> None:
    with pytest.raises(InputError, match="no held-out frame"):
        calibrate([], [], task=Task.SEGMENTATION, risk=0.1)


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 9), st.just(16)), elements=st.floats(0, 1, width=32)),
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
)
def test_the_reliability_of_any_mask_is_in_0_1(p: Any, knots: list[float]) -> None:
    calibration = Calibration(1.0, "expected-dice", tuple(sorted(knots)), tuple(sorted(knots)), 0.5, 0.1, 10)
    found = Recognition(Task.SEGMENTATION, p)
    assert 0.0 <= raw_score(found) <= 1.0
    assert 0.0 <= reliability(found, calibration) <= 1.0


def test_an_empty_result_is_reliable_only_as_far_as_nothing_was_suspected() -> None:
    def score(p: float) -> float:
        return raw_score(Recognition(Task.SEGMENTATION, np.full((25, 16), p, np.float32)))

    assert score(0.0) == 1.0
    assert score(0.001) == pytest.approx(16 / (16 + 0.4), rel=1e-5)
    assert score(0.4) < 0.1
    assert raw_score(Recognition(Task.SEGMENTATION, np.zeros((0, 16), np.float32))) == 1.0


def test_a_class_is_as_reliable_as_its_largest_probability() -> None:
    assert raw_score(Recognition(Task.CLASSIFICATION, np.array([[0.25, 0.75]], np.float32))) == 0.75


@given(st.data())
def test_dice_is_twice_the_overlap_over_the_sum(data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=2, max_side=20))
    bits = hnp.arrays(np.uint8, shape, elements=st.integers(0, 1))
    a, b = data.draw(bits), data.draw(bits)
    ones, others = set(np.flatnonzero(a)), set(np.flatnonzero(b))
    total = len(ones) + len(others)
    assert dice(a, b) == (1.0 if not total else 2 * len(ones & others) / total)


def test_dice_of_a_large_mask_does_not_overflow() -> None:
    ones = np.ones((300, 300), np.uint8)
    assert dice(ones, ones) == 1.0


def test_the_quality_of_a_class_is_right_or_wrong() -> None:
    found = Recognition(Task.CLASSIFICATION, np.array([[0.2, 0.5, 0.3]], np.float32))
    assert quality(found, np.array([[0, 1, 0]], np.uint8)) == 1.0
    assert quality(found, np.array([[0, 0, 1]], np.uint8)) == 0.0


def unlike(task: Task, logits: list[Float32], calibration: Calibration, far: float) -> list[float]:
    return [reliability(replace(recognized(x, task, calibration), outlying=far), calibration) for x in logits]


def test_frames_unlike_the_founding_ones_are_doubtful_however_sure_the_recognizer_is() -> None:
    logits, truths = distorted_masks(1.0, frames=80, seed=5)
    far = np.random.default_rng(1).uniform(0.1, 0.3, 80)
    fitted = calibrate(logits, truths, task=Task.SEGMENTATION, risk=0.9, outlying=far.tolist())
    assert 0.1 < fitted.familiar[0] <= 0.3 < fitted.familiar[1] < 0.5
    near, strange = (np.array(unlike(Task.SEGMENTATION, logits, fitted, x)) for x in (0.2, 0.5))
    assert (near >= fitted.threshold).mean() > 0.85
    assert (strange == 0.0).all()
    # Any loss is allowed, and yet a frame that is unlike all is doubtful.
    assert (strange < fitted.threshold).all()
    halfway = np.array(unlike(Task.SEGMENTATION, logits, fitted, sum(fitted.familiar) / 2))
    np.testing.assert_allclose(halfway, near / 2)


def test_people_are_told_that_a_frame_is_unlike_where_that_halves_its_reliability() -> None:
    logits, truths = distorted_masks(1.0, frames=80, seed=5)
    far = np.random.default_rng(1).uniform(0.1, 0.3, 80).tolist()
    fitted = calibrate(logits, truths, task=Task.SEGMENTATION, risk=0.9, outlying=far)
    found, middle = recognized(logits[0], Task.SEGMENTATION, fitted), sum(fitted.familiar) / 2
    said = [is_unlike(replace(found, outlying=x), fitted) for x in (None, 0.0, middle - 0.01, middle + 0.01, 1.0)]
    assert said == [False, False, False, True, True]
    assert not is_unlike(replace(found, outlying=1.0), replace(fitted, familiar=()))


def test_a_mean_of_results_is_trusted_by_what_such_means_were_worth() -> None:
    """Blurred masks are less sure of themselves than sharp ones that are as right."""
    logits, truths = distorted_masks(1.0, frames=80, seed=5)
    single = calibrate(logits, truths, task=Task.SEGMENTATION, risk=0.3)
    found = [recognized(x, Task.SEGMENTATION, single) for x in logits]
    means = [replace(r, probabilities=(0.25 + 0.5 * r.probabilities).astype(np.float32)) for r in found]
    qualities = np.array([quality(r, t) for r, t in zip(means, truths, strict=True)])
    assert mean_reliability(means[0], single) == reliability(means[0], single)
    fitted = with_mean_map(single, means, qualities, groups=[str(i) for i in range(80)])
    before, after = (np.array([f(m, fitted) for m in means]) for f in (reliability, mean_reliability))
    assert abs(before.mean() - qualities.mean()) > 0.1
    assert abs(after.mean() - qualities.mean()) < 0.02
    assert [reliability(r, fitted) for r in found] == [reliability(r, single) for r in found]
    # Whoever calibrates other results anew, a learner without images, has no such map.
    assert calibrate(logits, truths, task=Task.SEGMENTATION, risk=0.3, base=fitted).of_mean is None


def test_a_package_without_a_reference_doubts_no_frame_for_being_unlike() -> None:
    logits, truths = distorted_masks(1.0, frames=40, seed=6)
    fitted = calibrate(logits, truths, task=Task.SEGMENTATION, risk=0.3)
    assert (fitted.reference, fitted.familiar) == (None, ())
    assert unlike(Task.SEGMENTATION, logits[:1], fitted, 1.0) == unlike(Task.SEGMENTATION, logits[:1], fitted, 0.0)


@pytest.mark.parametrize(
    "word", [w for w in SCORES[Task.CLASSIFICATION] if w not in {"distance", AGREEMENT}] + [COMBINED]
)
def test_every_score_can_be_asked_for_and_is_calibrated(word: str) -> None:
    base = uncalibrated("max-probability", score=word)
    logits, truths = distorted_classes(2.0, frames=2000, seed=7)
    fitted = calibrate(logits, truths, task=Task.CLASSIFICATION, risk=0.2, base=base)
    assert (fitted.method, fitted.score) == (word, word)
    logits, truths = distorted_classes(2.0, frames=2000, seed=8)
    results = [recognized(x, Task.CLASSIFICATION, fitted) for x in logits]
    trust = np.array([reliability(r, fitted) for r in results])
    right = np.array([quality(r, t) for r, t in zip(results, truths, strict=True)])
    assert calibration_error(trust, right) < 0.06


def test_a_score_that_the_package_cannot_tell_is_refused() -> None:
    logits, truths = distorted_masks(1.0, frames=30, seed=9)
    with pytest.raises(InputError, match="nothing to compare frames with"):
        calibrate(logits, truths, task=Task.SEGMENTATION, risk=0.3, base=uncalibrated("", score="distance"))
