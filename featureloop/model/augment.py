"""Augmentation of endoscope-like frames: geometry, colour, light and blur, drawn from a seed."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from featureloop.core.types import Bool, UInt8


def augment(pixels: UInt8, mask: Bool | None, rng: np.random.Generator) -> tuple[UInt8, Bool | None]:
    """A randomly changed frame uint8 (S, S, 3), and its mask bool (S, S) moved along with it."""
    size = pixels.shape[0]
    matrix = _random_affine(rng, size)
    image = Image.fromarray(pixels).transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    moved = None
    if mask is not None:
        picture = Image.fromarray(mask.astype(np.uint8) * 255)
        moved = np.asarray(picture.transform((size, size), Image.Transform.AFFINE, matrix)) >= 128
    return _random_appearance(image, rng), moved


def _random_affine(rng: np.random.Generator, size: int) -> tuple[float, ...]:
    """Output-to-input coefficients of a flip, rotation, scaling and shift about the centre."""
    angle = rng.uniform(-math.pi, math.pi) if rng.random() < 0.5 else rng.uniform(-0.35, 0.35)
    scale = math.exp(rng.uniform(-0.35, 0.3))
    stretch = math.exp(rng.uniform(-0.15, 0.15))
    flip = -1.0 if rng.random() < 0.5 else 1.0
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    a, b = flip * cos * stretch, sin
    d, e = -flip * sin * stretch, cos
    half = size / 2
    shift_x, shift_y = rng.uniform(-0.12, 0.12, 2) * size
    return a, b, half - a * half - b * half + shift_x, d, e, half - d * half - e * half + shift_y


def _random_appearance(image: Image.Image, rng: np.random.Generator) -> UInt8:
    """Random brightness, contrast, saturation, colour cast, gamma and blur."""
    image = ImageEnhance.Color(image).enhance(rng.uniform(0.5, 1.6))
    image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.65, 1.4))
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.6)))
    x = np.arange(256, dtype=np.float32) / 255
    table = []
    gamma = math.exp(rng.uniform(-0.4, 0.4))
    for gain in np.exp(rng.uniform(-0.25, 0.25, 3) + rng.uniform(-0.2, 0.2)):
        table += np.clip(255 * gain * x**gamma, 0, 255).astype(np.uint8).tolist()
    return np.asarray(image.point(table))
