"""The early stages' features, computed once per frame and augmentation: an epoch then costs only the later stages."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from featureloop.core.ports import Progress
from featureloop.core.types import Bool, Frame, Task, Truth, UInt8
from featureloop.model.augment import augment
from featureloop.model.backbone import EarlyStages
from featureloop.model.export import export_onnx
from featureloop.model.manifest import Preprocessing
from featureloop.model.preprocess import resize_frame, to_input
from featureloop.model.runtime import open_session
from featureloop.model.tasks import RULES, true_rows

STRIDE = 16
EARLY_CHANNELS = 40


@dataclass(frozen=True, slots=True, eq=False)
class EarlyCache:
    """Early features float16 (M, 40, S/8, S/8) and their rows of targets uint8 (M, N or 1, T)."""

    features: NDArray[np.float16]
    targets: UInt8


def fill_cache(
    frames: Sequence[Frame],
    early: EarlyStages,
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
    """
    versions, grid = augmentations + 1, size // STRIDE
    side, rules = size // 8, RULES[task]
    features = np.empty((len(frames) * versions, EARLY_CHANNELS, side, side), np.float16)
    targets = np.empty((len(frames) * versions, rules.rows(grid), rules.outputs(classes)), np.uint8)
    preprocessing = Preprocessing(size)
    session = _early_session(early, size)
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
        features[i * versions : (i + 1) * versions] = session.run(None, {"image": np.concatenate(inputs)})[0]
        progress("early features", i + 1, len(frames))
    return EarlyCache(features, targets)


def _early_session(early: EarlyStages, size: int) -> Any:
    """The early stages in ONNX Runtime, ten times faster here than torch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "early.onnx"
        export_onnx(early, torch.zeros(2, 3, size, size), path, source="image", result="features", dynamic={0: "batch"})
        return open_session(path)


def square_truth(frame: Frame, size: int) -> Truth:
    """The truth of a frame at the extractor's input size: a mask is bool (size, size)."""
    truth = frame.truth or Truth()
    return truth if truth.mask is None else replace(truth, mask=_square_mask(truth.mask, size))


def _square_mask(mask: Bool, size: int) -> Bool:
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize((size, size), Image.Resampling.BOX)) >= 128
