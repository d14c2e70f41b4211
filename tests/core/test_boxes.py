"""Boxes as rows of targets: nothing is lost on the way there and back, and no coordinate is needed to compare them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from featureloop.core.boxes import (
    OUTSIDE,
    SYMBOLS,
    Box,
    box_between,
    boxes_to_rows,
    code_distances,
    decode_distances,
    distance_overlap,
    move_box,
    overlaps,
    rows_to_boxes,
)

SHARE = st.floats(0, 1)


@st.composite
def boxes(draw: st.DrawFn, least: float = 0.01) -> Box:
    width, height = draw(st.floats(least, 1)), draw(st.floats(least, 1))
    left, top = draw(st.floats(0, 1 - width)), draw(st.floats(0, 1 - height))
    return box_between(left, top, left + width, top + height, label=draw(st.integers(0, 2)))


def back(rows: np.ndarray) -> tuple[Box, ...]:
    return rows_to_boxes(rows[:, :3].astype(np.float32), rows[:, 3:] / SYMBOLS)


def overlap(a: Box, b: Box) -> float:
    return float(overlaps(np.array([a.corners()]), np.array([b.corners()]))[0, 0])


@settings(max_examples=200, deadline=None)
@given(boxes(least=0.03), st.sampled_from([10, 20, 32]))
def test_a_box_comes_back_from_its_rows(box: Box, grid: int) -> None:
    (found,) = back(boxes_to_rows([box], labels=3, grid=grid))
    assert found.label == box.label
    assert overlap(found, box) > 0.85


@given(boxes(), st.integers(4, 40))
def test_every_box_has_a_row_however_small_it_is(box: Box, grid: int) -> None:
    rows = boxes_to_rows([box], labels=3, grid=grid)
    told = rows[:, :3].any(axis=1)
    assert told.any()
    assert not rows[~told].any()
    assert (rows[told, :3] == (np.arange(3) == box.label)).all()


def test_two_lesions_stay_two_and_the_smaller_one_wins_where_they_overlap() -> None:
    large, small = Box(0.5, 0.5, 0.8, 0.8, label=0), Box(0.55, 0.5, 0.2, 0.2, label=1)
    found = {b.label: b for b in back(boxes_to_rows([small, large], labels=3, grid=20))}
    assert set(found) == {0, 1}
    assert overlap(found[0], large) > 0.9
    assert overlap(found[1], small) > 0.9


def test_no_box_is_no_row_and_no_row_no_box() -> None:
    rows = boxes_to_rows([], labels=3, grid=6)
    assert not rows.any()
    assert back(rows) == ()


def test_of_boxes_that_overlap_the_best_is_kept_and_the_others_vote_for_its_sides() -> None:
    scores, coded = np.zeros((16, 1), np.float32), np.zeros((16, 4))
    at = np.array([[0.375, 0.375], [0.625, 0.625]])
    sides = np.array([[0.25, 0.25, 0.75, 0.75], [0.25, 0.25, 0.85, 0.75]])
    for row, score, p, s in zip((5, 10), (0.9, 0.3), at, sides, strict=True):
        scores[row] = score
        coded[row] = code_distances(np.array([p[0] - s[0], p[1] - s[1], s[2] - p[0], s[3] - p[1]]))
    (found,) = rows_to_boxes(scores, coded)
    assert found.score == pytest.approx(0.9)
    assert found.corners() == pytest.approx((0.25, 0.25, (0.9 * 0.75 + 0.3 * 0.85) / 1.2, 0.75), abs=1e-6)


@given(st.floats(-OUTSIDE, 1))
def test_distances_are_coded_within_a_hundredth_and_finer_where_small(distance: float) -> None:
    symbol = np.rint(code_distances(np.array([distance])) * SYMBOLS)
    error = abs(float(decode_distances(symbol / SYMBOLS)[0]) - distance)
    assert error < 0.0045
    if abs(distance) < 0.03:
        assert error < 0.0015


@given(boxes(), boxes(), SHARE, SHARE)
def test_the_overlap_seen_from_a_position_inside_both_is_the_overlap(a: Box, b: Box, u: float, v: float) -> None:
    x0, y0 = max(a.corners()[0], b.corners()[0]), max(a.corners()[1], b.corners()[1])
    x1, y1 = min(a.corners()[2], b.corners()[2]), min(a.corners()[3], b.corners()[3])
    assume(x0 < x1 and y0 < y1)
    x, y = x0 + u * (x1 - x0), y0 + v * (y1 - y0)

    def seen(box: Box) -> np.ndarray:
        left, top, right, bottom = box.corners()
        return np.array([[x - left, y - top, right - x, bottom - y]])

    assert distance_overlap(seen(a), seen(b))[0] == pytest.approx(overlap(a, b), abs=1e-9)


def test_a_moved_box_holds_the_moved_ellipse_and_one_that_left_the_frame_is_gone() -> None:
    box = Box(0.5, 0.5, 0.4, 0.2)
    c, s = np.cos(0.5), np.sin(0.5)
    matrix = (c, -s, 0.5 - 0.5 * c + 0.5 * s, s, c, 0.5 - 0.5 * s - 0.5 * c)
    moved = move_box(box, matrix)
    t = np.linspace(0, 2 * np.pi, 5000)
    x, y = 0.5 + 0.2 * np.cos(t), 0.5 + 0.1 * np.sin(t)
    xs, ys = matrix[0] * x + matrix[1] * y + matrix[2], matrix[3] * x + matrix[4] * y + matrix[5]
    assert moved is not None
    assert moved.corners() == pytest.approx((xs.min(), ys.min(), xs.max(), ys.max()), abs=1e-6)
    assert move_box(box, (1, 0, 0.65, 0, 1, 0)) is None


def test_rows_of_one_box_tell_how_their_positions_stand_to_each_other() -> None:
    """A known limit: shuffled rows give the order inside a box back (benchmarks/measure_targets.py)."""
    grid, box = 20, Box(0.47, 0.55, 0.5, 0.4)
    rows = boxes_to_rows([box], labels=1, grid=grid)
    told = np.random.default_rng(1).permutation(np.flatnonzero(rows[:, 0]))
    distances = decode_distances(rows[told, 1:] / SYMBOLS)
    restored = np.rint((distances[:, :2] - distances[0, :2]) * grid)
    y, x = np.divmod(told, grid)
    np.testing.assert_array_equal(restored, np.stack([x - x[0], y - y[0]], axis=1))
