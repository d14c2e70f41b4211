"""Boxes, and the same boxes as rows of targets: what each position vector is told of the box that it stands in.

A row has one value a label, 1 where the position stands in the middle of such
a lesion, and four distances from the position to the box's left, top, right
and bottom side. Distances need no coordinate, so rows can be shuffled; with
the positions known again, they give the boxes back. Sources: Tian et al. 2019
(FCOS, arXiv:1904.01355); box voting, Gidaris & Komodakis 2015
(arXiv:1505.01749).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

SYMBOLS = 255
"""A coded distance is a whole number from 0 to this."""
MIDDLE = 0.5
"""The part of a box, along each side, whose positions answer for it."""
OUTSIDE = 1 / 16
"""How far outside its box, as a share of the frame, the nearest position may stand where boxes are tiny."""
LEAST_SCORE = 0.05
MOST_BOXES = 100
OVERLAP = 0.5
"""Of two boxes of one label that overlap (intersection over union) by more, one is dropped."""
_CANDIDATES = 400


@dataclass(frozen=True, slots=True)
class Box:
    """A lesion's box in relative coordinates of the frame, each in [0, 1].

    Attributes
    ----------
    x_center, y_center, width, height
        Shares of the frame's width and height.
    label
        Index of what it shows.
    score
        The calibrated probability that it is right; 1 where it is known.
    """

    x_center: float
    y_center: float
    width: float
    height: float
    label: int = 0
    score: float = 1.0

    def corners(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        dx, dy = self.width / 2, self.height / 2
        return self.x_center - dx, self.y_center - dy, self.x_center + dx, self.y_center + dy


def box_between(left: float, top: float, right: float, bottom: float, *, label: int = 0, score: float = 1.0) -> Box:
    """The box with these sides, cut off at the frame."""
    x0, y0, x1, y1 = (min(max(v, 0.0), 1.0) for v in (left, top, right, bottom))
    return Box((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, label, score)


def positions(grid: int) -> NDArray[np.float64]:
    """Where the positions of a grid x grid map stand: x and y in [0, 1], float64 (N, 2), row by row."""
    y, x = np.divmod(np.arange(grid * grid), grid)
    return (np.stack([x, y], axis=1) + 0.5) / grid


def code_distances(distances: NDArray[Any]) -> NDArray[np.float64]:
    """Distances as shares of the frame, in [-OUTSIDE, 1], to coded ones in [0, 1], finer where they are small."""
    return np.sqrt(np.clip((distances + OUTSIDE) / (1.0 + OUTSIDE), 0.0, 1.0))


def decode_distances(coded: NDArray[Any]) -> NDArray[np.float64]:
    """The inverse of `code_distances`."""
    return np.asarray(coded, np.float64) ** 2 * (1.0 + OUTSIDE) - OUTSIDE


def boxes_to_rows(boxes: Sequence[Box], *, labels: int, grid: int) -> NDArray[np.uint8]:
    """Boxes as rows of targets, uint8 (grid * grid, labels + 4).

    The positions in the middle of a box, at least the nearest one, answer for
    it; where boxes overlap, for the smallest. A row is 1 at the box's label,
    and holds the coded distances to its left, top, right and bottom side; the
    row of a position without a box is 0.

    Parameters
    ----------
    labels
        K; every box's label is below it.
    """
    at = positions(grid)
    rows = np.zeros((grid * grid, labels + 4), np.uint8)
    for box in sorted(boxes, key=lambda b: -b.width * b.height):
        dx, dy = np.abs(at[:, 0] - box.x_center), np.abs(at[:, 1] - box.y_center)
        least = 0.5 / grid + 1e-9
        inside = (dx <= max(MIDDLE * box.width / 2, least)) & (dy <= max(MIDDLE * box.height / 2, least))
        x0, y0, x1, y1 = box.corners()
        x, y = at[inside].T
        sides = np.stack([x - x0, y - y0, x1 - x, y1 - y], axis=1)
        rows[inside, :labels] = np.arange(labels) == box.label
        rows[inside, labels:] = np.rint(code_distances(sides) * SYMBOLS)
    return rows


def rows_to_boxes(scores: NDArray[Any], coded: NDArray[Any], *, least: float = LEAST_SCORE) -> tuple[Box, ...]:
    """The boxes in rows that stand in the map's order.

    Of each position's best label, boxes above `least` are kept from the best
    downwards; those of the same label that overlap one by more than `OVERLAP`
    are dropped, and vote for its sides by their scores.

    Parameters
    ----------
    scores
        (N, K) in [0, 1].
    coded
        Coded distances (N, 4) in [0, 1].

    Returns
    -------
    tuple[Box, ...]
        At most `MOST_BOXES`, the best first.
    """
    grid = math.isqrt(len(scores))
    best = scores.max(axis=1)
    order = np.argsort(-best, kind="stable")[:_CANDIDATES]
    order = order[best[order] >= least]
    at = positions(grid)[order]
    left, top, right, bottom = decode_distances(coded[order]).T
    sides = np.clip(np.stack([at[:, 0] - left, at[:, 1] - top, at[:, 0] + right, at[:, 1] + bottom], axis=1), 0, 1)
    label, score = scores[order].argmax(axis=1), best[order].astype(np.float64)
    found: list[Box] = []
    alive = (sides[:, 2] > sides[:, 0]) & (sides[:, 3] > sides[:, 1])
    for i in range(len(order)):
        if not alive[i] or len(found) == MOST_BOXES:
            continue
        same = alive & (label == label[i]) & (overlaps(sides[i : i + 1], sides)[0] > OVERLAP)
        voted = np.average(sides[same], axis=0, weights=score[same])
        found.append(box_between(*voted.tolist(), label=int(label[i]), score=float(score[i])))
        alive &= ~same
    return tuple(found)


def overlaps(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of boxes given by left, top, right, bottom: (A, 4) and (B, 4) to float64 (A, B)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(axis=1) for x in (a, b))
    union = area_a[:, None] + area_b[None] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0), np.float64)


def distance_overlap(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of boxes seen from the same positions: distances (N, 4) and (N, 4) to float64 (N,)."""
    shared = np.clip(np.minimum(a[:, :2], b[:, :2]) + np.minimum(a[:, 2:], b[:, 2:]), 0, None).prod(axis=1)
    area_a, area_b = (np.clip(x[:, :2] + x[:, 2:], 0, None).prod(axis=1) for x in (a, b))
    union = area_a + area_b - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0), np.float64)


def move_box(box: Box, matrix: tuple[float, ...]) -> Box | None:
    """A box under an affine map of relative coordinates, as if it held an ellipse; None where hardly any is left.

    Parameters
    ----------
    matrix
        a, b, c, d, e, f of x' = a x + b y + c, y' = d x + e y + f.
    """
    a, b, c, d, e, f = matrix
    x, y = a * box.x_center + b * box.y_center + c, d * box.x_center + e * box.y_center + f
    half_x = math.hypot(a * box.width, b * box.height) / 2
    half_y = math.hypot(d * box.width, e * box.height) / 2
    whole = 4 * half_x * half_y
    cut = replace(box_between(x - half_x, y - half_y, x + half_x, y + half_y), label=box.label, score=box.score)
    return cut if whole > 0 and cut.width * cut.height > 0.2 * whole else None
