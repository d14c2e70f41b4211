"""How finely the values of a pooled vector are told, and what their levels stand for.

A value's step is as wide as recognition allows: by the Fisher information of the trained recognizer
(`model.sensitivity`), mixed with the values' plain spread, so that there is something left for other sites to teach
from. Over all values one common step in that measure fits a bit budget (reverse water-filling, as `model.neck` does it
for position vectors). A level stands for the mean of the values that founding frames have there, which is what costs
least where levels are few (Lloyd 1982, IEEE Transactions on Information Theory 28(2)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from featureloop.core.types import Float32, Frame, Task, UInt8
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.manifest import Manifest, PooledTables, ReleasedForm
from featureloop.model.neck import MAX_LEVELS, symbol_entropies
from featureloop.model.pooling import pooled_bounds
from featureloop.model.runtime import Runtime
from featureloop.model.sensitivity import felt_by_value
from featureloop.sharing import codec
from featureloop.sharing.anonymize import release_vectors

Float64 = NDArray[np.float64]
BREADTH = 0.1
"""Share of the measure that treats all values alike by their spread."""
ASKED_FRAMES = 1000
"""Founding frames that say how wide the steps may be."""
WITHIN = 0.98
"""A centroid is at most so much of half a step from its level's middle, so that rounding leaves it there."""
DECIMALS = 6
LEAST_SPREAD = 1e-6


def pooled_vectors(runtime: Runtime, frames: Sequence[Frame]) -> Float32:
    """What is pooled of frames, float32 (M, C): of up to `ASKED_FRAMES`, evenly drawn."""
    released = runtime.package.manifest.released
    every = max(1, -(-len(frames) // ASKED_FRAMES))
    return np.concatenate([release_vectors(runtime.extract(f.pixels), released) for f in frames[::every]])


def sensitive_levels(
    form: ReleasedForm,
    recognizer: nn.Module,
    vectors: Float32,
    *,
    task: Task,
    bits: float,
    seed: int,
    breadth: float = BREADTH,
) -> ReleasedForm:
    """The form with levels by what the trained recognizer feels of each value; tables are still to be counted.

    Parameters
    ----------
    vectors
        Pooled vectors of founding frames, float32 (M, C).
    bits
        What a vector may take by its values' own entropies.
    breadth
        Share of the measure that treats all values alike by their spread, in (0, 1].
    """
    form = replace(form, pooled=None)
    spread = np.maximum(vectors.std(axis=0, dtype=np.float64), LEAST_SPREAD)
    recognizer.eval()
    felt = felt_by_value(recognizer, vectors, task=task, seed=seed) * spread**2
    mean = felt.mean()
    weight = (1 - breadth) * felt / mean + breadth if mean > 0 else np.ones_like(felt)
    steps = spread / np.sqrt(weight)
    low, high = 1e-3, 1e3
    for _ in range(40):
        middle = (low * high) ** 0.5
        if symbol_entropies(codec.quantize(vectors, stepped(form, middle * steps, vectors))).sum() > bits:
            low = middle
        else:
            high = middle
    return stepped(form, high * steps, vectors)


def stepped(form: ReleasedForm, steps: Float64, vectors: Float32) -> ReleasedForm:
    """The form with other steps, float64 (C,), and tables as if all symbols were as frequent.

    A level's middle is at the vectors' mean, so that a value that needs no bits takes none, and the bounds are moved
    outwards to whole steps. No channel has more levels than the form allows: its step is wider then.
    """
    low, high = pooled_bounds(form.statistics, form.channels // len(form.statistics))
    most = min(form.form.quantize or MAX_LEVELS, MAX_LEVELS)
    lows, highs, levels = [], [], []
    for a, b, mean, step in zip(low, high, vectors.mean(axis=0, dtype=np.float64), steps, strict=True):
        middle, wide = float(mean), max(float(step), (b - a) / max(1, most - 2))
        below, above = math.ceil((middle - a) / wide - 1e-9), math.ceil((b - middle) / wide - 1e-9)
        if below + above + 1 > most:  # Two or three levels: the bounds alone.
            middle, wide, below, above = a, (b - a) / (most - 1), 0, most - 1
        lows.append(middle - below * wide)
        highs.append(middle + above * wide)
        levels.append(max(2, below + above + 1))
    return replace(
        form,
        low=tuple(lows),
        high=tuple(highs),
        levels=tuple(levels),
        frequencies=codec.flat_tables(levels),
        pooled=None,
    )


def widened(form: ReleasedForm, times: float, vectors: Float32) -> ReleasedForm:
    """The form with steps so many times wider, of vectors float32 (M, C), with what its levels stand for."""
    steps = times * (np.array(form.high) - np.array(form.low)) / (np.array(form.levels) - 1.0)
    made = stepped(form, steps, vectors)
    return replace(made, pooled=pooled_tables(made, vectors))


def with_sensitive_levels(
    draft: Manifest, recognizer: nn.Module, vectors: Float32, settings: FoundingSettings
) -> Manifest:
    """A manifest of one task whose pooled values have `sensitive_levels`."""
    released = sensitive_levels(
        draft.released, recognizer, vectors, task=Task(draft.task), bits=settings.pooled_bits, seed=settings.seed
    )
    return replace(draft, released=released)


def centroids(form: ReleasedForm, vectors: Float32, symbols: UInt8 | None = None) -> tuple[tuple[float, ...], ...]:
    """What each channel's levels stand for: the mean of the values float32 (M, C) there, or the middle.

    Parameters
    ----------
    symbols
        Of the values, uint8 (M, C); None for the nearest levels.
    """
    symbols = codec.quantize(vectors, replace(form, pooled=None)) if symbols is None else symbols
    out = []
    for c, (low, high, n) in enumerate(zip(form.low, form.high, form.levels, strict=True)):
        step = (high - low) / (n - 1)
        middles = low + step * np.arange(n)
        count = np.bincount(symbols[:, c], minlength=n)
        total = np.bincount(symbols[:, c], vectors[:, c].astype(np.float64), minlength=n)
        mean = np.where(count > 0, total / np.maximum(count, 1), middles)
        reach = WITHIN * step / 2
        out.append(tuple(np.round(np.clip(mean, middles - reach, middles + reach), DECIMALS).tolist()))
    return tuple(out)


def pooled_tables(form: ReleasedForm, vectors: Float32 | None) -> PooledTables:
    """The tables of a pooled form for founding frames' values, float32 (M, C), where these are known.

    Payloads have no usual size yet.
    """
    return PooledTables(centroids(form, np.zeros((0, form.channels), np.float32) if vectors is None else vectors))
