"""From frames and masks to the extractor's input and the rows of targets, and back.

The same numpy code runs in training and on the device.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from featureloop.core.types import Bool, Float32, UInt8
from featureloop.model.field_of_view import blank_outside
from featureloop.model.manifest import Preprocessing

SUBCELLS = 4
"""Sub-cells per side of a position: a stride-16 grid draws a stride-4 mask."""


def resize_frame(pixels: UInt8, size: int) -> UInt8:
    """uint8 (H, W, 3) to uint8 (size, size, 3), antialiased, the aspect ratio given up."""
    if pixels.shape[:2] == (size, size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


def to_input(pixels: UInt8, preprocessing: Preprocessing) -> Float32:
    """uint8 (H, W, 3) to the extractor's input, float32 (1, 3, size, size)."""
    small = resize_frame(pixels, preprocessing.size)
    if preprocessing.blank_border:
        small = blank_outside(small)
    x = (small.astype(np.float32) - np.float32(preprocessing.mean)) / np.float32(preprocessing.scale)
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None])


def mask_to_targets(mask: Bool, grid: int) -> UInt8:
    """Mask bool (H, W) to rows of targets, uint8 (grid * grid, 16): 1 where at least half a sub-cell is lesion."""
    side = grid * SUBCELLS
    area = Image.fromarray(mask.astype(np.float32)).resize((side, side), Image.Resampling.BOX)
    # In float32 a sum of shares that is exactly one half may end a little below it.
    return cells_to_rows((np.asarray(area) >= 0.5 - 1e-5).astype(np.uint8), grid)


def cells_to_rows(cells: UInt8, grid: int) -> UInt8:
    """(4 grid, 4 grid) sub-cells to (grid * grid, 16) rows, one row per position."""
    s = SUBCELLS
    return cells.reshape(grid, s, grid, s).transpose(0, 2, 1, 3).reshape(grid * grid, s * s)


def rows_to_cells(rows: Float32, grid: int) -> Float32:
    """(grid * grid, 16) rows on the map to float32 (4 grid, 4 grid) sub-cells."""
    s = SUBCELLS
    return rows.reshape(grid, grid, s, s).transpose(0, 2, 1, 3).reshape(grid * s, grid * s)


def probability_map(rows: Float32, grid: int, *, height: int, width: int) -> Float32:
    """Rows of lesion probabilities as a picture, float32 (height, width), interpolated linearly."""
    cells = Image.fromarray(np.ascontiguousarray(rows_to_cells(rows, grid), np.float32))
    return np.asarray(cells.resize((width, height), Image.Resampling.BILINEAR))


def label_to_targets(label: int, classes: int) -> UInt8:
    """A class index as one row of targets, uint8 (1, classes)."""
    row = np.zeros((1, classes), np.uint8)
    row[0, label] = 1
    return row
