"""The field of view: where a frame shows anything but a flat black border."""

from __future__ import annotations

import numpy as np

from featureloop.core.types import Bool, UInt8
from featureloop.model.preprocess import resize_frame

BLACK = 20
"""Values up to it, of 255, are black: what compression leaves of a border."""
FINE = 8
"""Samples per side of a position."""


def field_of_view(pixels: UInt8, grid: int) -> Bool:
    """Which positions of a grid x grid map are not wholly in the black border, bool (grid * grid,).

    The border is what is black and hangs together with the frame's edge, so that dark parts inside stay.

    Parameters
    ----------
    pixels
        uint8 (H, W, 3).
    """
    brightest = resize_frame(pixels, grid * FINE).reshape(grid, FINE, grid, FINE, 3).max(axis=(1, 3, 4))
    dark: Bool = brightest <= BLACK
    border = np.zeros_like(dark)
    border[[0, -1]], border[:, [0, -1]] = dark[[0, -1]], dark[:, [0, -1]]
    while True:
        grown = border.copy()
        grown[1:] |= border[:-1]
        grown[:-1] |= border[1:]
        grown[:, 1:] |= border[:, :-1]
        grown[:, :-1] |= border[:, 1:]
        grown &= dark
        if (grown == border).all():
            return np.asarray(~border.reshape(-1))
        border = grown
