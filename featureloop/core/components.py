"""Connected parts of a mask."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from featureloop.core.boxes import Box

SPECK = 2e-4
"""A part of a drawn mask whose box is a smaller share of the frame is a slip of the pen, and no lesion."""


def lesion_boxes(mask: NDArray[np.bool_], *, least: float = 0.0) -> tuple[Box, ...]:
    """The bounding box of every part of a mask; parts touch by sides or corners.

    Parameters
    ----------
    mask
        bool (H, W).
    least
        Parts whose box is a smaller share of the frame are left out.

    Returns
    -------
    tuple[Box, ...]
        From top to bottom, then left to right; each covers its pixels exactly.
    """
    height, width = mask.shape
    runs = _Runs(mask)
    extents: dict[int, tuple[int, int, int, int]] = {}
    for part, y, x0, x1 in runs:
        left, top, right, bottom = extents.get(part, (width, height, 0, 0))
        extents[part] = (min(left, x0), min(top, y), max(right, x1), max(bottom, y + 1))
    found = (
        Box((left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height)
        for left, top, right, bottom in sorted(extents.values(), key=lambda e: (e[1], e[0]))
    )
    return tuple(box for box in found if box.width * box.height >= least)


def largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The part of a mask bool (H, W) with the most pixels, the first of equal ones; parts touch by sides or corners."""
    area: dict[int, int] = {}
    runs = [*_Runs(mask)]
    for part, _, x0, x1 in runs:
        area[part] = area.get(part, 0) + x1 - x0
    out = np.zeros_like(mask)
    if area:
        most = max(area, key=lambda part: area[part])
        for part, y, x0, x1 in runs:
            out[y, x0:x1] |= part == most
    return out


class _Runs:
    """The runs of True within a mask's rows, joined where they touch one of the row above.

    So the time grows with the outline and not with the area. Iterates over (part, y, first x, x after the last).
    """

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
        rows, starts = np.nonzero(edges == 1)
        ends = np.nonzero(edges == -1)[1]
        self._rows, self._starts, self._ends = rows.tolist(), starts.tolist(), ends.tolist()
        self._parent = list(range(len(rows)))
        above: list[int] = []
        current: list[int] = []
        row = -2
        for run, y in enumerate(self._rows):
            if y != row:
                above = current if y == row + 1 else []
                current, row = [], y
            for other in above:
                if self._starts[other] <= self._ends[run] and self._starts[run] <= self._ends[other]:
                    self._parent[self._root(other)] = self._root(run)
            current.append(run)

    def __iter__(self) -> Iterator[tuple[int, int, int, int]]:
        for run, where in enumerate(zip(self._rows, self._starts, self._ends, strict=True)):
            yield self._root(run), *where

    def _root(self, run: int) -> int:
        parent = self._parent
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run
