"""The early stages' features, computed once per frame and augmentation: an epoch then costs only the later stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featureloop.core.errors import PackageError
from featureloop.core.ports import Progress
from featureloop.core.types import Bool, Float32, Frame, Task, Truth, UInt8
from featureloop.model.augment import augment
from featureloop.model.backbones import Backbone
from featureloop.model.manifest import Preprocessing
from featureloop.model.preprocess import resize_frame, to_input
from featureloop.model.tasks import RULES, true_rows


@dataclass(frozen=True, slots=True, eq=False)
class EarlyCache:
    """Early features float16 (M, E, h, w) and their rows of targets uint8 (M, N or 1, T)."""

    features: NDArray[np.float16]
    targets: UInt8


def fill_cache(
    frames: Sequence[Frame],
    backbone: Backbone,
    *,
    task: Task,
    classes: int,
    size: int,
    augmentations: int,
    rng: np.random.Generator,
    progress: Progress,
) -> EarlyCache:
    """Run the early stages over every frame and `augmentations` changed versions of it, side by side in the cache.

    Parameters
    ----------
    size
        Pixels per side of the extractor's input.

    Raises
    ------
    InputError
        A frame lacks the label that the task needs.
    PackageError
        The backbone doesn't make what it declares, or makes NaN or values beyond float16.
    """
    versions, grid, rules = augmentations + 1, size // backbone.stride, RULES[task]
    run = backbone.open_early(size)
    shape = _finite(run(np.zeros((1, 3, size, size), np.float32)), backbone, "a grey frame").shape[1:]
    features = np.empty((len(frames) * versions, *shape), np.float16)
    targets = np.empty((len(frames) * versions, rules.rows(grid), rules.outputs(classes)), np.uint8)
    preprocessing = Preprocessing(size)
    for i, frame in enumerate(frames):
        original = resize_frame(frame.pixels, size)
        truth = true_rows(frame, task=task, labels=classes, grid=grid)
        square = square_truth(frame, size)
        inputs = []
        for v in range(versions):
            pixels, moved = (original, square) if v == 0 else augment(original, square, rng)
            inputs.append(to_input(pixels, preprocessing))
            rows = None if v == 0 else rules.truth_rows(moved, labels=classes, grid=grid)
            targets[i * versions + v] = truth if rows is None else rows
        features[i * versions : (i + 1) * versions] = _finite(run(np.concatenate(inputs)), backbone, frame.name)
        progress("early features", i + 1, len(frames))
    return EarlyCache(features, targets)


def _finite(found: Float32, backbone: Backbone, of: str) -> NDArray[np.float16]:
    """Early features as they are cached.

    Raises
    ------
    PackageError
        Some are NaN, infinite, or beyond what float16 holds.
    """
    with np.errstate(over="ignore"):
        kept = found.astype(np.float16)
    if bad := int(kept.size - np.isfinite(kept).sum()):
        raise PackageError(
            f"the backbone '{backbone.name}' gives features of {of} of which {bad} of {kept.size} are NaN, infinite or "
            f"beyond {np.finfo(np.float16).max:.0f}: leave such frames out, or take another backbone"
        )
    return kept


def square_truth(frame: Frame, size: int) -> Truth:
    """The truth of a frame at the extractor's input size: a mask is bool (size, size)."""
    truth = frame.truth or Truth()
    return truth if truth.mask is None else replace(truth, mask=_square_mask(truth.mask, size))


def _square_mask(mask: Bool, size: int) -> Bool:
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize((size, size), Image.Resampling.BOX)) >= 128
