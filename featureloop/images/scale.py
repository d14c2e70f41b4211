"""The declared rules by which any values become uint8."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import InputError
from featureloop.core.types import Float32, UInt8

OUTLIERS: Final = 1000
"""One of so many values may lie beyond either end of an image's range: a marker or a dead pixel darkens nothing."""


def to_uint8(values: NDArray[Any]) -> UInt8:
    """Scale an image's values of any type to 0..255.

    The rules, in this order:

    - bool: 0 and 255;
    - uint8: as they are;
    - the rest linearly over the range of `declared_range`, and clipped to it.

    Parameters
    ----------
    values
        Any shape, bool, integer or floating.

    Returns
    -------
    UInt8
        The same shape.

    Raises
    ------
    InputError
        The values are complex, or hold NaN or infinity.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "iuf":
        raise InputError(f"the values are of type {values.dtype}: save them as integers or floats")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = int(values.size - np.isfinite(values).sum())
        raise InputError(f"{bad} of {values.size} values are NaN or infinite: replace them before saving the image")
    return stretch(values, *declared_range(values))


def declared_range(values: NDArray[Any]) -> tuple[float, float]:
    """The values that become black and white in an image that says nothing of it; why so: docs/adr/009.

    From the smallest to the largest value, but for outliers (`robust_range`). Where
    none is negative, the range is at least that of 8 bits (of [0, 1] for floats), and
    black is 0; unless the values are farther from 0 than from each other (CT stored
    with an offset of 32768, say), for then they take the upper half of the range. All
    of this is continuous: a little more or less light is a little more or less in the
    picture, whatever the number of bits.

    Parameters
    ----------
    values
        Any shape, integer or floating, finite, not empty.
    """
    low, high = robust_range(values)
    if low < 0:
        return low, high
    least = 1.0 if values.dtype.kind == "f" else 255.0
    return max(0.0, min(2 * low - high, high - least)), max(least, high)


def robust_range(values: NDArray[Any]) -> tuple[float, float]:
    """The smallest and the largest of any values, one in `OUTLIERS` at either end left out; of all where one is left.

    A constant picture with a few outliers has their range, so that they are seen.
    """
    drop = values.size // OUTLIERS
    ordered = np.partition(values, (drop, values.size - 1 - drop), axis=None)
    low, high = float(ordered[drop]), float(ordered[values.size - 1 - drop])
    return (low, high) if low < high else (float(values.min()), float(values.max()))


def stretch(values: NDArray[Any], low: float, high: float) -> UInt8:
    """Map low..high linearly to 0..255, clipped and rounded; all 0 where low equals high.

    Parameters
    ----------
    values
        Any shape and real type.
    low, high
        The values that become 0 and 255.
    """
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    # In float64: the difference of two large floats or integers is exact enough there.
    unit = (values.astype(np.float64) - low) * (255.0 / (high - low))
    return np.asarray(np.rint(np.clip(unit, 0, 255)), np.uint8)


def grey_to_rgb(grey: UInt8) -> UInt8:
    """Repeat one channel, uint8 (H, W), as uint8 (H, W, 3)."""
    return np.repeat(grey[:, :, None], 3, axis=2)


def over_black(rgb: UInt8, alpha: UInt8) -> UInt8:
    """Lay a transparent image over black.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3).
    alpha
        uint8 (H, W), 255 where opaque.
    """
    if int(alpha.min()) == 255:
        return rgb
    weight: Float32 = alpha.astype(np.float32)[:, :, None] / np.float32(255)
    return np.asarray(np.rint(rgb * weight), np.uint8)
