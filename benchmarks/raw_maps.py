"""Recognizers of the raw feature map: all of the backbone's taps, in order, nothing left out and nothing quantized.

And, to compare with them seed by seed, recognizers of what a package makes of the taps.

They learn as founding's recognizers do: from the founding images and changed versions of each, drawn alike, as many
steps; kept is what was best on the calibration images, by which their results are calibrated, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from compare_necks import taps_of
from compare_recognizers import ConvRecognizer, size
from numpy.typing import NDArray
from torch import Tensor, nn

from featureloop.core.types import Float32, Frame, Recognition, Task, UInt8
from featureloop.images.labelled import LabelledFolder, split
from featureloop.images.truths import LabelledItem
from featureloop.learner.founding import CALIBRATION_SHARE
from featureloop.model.augment import augment, augmentation_for
from featureloop.model.early_cache import square_truth
from featureloop.model.fit import BagSet, FitSettings, batches_of
from featureloop.model.founding_features import frame_shares
from featureloop.model.founding_fit import UNROUNDED_FIRST, Rounding, fit_founding, rounding_of
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.losses import recognition_loss
from featureloop.model.manifest import Calibration, uncalibrated
from featureloop.model.package import Package
from featureloop.model.preprocess import resize_frame
from featureloop.model.recognizers import NOISE, GlobalRecognizer, build_recognizer
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import RULES
from featureloop.sharing.anonymize import pool, release_vectors
from featureloop.sharing.codec import dequantize, quantize

Part = tuple[LabelledFolder, Sequence[LabelledItem]]
CONVOLVED = "the raw map"
AS_FOUNDED = "the raw map, by founding's recognizer"
AGAIN = "what the package makes of it, learned from again"
UNROUNDED = "the same, learned from unrounded alone"
ROUNDED = "the same, learned from rounded alone"
SETTINGS = FoundingSettings()


class ClassConv(nn.Module):
    """A `ConvRecognizer` under the mean over all positions: (B, N, C) to the logits (B, 1, K) of classes.

    Learns with dropout and noise, as `GlobalRecognizer` does: float32 (C,), one draw for all positions of a frame.
    """

    noise: Tensor

    def __init__(self, channels: int, *, width: int, outputs: int, noise: Float32) -> None:
        super().__init__()
        self.trunk = ConvRecognizer(channels, width=width, blocks=3, outputs=width)
        self.last = nn.Sequential(nn.Dropout(0.2), nn.Linear(width, outputs))
        self.register_buffer("noise", torch.from_numpy(noise))

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits of the classes."""
        if self.training:
            vectors = vectors + self.noise * torch.randn_like(vectors[:, :1])
        return cast(Tensor, self.last(self.trunk(vectors).relu().mean(1, keepdim=True)))


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Taps float16 (M, N, D), or values of them float32 (M, N or 1, C), and rows of targets uint8 (M, N or 1, T)."""

    values: NDArray[Any]
    targets: UInt8

    def bags(self, scale: Float32, offset: Float32, task: Task) -> BagSet:
        """What is learned from, drawn as founding draws frames."""
        ones = np.ones(len(self.values), np.float32)
        return BagSet(self.values, self.targets, frame_shares(self.targets, task=task), ones, scale, offset)


@dataclass(frozen=True, slots=True, eq=False)
class Rival:
    """A recognizer of taps, or of what a package makes of them.

    Attributes
    ----------
    network
        Takes `offset + scale * of(values)` of values float32 (N, D).
    calibration
        Of its logits, for a result of the task.
    """

    network: nn.Module
    of: Callable[[Any], Any]
    scale: Float32
    offset: Float32
    task: Task
    calibration: Calibration

    def logits(self, values: NDArray[Any]) -> Float32:
        """Logits float32 (N or 1, T)."""
        x = self.offset + self.scale * self.of(values.astype(np.float32))
        with torch.no_grad():
            return cast(Float32, self.network(torch.from_numpy(x)[None])[0].numpy())

    def recognition(self, values: NDArray[Any]) -> Recognition:
        """The result in a frame's values."""
        return RULES[self.task].recognition(self.logits(values), self.calibration)

    def calibrated(self, held: Known) -> Rival:
        """The same, calibrated on frames that it didn't learn from."""
        temperature, bias = RULES[self.task].scaling([self.logits(v) for v in held.values], list(held.targets))
        return replace(self, calibration=replace(self.calibration, temperature=temperature, bias=bias))


