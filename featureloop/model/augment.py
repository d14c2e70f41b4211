"""Augmentation fit for the modality: geometry, colour, light and blur, drawn from a seed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from featureloop.core.boxes import move_box
from featureloop.core.components import SPECK, lesion_boxes
from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Truth, UInt8


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What may change in a frame while its truth stays.

    Attributes
    ----------
    any_angle
        Share of the versions that are turned by any angle at all.
    angle
        The others are turned by at most so many radians.
    flip
        Share that is mirrored, left for right.
    smaller, larger, stretch
        Most by which the logarithm of the scale goes down and up, and of one axis against the other.
    shift
        Most by which the frame moves, as a share of its side.
    saturation
        Range of the colours' strength; (1, 1) leaves them.
    cast
        Most by which the logarithm of one colour's light changes.
    light
        Most by which the logarithm of all light changes.
    contrast
        Range of the contrast.
    gamma
        Most by which the logarithm of gamma changes.
    blurred
        Share that is blurred.
    """

    any_angle: float
    angle: float
    flip: float
    smaller: float
    larger: float
    stretch: float
    shift: float
    saturation: tuple[float, float]
    cast: float
    light: float
    contrast: tuple[float, float]
    gamma: float
    blurred: float


AUGMENTATIONS = {
    # Endoscopy, microscopy: no direction is up, and light and colour are the instrument's.
    "free": Augmentation(0.5, 0.35, 0.5, 0.35, 0.3, 0.15, 0.12, (0.5, 1.6), 0.25, 0.2, (0.65, 1.4), 0.4, 0.25),
    # Radiographs, CT, MR, ultrasound: the patient's direction is known, and there is no colour. Mirrored frames
    # stay what they are, as for chest radiographs in Rajpurkar et al. 2017 (arXiv:1711.05225).
    "upright": Augmentation(0.0, 0.2, 0.5, 0.2, 0.15, 0.1, 0.08, (1.0, 1.0), 0.0, 0.15, (0.7, 1.4), 0.3, 0.25),
}
AUTO = "auto"


def augmentation_for(frames: Iterable[Frame], name: str = AUTO) -> str:
    """The name of the augmentation that suits frames; `auto` finds `upright` where all of them are grey, else `free`.

    Raises
    ------
    InputError
        The name is unknown.
    """
    if name == AUTO:
        return "upright" if all(_is_grey(frame.pixels) for frame in frames) else "free"
    if name not in AUGMENTATIONS:
        raise InputError(f"the augmentation '{name}' is unknown; choose {AUTO}, {' or '.join(AUGMENTATIONS)}")
    return name


def _is_grey(pixels: UInt8) -> bool:
    return bool((pixels[..., :1] == pixels[..., 1:]).all())


def augment(pixels: UInt8, truth: Truth, rng: np.random.Generator, *, by: str = "free") -> tuple[UInt8, Truth]:
    """A randomly changed frame uint8 (S, S, 3), and its truth moved along with it; a mask is bool (S, S).

    Where there are both, the boxes are those of the moved mask's parts.

    Parameters
    ----------
    by
        A name of `AUGMENTATIONS`.
    """
    size, limits = pixels.shape[0], AUGMENTATIONS[by]
    matrix = _random_affine(rng, size, limits)
    image = Image.fromarray(pixels).transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return _random_appearance(image, rng, limits), _moved(truth, matrix, size)


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


def _random_affine(rng: np.random.Generator, size: int, limits: Augmentation) -> tuple[float, ...]:
    """Output-to-input coefficients of a flip, rotation, scaling and shift about the centre."""
    angle = rng.uniform(-math.pi, math.pi) if rng.random() < limits.any_angle else _within(rng, limits.angle)
    scale = math.exp(rng.uniform(-limits.smaller, limits.larger))
    stretch = math.exp(_within(rng, limits.stretch))
    flip = -1.0 if rng.random() < limits.flip else 1.0
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    a, b = flip * cos * stretch, sin
    d, e = -flip * sin * stretch, cos
    half = size / 2
    shift_x, shift_y = rng.uniform(-limits.shift, limits.shift, 2) * size
    return a, b, half - a * half - b * half + shift_x, d, e, half - d * half - e * half + shift_y


def _random_appearance(image: Image.Image, rng: np.random.Generator, limits: Augmentation) -> UInt8:
    """Random brightness, contrast, saturation, colour cast, gamma and blur."""
    image = ImageEnhance.Color(image).enhance(rng.uniform(*limits.saturation))
    image = ImageEnhance.Contrast(image).enhance(rng.uniform(*limits.contrast))
    if rng.random() < limits.blurred:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.6)))
    x = np.arange(256, dtype=np.float32) / 255
    table = []
    gamma = math.exp(_within(rng, limits.gamma))
    for gain in np.exp(rng.uniform(-limits.cast, limits.cast, 3) + _within(rng, limits.light)):
        table += np.clip(255 * gain * x**gamma, 0, 255).astype(np.uint8).tolist()
    return np.asarray(image.point(table))


def _within(rng: np.random.Generator, most: float) -> float:
    return float(rng.uniform(-most, most))
