"""Founding training: extractor and recognizer, on the centre's own labelled frames.

The early stages stay as ImageNet left them and run once per frame and
augmentation; their outputs are cached, so that an epoch costs only the later
stages. The neck is then computed from the tuned taps, and the recognizer
learns from exactly what will be released.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featureloop.core.errors import InputError
from featureloop.core.ports import Progress, silent
from featureloop.core.types import Float32, Frame, Task
from featureloop.model.backbone import EarlyStages, LateStages, load_imagenet
from featureloop.model.early_cache import EARLY_CHANNELS, STRIDE, EarlyCache, fill_cache
from featureloop.model.export import export_onnx
from featureloop.model.fit import BagSet, FitSettings, fit_recognizer, running_average
from featureloop.model.losses import recognition_loss
from featureloop.model.manifest import FeatureSpec, Preprocessing, RecognizerSpec
from featureloop.model.neck import Neck, Transform, fit_transform, join_taps
from featureloop.model.recognizers import GlobalRecognizer, build_recognizer
from featureloop.model.runtime import open_session
from featureloop.model.sensitivity import fisher_information
from featureloop.model.tasks import RULES

TAPS = 4 * LateStages.channels[0] + LateStages.channels[1] + LateStages.channels[2]
SET_CHANNELS = 160
POOL_CHANNELS = 48
"""Channels of a pooled vector: its mean and standard deviation make two values of each."""
SAMPLED_POSITIONS = 60_000
"""Position vectors that the neck's transform is computed from."""
ASKED_FRAMES = 400
"""Frames over which it is measured what recognition is sensitive to."""


@dataclass(frozen=True, slots=True)
class FoundingSettings:
    """How a founding package is trained.

    Attributes
    ----------
    size
        Pixels per side of the extractor's input; a multiple of 32.
    channels
        C of the neck, at most; None takes what suits the recognizer's form.
    bits_per_vector
        Bit budget of one position vector of a `set`.
    width, blocks
        Of the recognizer.
    epochs, batch, learning_rate
        Of the backbone's fine-tuning by AdamW with a cosine schedule; the late
        stages learn at a quarter of `learning_rate`.
    recognizer_epochs
        Passes over the frames when the recognizer learns from the finished, quantized features.
    augmentations
        Cached augmented versions of every frame, besides the original.
    average
        Decay of the running average of the weights that is kept.
    seed
        Of every random choice.
    """

    size: int = 320
    channels: int | None = None
    bits_per_vector: float = 66.0
    width: int = 128
    blocks: int = 3
    epochs: float = 12.0
    recognizer_epochs: float = 16.0
    batch: int = 16
    learning_rate: float = 1e-3
    augmentations: int = 5
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

    def __init__(self, early: EarlyStages, late: LateStages, neck: Neck) -> None:
        super().__init__()
        self.early = early
        self.late = late
        self.neck = neck

    def forward(self, image: Tensor) -> Tensor:
        """Feature map of an image."""
        out: Tensor = self.neck(join_taps(self.late(self.early(image))))
        return out


class LateExtractor(nn.Module):
    """What follows the cached early features: (B, 40, S/8, S/8) to joined taps, or through a neck."""

    def __init__(self, late: LateStages, neck: nn.Module) -> None:
        super().__init__()
        self.late = late
        self.neck = neck

    def forward(self, early: Tensor) -> Tensor:
        """Taps or feature map on the stride-16 grid."""
        out: Tensor = self.neck(join_taps(self.late(early)))
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Networks:
    """The trained networks and what describes them."""

    extractor: Extractor
    recognizer: nn.Module
    preprocessing: Preprocessing
    features: FeatureSpec
    spec: RecognizerSpec
    task: Task
    levels: tuple[int, ...]
    bits_per_vector: float


