"""The field of view: what an image shows of the patient, without the black border and what is written on it.

An endoscope's picture is a disc or an octagon on black, an ultrasound's a sector, a CT's or an MR's the body. Around
it stand names, dates and numbers. What is outside is set to black before anything is extracted, so that no feature
can tell of it. Writing inside the field of view stays: that is the source's to remove.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from featureloop.core.components import largest_part
from featureloop.core.types import Bool, UInt8

SIDE = 80
"""The field of view is looked for at this many cells of the shorter side, at least."""
DARK = 32
"""A cell whose brightest channel is darker on average shows nothing."""
THICK = 5
"""What is thinner than so many cells is writing or a line, and no part of the field of view."""
LEAST_SHARE = 0.1
"""A field of view smaller than this share of the frame is a mistake: the frame is dark, and stays as it is."""


def field_of_view(pixels: UInt8) -> Bool:
    """Where a frame shows something: the convex hull of its largest thick part that isn't dark.

    Parameters
    ----------
    pixels
        uint8 (H, W, 3).

    Returns
    -------
    Bool
        bool (H, W); True everywhere where no dark border was found.
    """
    drawn = _drawn(pixels)
    return np.ones(pixels.shape[:2], np.bool_) if drawn is None else np.asarray(drawn, np.bool_)


def blank_outside(pixels: UInt8) -> UInt8:
    """The frame, black outside its field of view: uint8 (H, W, 3)."""
    drawn = _drawn(pixels)
    if drawn is None:
        return pixels
    whole = Image.fromarray(pixels)
    return np.asarray(Image.composite(whole, Image.new("RGB", whole.size), drawn))


def _drawn(pixels: UInt8) -> Image.Image | None:
    """The field of view as a picture of the frame's size, in two colours; None where it is all of it."""
    height, width = pixels.shape[:2]
    step = max(1, min(height, width) // SIDE)
    small = np.asarray(Image.fromarray(pixels).reduce(step))
    bright = np.maximum(np.maximum(small[..., 0], small[..., 1]), small[..., 2]) >= DARK
    part = largest_part(_thick(bright))
    if part.mean() < LEAST_SHARE or part.all():
        return None
    drawn = Image.new("1", (width, height))
    corners = [(min(x * step, width), min(y * step, height)) for x, y in _hull(part)]
    ImageDraw.Draw(drawn).polygon(corners, fill=1)
    return drawn


def _thick(mask: Bool) -> Bool:
    """What is left of a mask without its thin parts (an opening); beyond the frame's edge it goes on as at the edge."""
    reach = THICK // 2
    padded = np.pad(mask, 2 * reach, mode="edge")
    for axis in (0, 1):
        padded = _over(np.logical_and, padded, axis)
    for axis in (0, 1):
        padded = _over(np.logical_or, padded, axis)
    return padded


def _over(join: np.ufunc, mask: Bool, axis: int) -> Bool:
    """Every `THICK` neighbours along an axis joined into one; the axis gets shorter by one less."""
    length = mask.shape[axis] - THICK + 1
    windows = [mask.take(range(i, i + length), axis=axis) for i in range(THICK)]
    return np.asarray(join.reduce(windows), np.bool_)


def _hull(part: Bool) -> list[tuple[int, int]]:
    """The convex hull of a mask's cells, as the corners (x, y) of a polygon around them (Andrew's monotone chain)."""
    rows = np.flatnonzero(part.any(axis=1))
    left = part[rows].argmax(axis=1)
    right = part.shape[1] - part[rows][:, ::-1].argmax(axis=1)
    ends = zip(rows.tolist(), left.tolist(), right.tolist(), strict=True)
    points = sorted({(x, y) for row, a, b in ends for x in (a, b) for y in (row, row + 1)})
    lower, upper = _chain(points), _chain(points[::-1])
    return lower[:-1] + upper[:-1]


def _chain(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    chain: list[tuple[int, int]] = []
    for p in points:
        while len(chain) > 1 and _turn(chain[-2], chain[-1], p) <= 0:
            chain.pop()
        chain.append(p)
    return chain


def _turn(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> int:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
