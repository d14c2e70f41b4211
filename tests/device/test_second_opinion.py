"""Second opinions: a view of the frame is mapped back to where it was, and another package answers on our positions."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from featureloop.core.boxes import Box, boxes_to_rows
from featureloop.core.errors import PackageError, PolicyError
from featureloop.core.types import Frame, Recognition, Task, UInt8
from featureloop.device.second_opinion import Another, Otherwise, _on_grid, second_opinion_for
from featureloop.model.manifest import MeanMap
from featureloop.model.preprocess import mask_to_targets
from featureloop.model.runtime import Runtime
from featureloop.sharing.policy import Policy, Share
from featureloop.sharing.reliability import reliability
from featureloop.sharing.views import FREE, UPRIGHT, View, views_for
from featureloop.testing import tiny_package, tiny_package_of

GRID, SIZE = 6, 96
ALL_VIEWS = [View(mirrored, quarters) for mirrored, quarters in product((False, True), range(4))]


def seen(task: Task, pixels: UInt8) -> Recognition:
    """What a recognizer that sees bright pixels says of a frame."""
    mask = pixels[..., 0] > 128
    if task is Task.SEGMENTATION:
        return Recognition(task, mask_to_targets(mask, GRID).astype(np.float32))
    y, x = np.nonzero(mask)
    x0, y0, x1, y1 = x.min() / SIZE, y.min() / SIZE, (x.max() + 1) / SIZE, (y.max() + 1) / SIZE
    rows = boxes_to_rows([Box((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)], labels=1, grid=GRID)
    return Recognition(task, rows[:, :1].astype(np.float32), (rows[:, 1:] / 255).astype(np.float32))


@pytest.mark.parametrize("view", ALL_VIEWS, ids=str)
@pytest.mark.parametrize("task", [Task.SEGMENTATION, Task.DETECTION])
def test_what_is_seen_in_a_view_is_mapped_back_to_where_it_is(task: Task, view: View) -> None:
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[8:56, 28:92] = 255
    back, direct = view.undone(seen(task, view.of(pixels))), seen(task, pixels)
    np.testing.assert_array_equal(back.probabilities, direct.probabilities)
    if direct.distances is not None and back.distances is not None:
        np.testing.assert_allclose(back.distances, direct.distances, atol=1 / 255)


def test_a_result_for_the_whole_frame_is_the_same_from_every_view() -> None:
    found = Recognition(Task.CLASSIFICATION, np.array([[0.2, 0.8]], np.float32))
    assert all(view.undone(found) is found for view in ALL_VIEWS)


def test_grey_frames_are_mirrored_only_and_frames_in_colour_are_turned_too() -> None:
    grey = np.repeat(np.random.default_rng(1).integers(0, 256, (8, 8, 1)), 3, axis=2).astype(np.uint8)
    colour = grey.copy()
    colour[0, 0, 0] ^= 255
    assert views_for(grey) == UPRIGHT
    assert views_for(colour) == FREE
    assert all(not view.quarters for view in UPRIGHT)
    assert len({view.of(colour).tobytes() for view in FREE} | {colour.tobytes()}) == 5


@pytest.mark.parametrize("task", list(Task))
def test_of_the_same_package_it_is_the_mean_over_the_views(task: Task, tmp_path: Path) -> None:
    runtime = Runtime(tiny_package(tmp_path / "package", task=str(task)), threads=1)
    pixels = np.random.default_rng(2).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    frame = Frame(np.ascontiguousarray((pixels + pixels[:, ::-1]) // 2), "frame")
    from featureloop.sharing.anonymize import release_vectors

    released = runtime.package.manifest.released
    own = runtime.recognize(release_vectors(runtime.extract(frame.pixels), released))
    opinion = Otherwise(runtime).look_again(frame, own)
    assert opinion is not None
    assert opinion.recognition.probabilities.shape == own.probabilities.shape
    every = [own] + [
        view.undone(runtime.recognize(release_vectors(runtime.extract(view.of(frame.pixels)), released)))
        for view in FREE
    ]
    mean = np.mean([r.probabilities for r in every], axis=0)
    np.testing.assert_allclose(opinion.recognition.probabilities, mean, atol=1e-6)
    assert 0 <= opinion.reliability <= 1


def test_means_are_judged_by_their_own_map_where_there_is_one(tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "package")
    frame = Frame(np.random.default_rng(4).integers(0, 256, (64, 64, 3)).astype(np.uint8), "frame")
    trusts = []
    for of_mean in (None, MeanMap((0.0, 1.0), (0.25, 0.25), "isotonic", 9)):
        calibration = replace(package.manifest.calibration, of_mean=of_mean)
        runtime = Runtime(replace(package, manifest=replace(package.manifest, calibration=calibration)), threads=1)
        own = runtime.recognize(runtime.extract(frame.pixels))
        opinion = Otherwise(runtime).look_again(frame, own)
        assert opinion is not None
        trusts.append(opinion.reliability)
    assert trusts[0] == reliability(opinion.recognition, package.manifest.calibration)
    assert trusts[1] == 0.25 != trusts[0]


@pytest.mark.parametrize("task", [Task.SEGMENTATION, Task.DETECTION])
@pytest.mark.parametrize("other", [3, 6, 9, 12])
def test_on_another_grid_it_says_the_same_of_the_same_places(task: Task, other: int) -> None:
    box = Box(0.5, 0.45, 0.62, 0.5)
    rows = boxes_to_rows([box], labels=1, grid=other)
    mask = np.zeros((144, 144), np.bool_)
    mask[29:101, 27:117] = True
    found = (
        Recognition(task, mask_to_targets(mask, other).astype(np.float32))
        if task is Task.SEGMENTATION
        else Recognition(task, rows[:, :1].astype(np.float32), (rows[:, 1:] / 255).astype(np.float32))
    )
    moved = _on_grid(found, GRID)
    assert len(moved.probabilities) == GRID**2
    if task is Task.DETECTION:
        (back,) = [b for b in moved.boxes() if b.score >= 0.5]
        assert back.corners() == pytest.approx(box.corners(), abs=0.03)
    else:
        truth = mask_to_targets(mask, GRID)
        both = int((moved.targets() & truth).sum())
        assert 2 * both / (int(moved.targets().sum()) + int(truth.sum())) > 0.88


SECOND = Share(below_threshold=("second-opinion", "ask"))


def test_another_package_answers_with_its_own_result_and_reliability(tmp_path: Path) -> None:
    one, other = (tiny_package(tmp_path / str(i), seed=i, size=64 + 32 * i) for i in range(2))
    runtime = Runtime(one, threads=1)
    second = second_opinion_for(Policy(replace(SECOND, second_opinion=tmp_path / "1")), runtime, threads=1)
    assert isinstance(second, Another)
    pixels = np.random.default_rng(3).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    own = runtime.recognize(runtime.extract(pixels))
    opinion = second.look_again(Frame(pixels, "frame"), own)
    assert opinion is not None
    assert opinion.recognition.probabilities.shape == own.probabilities.shape
    theirs = Runtime(other, threads=1)
    direct = theirs.recognize(theirs.extract(pixels))
    assert math.isqrt(len(direct.probabilities)) != math.isqrt(len(own.probabilities))
    np.testing.assert_array_equal(_on_grid(direct, 4).probabilities, opinion.recognition.probabilities)


def test_a_package_of_another_task_or_of_other_labels_is_refused(tmp_path: Path) -> None:
    runtime = Runtime(tiny_package(tmp_path / "own"), threads=1)
    tiny_package(tmp_path / "classes", task="classification")
    for folder, error, words in (
        ("classes", PolicyError, "has the tasks classification"),
        ("missing", PackageError, "second_opinion"),
    ):
        with pytest.raises(error, match=words):
            second_opinion_for(Policy(replace(SECOND, second_opinion=tmp_path / folder)), runtime)
    renamed = replace(runtime.package, manifest=replace(runtime.package.manifest, labels=("polyp",)))
    with pytest.raises(PolicyError, match="knows lesion in segmentation, the package in use polyp"):
        second_opinion_for(
            Policy(replace(SECOND, second_opinion=tmp_path / "own")), Runtime(renamed, threads=1), threads=1
        )


def test_a_task_that_the_other_package_lacks_has_no_second_opinion(tmp_path: Path) -> None:
    runtime = Runtime(tiny_package_of(tmp_path / "own", "segmentation", "classification"), threads=1)
    tiny_package(tmp_path / "other", seed=1)
    second = second_opinion_for(Policy(replace(SECOND, second_opinion=tmp_path / "other")), runtime, threads=1)
    assert second is not None
    frame = Frame(np.zeros((64, 64, 3), np.uint8), "frame")
    assert second.look_again(frame, Recognition(Task.CLASSIFICATION, np.ones((1, 3), np.float32) / 3)) is None


def test_without_the_step_nobody_is_asked(tmp_path: Path) -> None:
    runtime = Runtime(tiny_package(tmp_path / "own"), threads=1)
    assert second_opinion_for(Policy(), runtime) is None
    assert isinstance(second_opinion_for(Policy(SECOND), runtime), Otherwise)