def recognizer_spec(task: Task, classes: int, settings: FoundingSettings) -> RecognizerSpec:
    """The recognizer that suits a task."""
    rules = RULES[task]
    blocks = settings.blocks if rules.form == "set" else 2
    return RecognizerSpec(rules.form, settings.width, blocks, rules.outputs(classes))


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

    Fine-tunes the late stages under a recognizer of their taps, computes the
    neck's transform from the tuned taps and from what that recognizer makes of
    them, then trains the recognizer that is kept on what the neck leaves after
    quantization.

    Raises
    ------
    InputError
        A frame lacks the label that the task needs.
    """
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    early, late = EarlyStages(), LateStages()
    load_imagenet(early, late)
    spec = recognizer_spec(task, classes, settings)
    cache = fill_cache(
        frames,
        early,
        task=task,
        classes=classes,
        size=settings.size,
        augmentations=settings.augmentations,
        rng=rng,
        progress=progress,
    )
    head = _tune(late, cache, spec, task=task, settings=settings, rng=rng, progress=progress)
    transform = _transform(late, head, cache, spec, task=task, settings=settings, rng=rng, progress=progress)
    neck = transform.neck()
    bags = _released(LateExtractor(late, neck), cache, spec, transform, settings=settings, progress=progress)
    recognizer = build_recognizer(spec, channels=bags.values.shape[2])
    if isinstance(recognizer, GlobalRecognizer):
        recognizer.standardize_by(torch.from_numpy(bags.values.astype(np.float32)))
    passes = settings.recognizer_epochs * len(frames) / len(bags)
    fit = FitSettings(epochs=passes, batch=settings.batch, learning_rate=settings.learning_rate, seed=settings.seed)
    fit_recognizer(recognizer, bags, task=task, settings=fit, progress=progress)
    return Networks(
        Extractor(early, late, neck).eval(),
        recognizer.eval(),
        Preprocessing(settings.size),
        FeatureSpec(len(transform.levels), STRIDE, settings.grid),
        spec,
        task,
        transform.levels,
        transform.bits,
    )


def _tune(
    late: LateStages,
    cache: EarlyCache,
    spec: RecognizerSpec,
    *,
    task: Task,
    settings: FoundingSettings,
    rng: np.random.Generator,
    progress: Progress,
) -> nn.Module:
    """Fine-tune the late stages in place, under a recognizer of their joined taps; return that."""
    versions = settings.augmentations + 1
    frames = len(cache.targets) // versions
    steps = max(1, round(settings.epochs * frames / settings.batch))
    head = build_recognizer(spec, channels=TAPS if spec.form == "set" else 2 * TAPS)
    if isinstance(head, GlobalRecognizer):
        first = torch.from_numpy(cache.features[::versions].astype(np.float32))
        with torch.no_grad():
            head.standardize_by(torch.cat([pool_map(join_taps(late(x))) for x in torch.split(first, settings.batch)]))
    groups = [
        {"params": list(head.parameters()), "lr": settings.learning_rate},
        {"params": list(late.parameters()), "lr": settings.learning_rate / 4},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _warm_cosine(s, steps))
    trained = nn.ModuleList([late, head])
    average = torch.optim.swa_utils.AveragedModel(trained, avg_fn=running_average(settings.average))
    trained.train()
    order: list[int] = []
    for step in range(steps):
        if len(order) < settings.batch:
            order += rng.permutation(frames).tolist()
        chosen, order = order[: settings.batch], order[settings.batch :]
        at = np.array(chosen) * versions + rng.integers(0, versions, len(chosen))
        x = torch.from_numpy(cache.features[at].astype(np.float32))
        y = torch.from_numpy(cache.targets[at].astype(np.float32))
        joined = join_taps(late(x))
        loss = recognition_loss(head(_to_vectors(joined, spec)), y, task=task)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(trained)
        progress(f"fine-tuning, loss {loss.item():.3f}", step + 1, steps)
    trained.load_state_dict(average.module.state_dict())
    trained.eval()
    return head


def _to_vectors(z: Tensor, spec: RecognizerSpec) -> Tensor:
    """A map (B, C, G, G) as what a recognizer of this form takes."""
    return map_to_rows(z) if spec.form == "set" else pool_map(z)


def _transform(
    late: LateStages,
    head: nn.Module,
    cache: EarlyCache,
    spec: RecognizerSpec,
    *,
    task: Task,
    settings: FoundingSettings,
    rng: np.random.Generator,
    progress: Progress,
) -> Transform:
    """Compute the neck's transform from positions of the original frames and one augmentation of each."""
    versions = settings.augmentations + 1
    frames = len(cache.targets) // versions
    originals = np.arange(frames) * versions
    chosen = np.unique(np.concatenate([originals, originals + versions - 1]))
    each = max(1, min(settings.grid**2, SAMPLED_POSITIONS // len(chosen)))
    extractor = LateExtractor(late, nn.Identity())
    rows = []
    for at, joined in _run_late(extractor, cache, chosen, settings=settings, what="taps", progress=progress):
        vectors = joined.reshape(len(at), TAPS, -1).transpose(0, 2, 1)
        rows += [v[rng.choice(len(v), each, replace=False)] for v in vectors]
    asked = rng.permutation(chosen)[:ASKED_FRAMES]
    information = fisher_information(
        lambda joined: head(_to_vectors(joined, spec)),
        (z for _, z in _run_late(extractor, cache, asked, settings=settings, what="sensitivity", progress=progress)),
        task=task,
        seed=settings.seed,
    )
    if spec.form == "set":
        budget, limit = settings.bits_per_vector, settings.channels or SET_CHANNELS
    else:
        budget, limit = float("inf"), settings.channels or POOL_CHANNELS
    return fit_transform(np.concatenate(rows), bits_per_vector=budget, max_channels=limit, information=information)


def _released(
    extractor: LateExtractor,
    cache: EarlyCache,
    spec: RecognizerSpec,
    transform: Transform,
    *,
    settings: FoundingSettings,
    progress: Progress,
) -> BagSet:
    """All cached versions as they would be released: quantized position vectors, or pooled vectors."""
    top = np.array(transform.levels, np.float32) - np.float32(1)
    values: list[NDArray[Any]] = []
    every = np.arange(len(cache.targets))
    for _, z in _run_late(extractor, cache, every, settings=settings, what="features", progress=progress):
        if spec.form == "set":
            vectors = z.reshape(len(z), len(top), -1).transpose(0, 2, 1)
            values.append(np.rint((vectors + 1) / 2 * top).astype(np.uint8))
        else:
            values.append(pool_map(torch.from_numpy(z)).numpy())
    stacked: NDArray[Any] = np.concatenate(values)
    channels, n = stacked.shape[2], len(stacked)
    one, zero = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    scale, offset = (np.float32(2) / top, -one) if spec.form == "set" else (one, zero)
    return BagSet(stacked, cache.targets, np.full(n, 1 / n), np.ones(n, np.float32), scale, offset)


def _run_late(
    extractor: LateExtractor,
    cache: EarlyCache,
    chosen: NDArray[np.intp],
    *,
    settings: FoundingSettings,
    what: str,
    progress: Progress,
) -> Iterator[tuple[NDArray[np.intp], Float32]]:
    """Run the late stages in ONNX Runtime over chosen cache rows, a batch at a time."""
    side = settings.size // 8
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "late.onnx"
        example = torch.zeros(2, EARLY_CHANNELS, side, side)
        export_onnx(extractor, example, path, source="early", result="map", dynamic={0: "batch"})
        session = open_session(path)
    for start in range(0, len(chosen), settings.batch):
        at = chosen[start : start + settings.batch]
        yield at, session.run(None, {"early": cache.features[at].astype(np.float32)})[0]
        progress(what, start + len(at), len(chosen))


def _warm_cosine(step: int, steps: int) -> float:
    warm = min(50, steps // 10 + 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
