"""How a recognizer is founded: on values as a device has them, and then on the same as they leave.

A device recognizes from values before they are rounded to what leaves, and what is rounded away is worth a point of
boxes at another site. A learner has rounded values alone, and its gate compares recognizers on those: one that never
saw any could be beaten there by a training that only taught it the rounding. So it learns from unrounded values first,
then a little from rounded ones, and what is kept lies half of the way between (the mean of weights before and after
fine-tuning serves both kinds of data: Wortsman et al. 2022, arXiv:2109.01903).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from featureloop.core.types import Float32, Task
from featureloop.model.fit import BagSet, FitSettings, fit_recognizer, interpolate
from featureloop.model.lesson import ALONE, Surroundings
from featureloop.model.manifest import ReleasedForm

LAST_STEPS = 300
"""Batches of rounded values, at most; no more than there were of unrounded ones."""
LAST_RATE = 0.3
"""Of the learning rate."""
WAY = 0.5
"""Share of the way to what rounded values led to."""


@dataclass(frozen=True, slots=True, eq=False)
class Rounding:
    """What leaves of a position vector: whole steps between its channels' bounds.

    Attributes
    ----------
    low, high
        float32 (C,).
    levels
        float32 (C,), whole numbers from 2 to 256.
    """

    low: Float32
    high: Float32
    levels: Float32

    @classmethod
    def about_zero(cls, levels: Sequence[int]) -> Rounding:
        """Of values in [-1, 1], as a neck leaves them."""
        one = np.ones(len(levels), np.float32)
        return cls(-one, one, np.array(levels, np.float32))

    @property
    def step(self) -> Float32:
        """Between two levels, float32 (C,)."""
        return np.asarray((self.high - self.low) / (self.levels - 1), np.float32)

    def over(self, bags: BagSet) -> BagSet:
        """The same bags of values (a scale of 1, an offset of 0), in symbols."""
        steps = np.rint((bags.values - self.low) / self.step)
        symbols = np.clip(steps, 0, self.levels - 1).astype(np.uint8)
        return replace(bags, values=symbols, scale=self.step, offset=self.low)


def rounding_of(released: ReleasedForm) -> Rounding:
    """Of what leaves in this form."""
    return Rounding(*(np.array(each, np.float32) for each in (released.low, released.high, released.levels)))


def fit_founding(
    recognizer: nn.Module,
    bags: BagSet,
    rounding: Rounding | None,
    *,
    task: Task,
    settings: FitSettings,
    held: BagSet | None = None,
    around: Surroundings = ALONE,
) -> None:
    """Train `recognizer` in place on bags of values as a device has them, then on the same rounded, half of the way.

    Parameters
    ----------
    bags, held
        Values float32, not symbols; `held` says when either training gets worse.
    rounding
        Of what leaves; None where what leaves isn't what is learned from, as of pooled vectors: then the values alone.
    """
    fit_recognizer(recognizer, bags, task=task, settings=settings, held=held, around=around)
    if rounding is None:
        return
    before = {k: v.clone() for k, v in recognizer.state_dict().items()}
    steps = min(LAST_STEPS, settings.steps(len(bags)))
    last = replace(
        settings,
        epochs=steps * settings.batch / len(bags),
        learning_rate=LAST_RATE * settings.learning_rate,
        name=f"{settings.name}, rounded",
    )
    looked = None if held is None else rounding.over(held)
    fit_recognizer(recognizer, rounding.over(bags), task=task, settings=last, held=looked, around=around)
    recognizer.load_state_dict(interpolate(before, recognizer.state_dict(), WAY))
