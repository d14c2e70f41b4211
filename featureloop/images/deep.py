"""What more than 8 bits hold: a frame's own values beside the picture of them, for who sets window and level."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureloop.core.types import Deep, UInt8

MOST = 65_535
_SHALLOW = 256
"""Values that 8 bits show as they are."""


def deep_of(values: NDArray[Any], shown: UInt8) -> Deep | None:
    """The values of a grey frame, rising with its brightness, and which of them are shown black and white.

    Parameters
    ----------
    values
        (H, W), stored or rescaled, integers or floats, finite.
    shown
        uint8 (H, W), the picture made of them.

    Returns
    -------
    Deep | None
        None where 8 bits hold all of them, or they are finite nowhere.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all() or high - low < _SHALLOW:
        return None
    steps = 1.0 if values.dtype.kind in "iu" and high - low <= MOST else MOST / (high - low)
    counted = np.rint((values.astype(np.float64) - low) * steps).astype(np.uint16)
    if _falls(counted, shown):
        counted = counted.max() - counted
    black, white = counted[shown == 0], counted[shown == 255]
    bottom = int(black.max()) if black.size else int(counted.min())
    top = int(white.min()) if white.size else int(counted.max())
    return Deep(counted, bottom, top) if bottom < top else Deep(counted, int(counted.min()), int(counted.max()))


def _falls(values: NDArray[np.uint16], shown: UInt8) -> bool:
    """Whether larger values are shown darker."""
    a, b = values.astype(np.float64), shown.astype(np.float64)
    return float(((a - a.mean()) * (b - b.mean())).sum()) < 0
