"""Connected parts of a mask, and their boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featureloop.core.boxes import Box

SPECK = 2e-4
"""A part of a drawn mask whose box is a smaller share of the frame is a slip of the pen, and no lesion."""


def lesion_boxes(mask: NDArray[np.bool_], *, least: float = 0.0) -> tuple[Box, ...]:
    """The bounding box of every part of a mask; parts touch by sides or corners.

    Works on runs of True within rows, joined where they touch a run of the row
    above, so its time grows with the outline and not with the area.

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
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    parent = list(range(len(rows)))
    above: list[int] = []
    current: list[int] = []
    row = -2
    for run, y in enumerate(rows.tolist()):
        if y != row:
            above = current if y == row + 1 else []
            current, row = [], y
        for other in above:
            if starts[other] <= ends[run] and starts[run] <= ends[other]:
                parent[_root(parent, other)] = _root(parent, run)
        current.append(run)
    extents: dict[int, tuple[int, int, int, int]] = {}
    for run in range(len(rows)):
        y, x0, x1 = int(rows[run]), int(starts[run]), int(ends[run])
        left, top, right, bottom = extents.get(_root(parent, run), (width, height, 0, 0))
        extents[_root(parent, run)] = (min(left, x0), min(top, y), max(right, x1), max(bottom, y + 1))
    found = (
        Box((left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height)
        for left, top, right, bottom in sorted(extents.values(), key=lambda e: (e[1], e[0]))
    )
    return tuple(box for box in found if box.width * box.height >= least)


def _root(parent: list[int], run: int) -> int:
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run
