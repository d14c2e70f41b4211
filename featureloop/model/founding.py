"""Founding training: late stages, neck and recognizer, end to end on the centre's own frames.

The early stages stay as ImageNet left them and run once per frame and
augmentation; their outputs are cached, so that an epoch costs only the later
stages. The neck learns under quantization noise and a bit budget.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from featureloop.core.errors import InputError
from featureloop.core.ports import Progress, silent
from featureloop.core.types import Bool, Frame, Task, UInt8
from featureloop.model.augment import augment
from featureloop.model.backbone import EarlyStages, LateStages, load_imagenet
from featureloop.model.export import export_onnx
from featureloop.model.fit import running_average
from featureloop.model.losses import recognition_loss
from featureloop.model.manifest import FeatureSpec, Preprocessing, RecognizerSpec
from featureloop.model.neck import Breadth, Neck, add_quantization_noise, rate
from featureloop.model.preprocess import SUBCELLS, label_to_targets, mask_to_targets, resize_frame, to_input
from featureloop.model.recognizers import build_recognizer
from featureloop.model.runtime import open_session

STRIDE = 16


@dataclass(frozen=True, slots=True)
class FoundingSettings:
    """How a founding package is trained.

    Attributes
    ----------
    size
        Pixels per side of the extractor's input; a multiple of 32.
    channels
        C of the neck: values per position vector.
    levels
        Quantization levels per channel that the neck is trained for.
    bits_per_vector
        Bit budget of one position vector; above it the rate is penalized.
    epochs, batch, learning_rate
        Of AdamW with a cosine schedule; `learning_rate` is the neck's and
        recognizer's, the late stages learn at a quarter of it.
    augmentations
        Cached augmented versions of every frame, besides the original.
    breadth
        Weight of the loss that keeps the neck broad (see `neck.Breadth`).
    average
        Decay of the running average of the weights that is kept.
    seed
        Of every random choice.
    """

    size: int = 320
    channels: int = 48
    levels: int = 8
    bits_per_vector: float = 66.0
    width: int = 128
    blocks: int = 3
    epochs: float = 16.0
    batch: int = 16
    learning_rate: float = 1e-3
    augmentations: int = 5
    breadth: float = 0.3
    average: float = 0.98
    seed: int = 1

    def __post_init__(self) -> None:
        if self.size % 32 or not 64 <= self.size <= 2048:
            raise InputError(f"the frame size must be a multiple of 32 from 64 to 2048, not {self.size}")

    @property
    def grid(self) -> int:
        """Positions per side."""
        return self.size // STRIDE


class Extractor(nn.Module):
    """First layers: preprocessed image (B, 3, S, S) to bounded feature map (B, C, S/16, S/16)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.early = EarlyStages()
        self.late = LateStages()
        self.neck = Neck(LateStages.channels, channels)

    def from_early(self, x: Tensor) -> Tensor:
        """Feature map from the cached early features."""
        out: Tensor = self.neck(self.late(x))
        return out

    def forward(self, image: Tensor) -> Tensor:
        """Feature map of an image."""
        return self.from_early(self.early(image))


@dataclass(frozen=True, slots=True, eq=False)
class Networks:
    """The trained networks and what describes them."""

    extractor: Extractor
    recognizer: nn.Module
    preprocessing: Preprocessing
    features: FeatureSpec
    spec: RecognizerSpec
    task: Task
    bits_per_vector: float


@dataclass(frozen=True, slots=True, eq=False)
class _Cache:
    """Early features float16 (M, 40, S/8, S/8) and their rows of targets uint8 (M, N or 1, T)."""

    features: NDArray[np.float16]
    targets: UInt8


def recognizer_spec(task: Task, classes: int, settings: FoundingSettings) -> RecognizerSpec:
    """The recognizer's form for a task: `set` for segmentation, `global` for classification."""
    if task is Task.SEGMENTATION:
        return RecognizerSpec("set", settings.width, settings.blocks, SUBCELLS * SUBCELLS)
    return RecognizerSpec("global", settings.width, 2, classes)


def pool_map(z: Tensor) -> Tensor:
    """(B, C, G, G) to (B, 1, 2C): each channel's mean and standard deviation, as `sharing.anonymize.pool`."""
    mean = z.mean((2, 3))
    std = torch.sqrt(((z - mean[:, :, None, None]) ** 2).mean((2, 3)) + 1e-12)
    return torch.cat([mean, std], dim=1)[:, None, :]


def map_to_rows(z: Tensor) -> Tensor:
    """(B, C, G, G) to position vectors (B, G * G, C)."""
    return z.flatten(2).transpose(1, 2)


def train_networks(
    frames: Sequence[Frame],
    *,
    task: Task,
    classes: int,
    settings: FoundingSettings,
    progress: Progress = silent,
) -> Networks:
    """Train extractor and recognizer on labelled frames.

    Raises
    ------
    InputError
        A frame lacks the label that the task needs.
    """
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    extractor = Extractor(settings.channels)
    load_imagenet(extractor.early, extractor.late)
    spec = recognizer_spec(task, classes, settings)
    released = settings.channels * (1 if spec.form == "set" else 2)
    recognizer = build_recognizer(spec, channels=released)
    cache = _fill_cache(frames, extractor.early, task=task, classes=classes, settings=settings, rng=rng, progress=progress)
    bits = _fit(extractor, recognizer, cache, task=task, settings=settings, rng=rng, progress=progress)
    return Networks(
        extractor.eval(),
        recognizer.eval(),
        Preprocessing(settings.size),
        FeatureSpec(settings.channels, STRIDE, settings.grid),
        spec,
        task,
        bits,
    )