def rivals(package: Package, founding: Part, work: Path, *, seeds: Sequence[int]) -> dict[str, list[Rival]]:
    """What recognizes raw maps, by name, one of each seed: convolutions, and of boxes and classes founding's own, too.

    The convolutions have as many weights as founding's recognizer has on taps, at least.
    """
    task = Task(package.manifest.task)
    train, held = split(founding[1], hold_out=CALIBRATION_SHARE, seed=SETTINGS.seed)
    taps, path = taps_of(package), work / f"taps-{package.short}.npy"
    shape = (len(train) * (SETTINGS.augmentations + 1), *taps(np.zeros((64, 64, 3), np.uint8)).shape)
    values, rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape), []
    for i, (pixels, row) in enumerate(versions(founding[0], train, package, SETTINGS.augmentations)):
        values[i] = taps(pixels)
        rows.append(row)
    learned = Known(values[: len(rows)], np.stack(rows))
    each = [(taps(pixels).astype(np.float16), row) for pixels, row in versions(founding[0], held, package, 0)]
    known = Known(*(np.stack(part) for part in zip(*each, strict=True)))
    makers = {CONVOLVED: convolved} | ({} if task is Task.SEGMENTATION else {AS_FOUNDED: as_founded})
    found = {
        name: [make(package, learned, known, frames=len(train), seed=seed).calibrated(known) for seed in seeds]
        for name, make in makers.items()
    }
    path.unlink()
    return found


def founded_again(package: Package, founding: Part, *, seeds: Sequence[int]) -> dict[str, list[Rival]]:
    """The package's own recognizer, learned anew with each seed as founding's defaults learn it, from its values.

    Of sets, for comparison, also from unrounded values alone, and of boxes from rounded ones alone. Calibrated is for
    those that aren't rounded: a device has them so.
    """
    train, held = split(founding[1], hold_out=CALIBRATION_SHARE, seed=SETTINGS.seed)
    runtime, released = Runtime(package), package.manifest.released

    def seen(items: Sequence[LabelledItem], count: int) -> Known:
        each = [
            (release_vectors(runtime.extract(pixels), released), row)
            for pixels, row in versions(founding[0], items, package, count)
        ]
        return Known(*(np.stack(part) for part in zip(*each, strict=True)))

    def left(known: Known) -> Known:
        return replace(known, values=np.stack([dequantize(quantize(v, released), released) for v in known.values]))

    learned, known = seen(train, SETTINGS.augmentations), seen(held, 0)
    rounded = rounding_of(released.form, released.low, released.high, released.levels)
    ways: dict[str, tuple[Known, Known, Rounding | None]] = {AGAIN: (learned, known, rounded)}
    if not released.statistics:
        ways[UNROUNDED] = learned, known, None
    if package.manifest.task in UNROUNDED_FIRST:
        ways[ROUNDED] = left(learned), left(known), None
    return {
        line: [
            own_fitted(package, some, held, frames=len(train), seed=seed, rounding=rounding).calibrated(known)
            for seed in seeds
        ]
        for line, (some, held, rounding) in ways.items()
    }


def own_fitted(
    package: Package,
    learned: Known,
    held: Known,
    *,
    frames: int,
    seed: int,
    by: tuple[Float32, Float32] | None = None,
    rounding: Rounding | None = None,
) -> Rival:
    """A recognizer like the package's, of values as they are, or with a scale and an offset; and of rounded ones."""
    task, channels = Task(package.manifest.task), learned.values.shape[2]

    def network() -> nn.Module:
        made = build_recognizer(package.manifest.recognizer, channels=channels)
        if isinstance(made, GlobalRecognizer):
            made.standardize_by(torch.from_numpy(learned.values))
        return made

    scale, offset = by or (np.ones(channels, np.float32), np.zeros(channels, np.float32))
    bags = [known.bags(scale, offset, task) for known in (learned, held)]
    made = fitted(network, *bags, task=task, frames=frames, seed=seed, rounding=rounding)
    return Rival(made, lambda v: v, scale, offset, task, uncalibrated(RULES[task].method))


def convolved(package: Package, learned: Known, held: Known, *, frames: int, seed: int) -> Rival:
    """3x3 convolutions on the map; for classes with founding's noise or without, as the calibration images say."""
    task, (scale, offset, noise) = Task(package.manifest.task), spread(learned)
    channels, outputs = len(scale), learned.targets.shape[2]
    weights = size(own_recognizer(package, channels))

    def network(width: int, strength: float) -> nn.Module:
        if RULES[task].form == "set":
            return ConvRecognizer(channels, width=width, blocks=3, outputs=outputs)
        return ClassConv(channels, width=width, outputs=outputs, noise=np.float32(strength) * noise)

    width = next(w for w in range(8, 512, 4) if size(network(w, 0.0)) >= weights)
    bags = [known.bags(scale, offset, task) for known in (learned, held)]
    strengths = (0.0,) if RULES[task].form == "set" else (0.0, NOISE)
    made = [
        fitted(partial(network, width, strength), *bags, task=task, frames=frames, seed=seed) for strength in strengths
    ]
    best = made[0] if len(made) == 1 else min(made, key=lambda m: held_loss(m, bags[1], task))
    return Rival(best, lambda v: v, scale, offset, task, uncalibrated(RULES[task].method))


