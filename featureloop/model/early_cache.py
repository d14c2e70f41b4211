"""The early stages' features, computed once per frame and augmentation: an epoch then costs only the later stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featureloop.core.errors import InputError, PackageError
from featureloop.core.ports import Progress, silent
from featureloop.core.types import Bool, Float32, Frame, Task, Truth, UInt8
from featureloop.model.augment import augment
from featureloop.model.backbones import Backbone
from featureloop.model.checkpoint import Checkpoint
from featureloop.model.manifest import Preprocessing
from featureloop.model.preprocess import resize_frame, to_input
from featureloop.model.tasks import RULES, true_rows

KEPT_EVERY = 50
"""Frames between two moments that a killed training goes on from."""


@dataclass(frozen=True, slots=True, eq=False)
class EarlyCache:
    """Early features float16 (M, E, h, w) and their rows of targets uint8 (M, N or 1, T)."""

    features: NDArray[np.float16]
    targets: UInt8

    def __len__(self) -> int:
        return len(self.targets)

    def every(self, versions: int) -> EarlyCache:
        """The first of every so many: the frames without their changed versions."""
        return self if versions == 1 else EarlyCache(self.features[::versions], self.targets[::versions])


def fill_cache(
    frames: Sequence[Frame],
    backbone: Backbone,
    *,
    task: Task,
    classes: int,
    preprocessing: Preprocessing,
    augmentations: int,
    seed: int,
    augmentation: str = "free",
    name: str = "frames",
    checkpoint: Checkpoint | None = None,
    progress: Progress = silent,
) -> EarlyCache:
    """Run the early stages over every frame and `augmentations` changed versions of it, side by side in the cache.

    Parameters
    ----------
    preprocessing
        From a frame to the extractor's input.
    augmentation
        What may change, a name of `model.augment`.
    name, checkpoint
        Where the cache is kept, and gone on with; None keeps it in memory.

    Raises
    ------
    InputError
        A frame lacks the label that the task needs, or the checkpoint's cache was made by another backbone.
    PackageError
        The backbone doesn't make what it declares, or makes NaN or values beyond float16.
    StorageError
        The checkpoint's disk has no room.
    """
    size = preprocessing.size
    versions, grid, rules = augmentations + 1, size // backbone.stride, RULES[task]
    run = backbone.open_early(size)
    shape = _finite(run(np.zeros((1, 3, size, size), np.float32)), backbone, "a grey frame").shape[1:]
    shapes = (len(frames) * versions, *shape), (len(frames) * versions, rules.rows(grid), rules.outputs(classes))
    done = 0
    if checkpoint is None:
        features, targets = np.empty(shapes[0], np.float16), np.empty(shapes[1], np.uint8)
    else:
        features = checkpoint.array(f"{name}-features", shapes[0], np.float16)
        targets = checkpoint.array(f"{name}-targets", shapes[1], np.uint8)
        done = checkpoint.count(name)

    def early(i: int) -> tuple[NDArray[np.float16], UInt8]:
        frame, rng = frames[i], np.random.default_rng((seed, 2, i))
        original = resize_frame(frame.pixels, size)
        square = square_truth(frame, size)
        inputs, rows = [to_input(original, preprocessing)], [true_rows(frame, task=task, labels=classes, grid=grid)]
        for _ in range(augmentations):
            pixels, moved = augment(original, square, rng, by=augmentation)
            inputs.append(to_input(pixels, preprocessing))
            there = rules.truth_rows(moved, labels=classes, grid=grid)
            rows.append(rows[0] if there is None else there)
        return _finite(run(np.concatenate(inputs)), backbone, frame.name), np.stack(rows)

    if done and not np.allclose(early(0)[0], features[:versions], rtol=0.02, atol=0.02):
        raise InputError("the checkpoint holds features of another backbone; remove it, or choose another --out")
    for i in range(done, len(frames)):
        at = slice(i * versions, (i + 1) * versions)
        features[at], targets[at] = early(i)
        if checkpoint is not None and ((i + 1) % KEPT_EVERY == 0 or i + 1 == len(frames)):
            features.flush()  # type: ignore[attr-defined]  # a memory map
            targets.flush()  # type: ignore[attr-defined]
            checkpoint.set_count(name, i + 1)
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
