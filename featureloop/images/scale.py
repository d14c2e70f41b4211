"""The declared rules by which any values become uint8."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import InputError
from featureloop.core.types import Float32, UInt8

_DEPTHS: Final = (8, 12, 16)


def to_uint8(values: NDArray[Any]) -> UInt8:
    """Scale an image's values of any type to 0..255.

    The rules, in this order:

    - bool: 0 and 255;
    - uint8: as they are;
    - integers of 0 to 65535: linearly by the range of the smallest of 8, 12
      and 16 bits that holds the largest value (cameras store 12 bits in 16);
    - floats that all lie in [0, 1]: times 255;
    - everything else (negative, wider, other floats): linearly from its
      smallest to its largest value.

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
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return stretch(values, 0.0, 1.0)
    if values.dtype.kind != "f" and low >= 0 and high <= 65535:
        return stretch(values, 0.0, float(2 ** next(d for d in _DEPTHS if high < 2**d) - 1))
    return stretch(values, low, high)


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
