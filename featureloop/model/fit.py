"""Training a recognizer on bags: the same function at the learner, in controls and on a scaled-out engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featureloop.core.types import Bool, Float32, Task, UInt8
from featureloop.model.lesson import ALONE, Batch, Draw, Lesson, Pace, Surroundings
from featureloop.model.loop import train
from featureloop.model.losses import recognition_loss


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How a recognizer is trained on.

    Attributes
    ----------
    epochs
        Passes over as many bags as there are.
    batch, learning_rate
        Of AdamW with a cosine schedule after a short warm-up.
    dither
        Half-width of the uniform noise added to the values, in quantization
        steps; 0 learns from the coded values as they are.
    rows
        In every second batch, only so many position vectors of each bag, drawn anew: a recognizer of whole frames then
        knows parts of them, too, as records will hold them; 0 for all.
    average
        Decay of the exponential moving average of the weights that is kept.
    seed
        Of every random choice.
    name
        For progress and logs.
    """

    epochs: float = 8.0
    batch: int = 16
    learning_rate: float = 1e-3
    dither: float = 0.0
    rows: int = 0
    average: float = 0.99
    seed: int = 1
    name: str = "training"

    def steps(self, items: int) -> int:
        """Batches that so many items make."""
        return max(1, round(self.epochs * items / self.batch))


@dataclass(frozen=True, slots=True, eq=False)
class BagSet:
    """Bags of equal N to learn from.

    Attributes
    ----------
    values
        Position vectors (M, N, C): uint8 symbols, or float32 values.
    targets
        uint8 (M, N, T), flags of 0 and 1.
    shares
        float64 (M,), how often each bag is drawn; sums to 1.
    weights
        float32 (M,), weight in the loss.
    scale, offset
        float32 (C,): a value is `offset + scale * values`; one quantization step is `scale`.
    soft
        bool (M,), bags whose targets' flags are probabilities, 0 to 255; None for none.
    flags
        How many values of a row, from the first, are flags; None for all.
    """

    values: UInt8 | Float32
    targets: UInt8
    shares: NDArray[np.float64]
    weights: Float32
    scale: Float32
    offset: Float32
    soft: Bool | None = None
    flags: int | None = None

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, at: NDArray[np.intp], *, rng: np.random.Generator | None = None, dither: float = 0.0) -> Batch:
        """Some of the bags as float32; symbols with uniform noise of `dither` steps where a generator is given."""
        x = self.scaled(self.values[at], rng=rng, dither=dither)
        targets = self.targets[at].astype(np.float32)
        if self.soft is not None:
            targets[self.soft[at], :, : self.flags] /= 255
        return Batch(x, targets, self.weights[at])

    def scaled(self, values: UInt8 | Float32, *, rng: np.random.Generator | None, dither: float) -> Float32:
        """Values (..., C) like the bags' as what the network sees, float32."""
        x = values.astype(np.float32)
        if rng is not None and dither and values.dtype == np.uint8:
            x += rng.uniform(-dither, dither, x.shape).astype(np.float32)
        return np.asarray(self.offset + self.scale * x, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class LooseRows:
    """Rows that stand for no whole frame.

    Attributes
    ----------
    values
        Position vectors (R, C), on the scale of the frames that they are learned from with.
    targets
        float32 (R, T), as `Batch.y`.
    chances
        float64 (R,), how often each row is drawn; sums to 1.
    weight
        Of rows in the loss, where a frame's is 1.
    """

    values: UInt8 | Float32
    targets: Float32
    chances: NDArray[np.float64]
    weight: float


@dataclass(frozen=True, slots=True, eq=False)
class FramesAndRows:
    """Whole frames, and loose rows of others, for a recognizer that sees each row by itself.

    The items are the frames, and after them those that the rows came with. Whichever of those is drawn, as many rows
    as a frame has are learned from, of all records: few rows of one frame say little of what a lesion's whole is.

    Attributes
    ----------
    shares
        float64 (M,), how often each item is drawn, the frames first; sums to 1.
    """

    frames: BagSet
    rows: LooseRows
    shares: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.shares)

    def batch(self, at: NDArray[np.intp], *, rng: np.random.Generator | None = None, dither: float = 0.0) -> Batch:
        """Some of the items as float32; rows are drawn anew, always the same ones where no generator is given."""
        rng = rng or np.random.default_rng(0)
        frames = self.frames.batch(at[at < len(self.frames)], rng=rng, dither=dither)
        count, (n, channels) = len(at) - len(frames), self.frames.values.shape[1:]
        drawn = rng.choice(len(self.rows.values), count * n, p=self.rows.chances)
        targets = self.rows.targets[drawn].reshape(count, n, -1)
        weights = np.full(count, self.rows.weight, np.float32)
        x = self.frames.scaled(self.rows.values[drawn], rng=rng, dither=dither).reshape(count, n, channels)
        pairs = ((frames.x, x), (frames.y, targets), (frames.weights, weights))
        return Batch(*(np.concatenate(both) for both in pairs))


Items = BagSet | FramesAndRows
"""What a recognizer learns from."""
Weights = Mapping[str, Tensor]
"""Of a network, by name."""


def fit_recognizer(
    recognizer: nn.Module,
    bags: Items,
    *,
    task: Task,
    settings: FitSettings,
    held: Items | None = None,
    around: Surroundings = ALONE,
) -> None:
    """Train `recognizer` in place on the bags, and leave the averaged weights in it.

    Parameters
    ----------
    held
        Bags that it does not learn from: they say when it gets worse; None trains to the end.
    """
    draw = Draw(bags.shares, size=settings.batch, seed=settings.seed)

    def batch(step: int) -> Batch:
        made = bags.batch(draw(step), rng=draw.random(step), dither=settings.dither)
        if not settings.rows or step % 2 == 0:
            return made
        drawn = draw.random(step).permutation(made.x.shape[1])[: settings.rows]
        return replace(made, x=made.x[:, drawn])

    lesson = Lesson(
        settings.name,
        recognizer,
        [(recognizer, settings.learning_rate)],
        batch,
        lambda x, y: recognition_loss(recognizer(x).float(), y, task=task),
        [] if held is None else [held.batch(at) for at in batches_of(len(held), settings.batch)],
    )
    train(lesson, pace=Pace(settings.steps(len(bags)), settings.average, settings.seed), around=around)


def interpolate(before: Weights, after: Weights, share: float) -> dict[str, Tensor]:
    """Weights at `share` of the way from those before to those after."""
    return {k: torch.lerp(before[k], after[k], share) for k in before}


def batches_of(count: int, size: int) -> list[NDArray[np.intp]]:
    """All of `count` items in batches of at most `size`."""
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]
