"""Augmentation of endoscope-like frames: geometry, colour, light and blur, drawn from a seed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from featureloop.core.boxes import move_box
from featureloop.core.components import SPECK, lesion_boxes
from featureloop.core.types import Truth, UInt8


def augment(pixels: UInt8, truth: Truth, rng: np.random.Generator) -> tuple[UInt8, Truth]:
    """A randomly changed frame uint8 (S, S, 3), and its truth moved along with it; a mask is bool (S, S).

    Where there are both, the boxes are those of the moved mask's parts.
    """
    size = pixels.shape[0]
    matrix = _random_affine(rng, size)
    image = Image.fromarray(pixels).transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return _random_appearance(image, rng), _moved(truth, matrix, size)


def _moved(truth: Truth, matrix: tuple[float, ...], size: int) -> Truth:
    mask, boxes = truth.mask, truth.boxes
    if mask is not None:
        picture = Image.fromarray(mask.astype(np.uint8) * 255)
        mask = np.asarray(picture.transform((size, size), Image.Transform.AFFINE, matrix)) >= 128
        boxes = None if boxes is None else lesion_boxes(mask, least=SPECK)
    elif boxes is not None:
        forward = _inverse(matrix, size)
        moved = [move_box(box, forward) for box in boxes]
        boxes = tuple(box for box in moved if box is not None)
    return replace(truth, mask=mask, boxes=boxes)


def _inverse(matrix: tuple[float, ...], size: int) -> tuple[float, ...]:
    """Output-to-input coefficients in pixels as an input-to-output map of shares of the frame."""
    a, b, c, d, e, f = matrix
    det = a * e - b * d
    ia, ib, id_, ie = e / det, -b / det, -d / det, a / det
    return ia, ib, -(ia * c + ib * f) / size, id_, ie, -(id_ * c + ie * f) / size


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