def frame_targets(frame: Frame, *, task: Task, classes: int, grid: int) -> UInt8:
    """The truth of a frame as rows of targets.

    Raises
    ------
    InputError
        The frame lacks the label that the task needs.
    """
    truth = frame.truth
    if task is Task.SEGMENTATION:
        if truth is None or truth.mask is None:
            raise InputError(f"'{frame.name}' has no mask; segmentation needs DIR/images and DIR/masks")
        return mask_to_targets(truth.mask, grid)
    if truth is None or truth.label is None or not 0 <= truth.label < classes:
        raise InputError(f"'{frame.name}' has no class label; classification needs DIR/<class>/*")
    return label_to_targets(truth.label, classes)


def _fill_cache(
    frames: Sequence[Frame],
    early: EarlyStages,
    *,
    task: Task,
    classes: int,
    settings: FoundingSettings,
    rng: np.random.Generator,
    progress: Progress,
) -> _Cache:
    versions = settings.augmentations + 1
    side = settings.size // 8
    rows = settings.grid**2 if task is Task.SEGMENTATION else 1
    width = SUBCELLS**2 if task is Task.SEGMENTATION else classes
    features = np.empty((len(frames) * versions, 40, side, side), np.float16)
    targets = np.empty((len(frames) * versions, rows, width), np.uint8)
    preprocessing = Preprocessing(settings.size)
    session = _early_session(early, settings.size)
    for i, frame in enumerate(frames):
        original = resize_frame(frame.pixels, settings.size)
        truth = frame_targets(frame, task=task, classes=classes, grid=settings.grid)
        mask = None if frame.truth is None else frame.truth.mask
        square = None if mask is None or task is not Task.SEGMENTATION else square_mask(mask, settings.size)
        inputs = []
        for v in range(versions):
            pixels, moved = (original, square) if v == 0 else augment(original, square, rng)
            inputs.append(to_input(pixels, preprocessing))
            at = i * versions + v
            targets[at] = truth if moved is None else mask_to_targets(moved, settings.grid)
        features[i * versions : (i + 1) * versions] = session.run(None, {"image": np.concatenate(inputs)})[0]
        progress("early features", i + 1, len(frames))
    return _Cache(features, targets)


def _early_session(early: EarlyStages, size: int) -> Any:
    """The early stages in ONNX Runtime, ten times faster here than torch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "early.onnx"
        export_onnx(early, torch.zeros(2, 3, size, size), path, source="image", result="features", dynamic={0: "batch"})
        return open_session(path)


def square_mask(mask: Bool, size: int) -> Bool:
    """A mask bool (H, W) at the extractor's input size, bool (size, size)."""
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize((size, size), Image.Resampling.BOX)) >= 128


def _fit(
    extractor: Extractor,
    recognizer: nn.Module,
    cache: _Cache,
    *,
    task: Task,
    settings: FoundingSettings,
    rng: np.random.Generator,
    progress: Progress,
) -> float:
    """Train late stages, neck and recognizer; return the rate reached, in bits per vector."""
    versions = settings.augmentations + 1
    frames = len(cache.targets) // versions
    steps = max(1, round(settings.epochs * frames / settings.batch))
    breadth = Breadth(LateStages.channels, settings.channels)
    new = [*extractor.neck.parameters(), *recognizer.parameters(), *breadth.parameters()]
    late = list(extractor.late.parameters())
    groups = [{"params": new, "lr": settings.learning_rate}, {"params": late, "lr": settings.learning_rate / 4}]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _warm_cosine(s, steps))
    generator = torch.Generator().manual_seed(settings.seed)
    extractor.train()
    recognizer.train()
    trained = nn.ModuleList([extractor, recognizer])
    average = torch.optim.swa_utils.AveragedModel(trained, avg_fn=running_average(settings.average), use_buffers=True)
    order: list[int] = []
    bits = 0.0
    for step in range(steps):
        if len(order) < settings.batch:
            order += rng.permutation(frames).tolist()
        chosen, order = order[: settings.batch], order[settings.batch :]
        at = np.array(chosen) * versions + rng.integers(0, versions, len(chosen))
        x = torch.from_numpy(cache.features[at].astype(np.float32))
        y = torch.from_numpy(cache.targets[at].astype(np.float32))
        taps = extractor.late(x)
        z = extractor.neck(taps)
        kept = breadth(map_to_rows(z), taps)
        if task is Task.SEGMENTATION:
            vectors = map_to_rows(z)
            spent = rate(vectors, levels=settings.levels)
            over = torch.relu(spent - settings.bits_per_vector) / settings.bits_per_vector
            vectors = add_quantization_noise(vectors, levels=settings.levels, generator=generator)
        else:
            vectors = pool_map(z)
            spent, over = torch.zeros(()), torch.zeros(())
        loss = recognition_loss(recognizer(vectors), y, task=task) + over + settings.breadth * kept
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_([*new, *late], 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(trained)
        bits = spent.item() if step == 0 else 0.95 * bits + 0.05 * spent.item()
        progress(f"founding training, loss {loss.item():.3f}", step + 1, steps)
    trained.load_state_dict(average.module.state_dict())
    return bits


def _warm_cosine(step: int, steps: int) -> float:
    warm = min(50, steps // 10 + 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
