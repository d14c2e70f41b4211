"""How far other views of a frame agree with its result: the score `agreement`, from the frame to the record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featureloop.core.types import Frame, Recognition, Task, UInt8
from featureloop.device.outbox import Outbox
from featureloop.device.pipeline import run_pipeline
from featureloop.device.provide import Provider
from featureloop.model.manifest import uncalibrated
from featureloop.model.package import Package, seal_package
from featureloop.model.runtime import Runtime
from featureloop.model.score_words import AGREEMENT, AUTO, COMBINED, SCORES
from featureloop.model.tasks import RULES
from featureloop.model.tasks.scores import SCORE_OF, expected_quality
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.policy import Policy, Share
from featureloop.sharing.reliability import fit_reliability, reliability
from featureloop.sharing.views import FREE, mean_of_views, recognized
from featureloop.testing import FakeClock, tiny_package

SHAPES = {
    Task.CLASSIFICATION: (1, 3),
    Task.MULTILABEL: (1, 3),
    Task.DETECTION: (16, 5),
    Task.SEGMENTATION: (16, 16),
}


def pixels(seed: int = 1) -> UInt8:
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3)).astype(np.uint8)


def by_agreement(package: Package) -> Package:
    calibration = replace(package.manifest.calibration, method=AGREEMENT, score=AGREEMENT)
    return seal_package(package.path, replace(package.manifest, calibration=calibration))


def a_result(task: Task, seed: int) -> Recognition:
    logits = np.random.default_rng(seed).normal(0, 2, SHAPES[task]).astype(np.float32)
    return RULES[task].recognition(logits, uncalibrated(""))


@pytest.mark.parametrize("task", list(Task))
def test_a_result_expects_of_itself_what_its_own_score_says(task: Task) -> None:
    own = SCORE_OF[task][SCORES[task][0]]
    for seed in range(5):
        found = a_result(task, seed)
        assert expected_quality(found, found) == own(found)


@pytest.mark.parametrize("task", list(Task))
def test_who_says_the_opposite_lowers_what_is_expected(task: Task) -> None:
    for seed in range(5):
        found = a_result(task, seed)
        opposite = np.roll(found.probabilities, 1, axis=1) if task is Task.CLASSIFICATION else 1 - found.probabilities
        against = replace(found, probabilities=opposite)
        half = replace(found, probabilities=(found.probabilities + opposite) / 2)
        values = [expected_quality(found, told) for told in (found, half, against)]
        assert 1 >= values[0] > values[1] > values[2] >= 0


@pytest.mark.parametrize("task", list(Task))
def test_a_package_by_agreement_looks_at_every_view_and_others_at_none(task: Task, tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "P", task=str(task))
    image, looks = pixels(), []
    runtime = Runtime(package, threads=1)
    extract = runtime.extract

    def counted(seen: UInt8) -> object:
        looks.append(seen)
        return extract(seen)

    vectors = release_vectors(extract(image), package.manifest.released)
    plain = recognized(runtime, image, vectors)
    assert plain.agreement is None
    runtime = Runtime(by_agreement(package), threads=1)
    extract = runtime.extract
    runtime.extract = counted  # type: ignore[method-assign, assignment]  # counts, and does the same
    found = recognized(runtime, image, vectors)
    assert len(looks) == len(FREE)
    np.testing.assert_array_equal(found.probabilities, plain.probabilities)
    mean = mean_of_views(runtime, image, plain, package.manifest.calibration)
    assert found.agreement == expected_quality(plain, mean)
    assert 0 <= reliability(found, runtime.package.manifest.calibration) <= 1


def test_a_frame_that_looks_the_same_in_every_view_agrees_with_itself(tmp_path: Path) -> None:
    runtime = Runtime(by_agreement(tiny_package(tmp_path / "P", task="classification")), threads=1)
    image = np.full((64, 64, 3), (90, 40, 30), np.uint8)
    vectors = release_vectors(runtime.extract(image), runtime.package.manifest.released)
    found = recognized(runtime, image, vectors)
    assert found.agreement == pytest.approx(float(found.probabilities.max()), abs=1e-5)


def test_on_the_device_it_is_the_reliability_s_score_and_the_record_says_so(tmp_path: Path) -> None:
    package = by_agreement(tiny_package(tmp_path / "P", task="classification"))
    runtime, shown = Runtime(package, threads=1), []
    with Outbox(tmp_path / "outbox.sqlite") as outbox:
        owner = Provider(
            site="site-a", device="tower-1", site_key=bytes(32), package=package,
            policy=Policy(Share(threshold=0.0)), keeper=outbox, reviewer=None, clock=FakeClock(),
        )  # fmt: skip
        frames = [Frame(pixels(i), f"f{i}") for i in range(3)]
        run_pipeline(frames, runtime=runtime, provider=owner, show=lambda _f, r: shown.append(r))
        records = outbox.lease(limit=9, seconds=60)
    assert {r.reliability_method for r in records} == {AGREEMENT}
    assert sorted(r.reliability or 0 for r in records) == pytest.approx(sorted(r.agreement for r in shown))


def fitted(word: str, *, seen: bool) -> str:
    """The method of a calibration that a score was asked for; 60 results whose quality other views know best."""
    rng = np.random.default_rng(3)
    found, qualities = [], []
    for i in range(60):
        right = rng.random() < 0.7
        agrees = float(np.clip(rng.normal(0.85 if right else 0.45, 0.1), 0, 1)) if seen else None
        found.append(replace(a_result(Task.CLASSIFICATION, i), agreement=agrees))
        qualities.append(float(right))
    groups = [str(i) for i in range(60)]
    base = uncalibrated("max-probability", score=word)
    made = fit_reliability(found, np.array(qualities), groups=groups, base=base, risk=0.3)
    assert made.score == word
    assert all(part.score != AGREEMENT for part in made.parts)
    if made.method == AGREEMENT:
        trusts = np.array([reliability(r, made) for r in found])
        assert trusts[np.array(qualities) == 1].mean() > trusts[np.array(qualities) == 0].mean() + 0.3
    return made.method


def test_it_is_taken_where_it_is_asked_for_and_frames_were_seen_otherwise() -> None:
    assert fitted(AGREEMENT, seen=True) == AGREEMENT
    # A learner has no images; whoever has calibrates with it again.
    assert fitted(AGREEMENT, seen=False) == "max-probability"
    assert fitted(AUTO, seen=True) != AGREEMENT
    assert fitted(COMBINED, seen=True) == COMBINED
