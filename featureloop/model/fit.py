"""Training a recognizer on bags: the same function at the learner, in controls and on a scaled-out engine."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

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

    def batch(self, at: NDArray[np.intp], *, noise: np.random.Generator | None = None, dither: float = 0.0) -> Batch:
        """Some of the bags as float32, with uniform noise of `dither` steps where a generator is given."""
        x = self.values[at].astype(np.float32)
        if noise is not None:
            x += noise.uniform(-dither, dither, x.shape).astype(np.float32)
        targets = self.targets[at].astype(np.float32)
        if self.soft is not None:
            targets[self.soft[at], :, : self.flags] /= 255
        return Batch(self.offset + self.scale * x, targets, self.weights[at])


def fit_recognizer(
    recognizer: nn.Module,
    bags: BagSet,
    *,
    task: Task,
    settings: FitSettings,
    held: BagSet | None = None,
    around: Surroundings = ALONE,
) -> None:
    """Train `recognizer` in place on the bags, and leave the averaged weights in it.

    Parameters
    ----------
    held
        Bags that it does not learn from: they say when it gets worse; None trains to the end.
    """
    steps = max(1, round(settings.epochs * len(bags) / settings.batch))
    draw = Draw(bags.shares, size=settings.batch, seed=settings.seed)

    def batch(step: int) -> Batch:
        at = draw(step)
        noise = draw.random(step) if settings.dither and bags.values.dtype == np.uint8 else None
        made = bags.batch(at, noise=noise, dither=settings.dither)
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
    train(lesson, pace=Pace(steps, settings.average, settings.seed), around=around)


def batches_of(count: int, size: int) -> list[NDArray[np.intp]]:
    """All of `count` items in batches of at most `size`."""
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]
