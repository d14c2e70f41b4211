"""Which positions of a map are in the field of view."""

from __future__ import annotations

import numpy as np
from PIL import Image

from featureloop.core.types import Bool, UInt8
from featureloop.model.field_of_view import field_of_view

LEAST = 0.1
"""Share of a position's pixels that must be in view."""


def positions_in_view(pixels: UInt8, grid: int) -> Bool:
    """The positions of a grid x grid map that are in a frame's field of view, bool (grid * grid,) in the map's order.

    Parameters
    ----------
    pixels
        uint8 (H, W, 3).
    """
    seen = Image.fromarray(field_of_view(pixels).astype(np.float32)).resize((grid, grid), Image.Resampling.BOX)
    return np.asarray(np.asarray(seen).reshape(-1) >= LEAST)
