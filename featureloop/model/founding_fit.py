"""How a recognizer is founded: on values as they leave, and of boxes first on the same as a device has them.

A device recognizes from values before they are rounded to what leaves. Masks lose nothing where they are learned from
rounded ones, boxes a point at another site (docs/adr/022). A learner and its gate have rounded values alone, so a
recognizer that never saw any would first have to learn the rounding there. So one of boxes learns from unrounded values
first, then a little from rounded ones, and what is kept lies a quarter of the way between (a mean of weights before and
after fine-tuning serves both kinds of data: Wortsman et al. 2022, arXiv:2109.01903).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from torch import nn

from featureloop.core.errors import InputError
from featureloop.core.types import Float32, Task, UInt8
from featureloop.model.fit import BagSet, FitSettings, fit_recognizer, interpolate
from featureloop.model.forms import POOL, Form
from featureloop.model.lesson import ALONE, Surroundings

UNROUNDED_FIRST = (Task.DETECTION,)
"""Tasks whose recognizer loses by learning from rounded values alone."""
LAST_STEPS = 300
"""Batches of rounded values, at most; no more than are planned of unrounded ones."""
LAST_RATE = 0.3
"""Of the learning rate."""
WAY = 0.25
"""Share of the way to what rounded values led to."""


@dataclass(frozen=True, slots=True, eq=False)
class Rounding:
    """What leaves of a position vector's values: whole steps between their channels' bounds.

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

    @property
    def step(self) -> Float32:
        """Between two levels, float32 (C,)."""
        return np.asarray((self.high - self.low) / (self.levels - 1), np.float32)

    def over(self, bags: BagSet) -> BagSet:
        """The same bags in symbols."""
        symbols = [self._symbols(bags.scaled(values, rng=None, dither=0)) for values in bags.values]
        return replace(bags, values=np.stack(symbols), scale=self.step, offset=self.low)

    def _symbols(self, values: Float32) -> UInt8:
        """Of values (N, C)."""
        if not np.isfinite(values).all():
            raise InputError(
                "the feature values hold NaN or infinity, so they can't be rounded: the extractor is broken"
            )
        return np.asarray(np.clip(np.rint((values - self.low) / self.step), 0, self.levels - 1), np.uint8)


def rounding_of(form: Form, low: Sequence[float], high: Sequence[float], levels: Sequence[int]) -> Rounding | None:
    """How values between these bounds are rounded where they leave in a form, in so many levels at most.

    None of pooled and of noisy vectors: what leaves of them isn't what is learned from.
    """
    if form.base == POOL or form.noise:
        return None
    most = [min(n, form.quantize or n) for n in levels]
    return Rounding(*(np.array(each, np.float32) for each in (low, high, most)))


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
    """Train `recognizer` in place on bags, rounded as they leave.

    Of tasks of `UNROUNDED_FIRST` it learns from the bags as a device has them first, and then goes a part of the way to
    what the rounded ones teach.

    Parameters
    ----------
    bags, held
        Values as a device has them, float32, not symbols; `held` says when a training gets worse.
    rounding
        Of what leaves; None to learn from the values as they are.

    Raises
    ------
    InputError
        A value that is to be rounded is NaN or infinite.
    """
    fit = partial(fit_recognizer, recognizer, task=task, around=around)
    if rounding is None:
        fit(bags, settings=settings, held=held)
        return
    left, left_held = rounding.over(bags), None if held is None else rounding.over(held)
    if task not in UNROUNDED_FIRST:
        fit(left, settings=settings, held=left_held)
        return
    fit(bags, settings=settings, held=held)
    before = {k: v.clone() for k, v in recognizer.state_dict().items()}
    last = replace(
        settings,
        epochs=min(LAST_STEPS, settings.steps(len(bags))) * settings.batch / len(bags),
        learning_rate=LAST_RATE * settings.learning_rate,
        name=f"{settings.name} on rounded values",
    )
    fit(left, settings=last, held=left_held)
    recognizer.load_state_dict(interpolate(before, recognizer.state_dict(), WAY))
