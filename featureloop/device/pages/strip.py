"""What a record's features look like: a strip of colours, a column for every vector, a row for every channel."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from featureloop.core.types import UInt8

_RAMP = ((13, 22, 48), (22, 70, 106), (20, 122, 126), (70, 176, 128), (178, 218, 122), (252, 246, 196))
"""From low to high: rising evenly in lightness, so that it reads without its hues, too."""


def _palette() -> list[int]:
    at = np.linspace(0, len(_RAMP) - 1, 256)
    return (
        np.rint([np.interp(at, range(len(_RAMP)), [c[i] for c in _RAMP]) for i in range(3)])
        .T.astype(int)
        .ravel()
        .tolist()
    )


def strip_png(symbols: UInt8, levels: tuple[int, ...]) -> bytes:
    """Quantized values uint8 (N, C) as PNG: C rows of N pixels; of one vector, one row of C pixels.

    Parameters
    ----------
    levels
        Of each channel how many values there are.
    """
    top = np.maximum(np.array(levels, np.float64) - 1, 1)
    shades = np.rint(symbols / top * 255).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(shades if len(shades) == 1 else shades.T), "L")
    return _png(picture)


def rows_png(rows: UInt8) -> bytes:
    """Of every row of flags uint8 (N, T) the share that is set, as PNG: one row of N pixels."""
    shares = np.rint(np.clip(rows.astype(np.float64), 0, 1).mean(axis=1) * 255).astype(np.uint8)
    return _png(Image.fromarray(shares[None], "L"))


def _png(picture: Image.Image) -> bytes:
    picture.putpalette(_palette())
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
