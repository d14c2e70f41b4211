"""Takes: another picture of what a frame shows, for those who hold a copy, and where patients have one image each."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageEnhance

from featureloop.core.ahead import cores, work_ahead
from featureloop.core.types import Frame, UInt8

ANGLE, CROP, LIGHT, NOISE = 0.14, 0.12, 0.15, 4.0
"""Most radians of turning, share of a side that is cut off, change of light, and levels of noise, at strength 1."""
QUALITY = (60, 95)
"""Of the JPEG that a take went through."""


def take(pixels: UInt8, rng: np.random.Generator, *, strength: float = 1.0) -> UInt8:
    """Another take of a frame uint8 (S, S, 3): cut, turned, lit and coded a little differently, with new noise.

    Parameters
    ----------
    strength
        1 is a copy that went through another system; 3 a view from elsewhere, as of a moving camera.
    """
    size = pixels.shape[0]
    image = Image.fromarray(pixels).transform(
        (size, size), Image.Transform.AFFINE, _view(rng, size, strength), Image.Resampling.BILINEAR
    )
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhancer(image).enhance(1.0 + float(rng.uniform(-1, 1)) * min(0.5, LIGHT * strength))
    noisy = np.asarray(image, np.float32) + rng.normal(0.0, NOISE, pixels.shape).astype(np.float32)
    sink = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(sink, "JPEG", quality=int(rng.integers(*QUALITY)))
    return np.asarray(Image.open(sink))


def takes_of(frames: Sequence[Frame], *, seed: tuple[int, ...], strength: float = 1.0) -> list[Frame]:
    """One take of each frame."""

    def taken(at: int) -> Frame:
        rng = np.random.default_rng((*seed, at))
        return replace(frames[at], pixels=take(frames[at].pixels, rng, strength=strength), truth=None)

    return list(work_ahead(range(len(frames)), taken, at_once=cores(), ahead=cores()))


def _view(rng: np.random.Generator, size: int, strength: float) -> tuple[float, ...]:
    """Output-to-input coefficients of a cut and a turn; a strong one may also mirror."""
    angle = float(rng.uniform(-1, 1)) * min(math.pi, ANGLE * strength)
    side = 1.0 - float(rng.uniform(0, 1)) * min(0.5, CROP * strength)
    flip = -1.0 if strength > 1 and rng.random() < 0.25 else 1.0
    cos, sin = side * math.cos(angle), side * math.sin(angle)
    middle, room = size / 2, (1.0 - side) * size / 2
    x, y = middle + room * rng.uniform(-1, 1, 2)
    return flip * cos, sin, x - middle * (flip * cos + sin), -flip * sin, cos, y - middle * (cos - flip * sin)