def as_founded(package: Package, learned: Known, held: Known, *, frames: int, seed: int) -> Rival:
    """The recognizer that founding builds, on taps; where it takes one vector, on statistics of each tap."""
    statistics = package.manifest.released.statistics
    if not statistics:
        return own_fitted(package, learned, held, frames=frames, seed=seed, by=spread(learned)[:2])

    def taken(taps: NDArray[Any]) -> NDArray[Any]:
        return pool(taps.astype(np.float32), statistics)

    learned, held = (Known(np.stack([taken(v) for v in known.values]), known.targets) for known in (learned, held))
    return replace(own_fitted(package, learned, held, frames=frames, seed=seed), of=taken)


def own_recognizer(package: Package, channels: int) -> nn.Module:
    """As founding builds it for taps of so many channels."""
    statistics = max(1, len(package.manifest.released.statistics))
    return build_recognizer(package.manifest.recognizer, channels=statistics * channels)


def spread(learned: Known) -> tuple[Float32, Float32, Float32]:
    """Scale and offset that standardize taps, and the deviation of frames' means on that scale; float32 (D,) each."""
    drawn = learned.values[:: max(1, len(learned.values) // 400)].astype(np.float32)
    rows = drawn.reshape(-1, drawn.shape[2])
    scale = 1 / (rows.std(axis=0) + 1e-3)
    return scale, -rows.mean(axis=0) / (rows.std(axis=0) + 1e-3), scale * drawn.mean(axis=1).std(axis=0)


def fitted(
    make: Callable[[], nn.Module],
    learned: BagSet,
    held: BagSet,
    *,
    task: Task,
    frames: int,
    seed: int,
    rounding: Rounding | None = None,
) -> nn.Module:
    """A network, trained as founding trains recognizers on so many frames."""
    torch.manual_seed(seed)
    network = make()
    passes = SETTINGS.recognizer_steps(frames) * SETTINGS.batch / len(learned)
    settings = FitSettings(passes, SETTINGS.batch, SETTINGS.learning_rate, seed=seed)
    fit_founding(network, learned, rounding, task=task, settings=settings, held=held)
    return network.eval()


def held_loss(network: nn.Module, held: BagSet, task: Task) -> float:
    """The mean loss on calibration images."""
    batches = [held.batch(at) for at in batches_of(len(held), SETTINGS.batch)]
    with torch.no_grad():
        each = [
            recognition_loss(network(torch.from_numpy(b.x)), torch.from_numpy(b.y), task=task).numpy() for b in batches
        ]
    return float(np.concatenate(each).mean())


def labelled(part: Part, package: Package) -> Iterator[tuple[Frame, UInt8]]:
    """Frames with the truth that the package's task needs, and their rows of targets."""
    manifest = package.manifest
    rules, labels, grid = RULES[Task(manifest.task)], len(manifest.labels), manifest.features.grid
    for frame in part[0].frames(part[1]):
        if isinstance(frame, Frame) and frame.truth is not None:
            rows = rules.truth_rows(frame.truth, labels=labels, grid=grid)
            if rows is not None:
                yield frame, rows


def versions(
    folder: LabelledFolder, items: Sequence[LabelledItem], package: Package, count: int
) -> Iterator[tuple[UInt8, UInt8]]:
    """Pixels and rows of targets of frames, each followed by so many changed versions."""
    manifest, frames = package.manifest, list(labelled((folder, items), package))
    rules, rng, edge = RULES[Task(manifest.task)], np.random.default_rng(1), manifest.preprocessing.size
    by = augmentation_for([frame for frame, _ in frames], SETTINGS.augmentation)
    for frame, rows in frames:
        yield frame.pixels, rows
        small, square = resize_frame(frame.pixels, edge), square_truth(frame, edge)
        for _ in range(count):
            pixels, moved = augment(small, square, rng, by=by)
            there = rules.truth_rows(moved, labels=len(manifest.labels), grid=manifest.features.grid)
            yield pixels, rows if there is None else there
