"""How finely a pooled vector is told, and what its levels stand for.

A step is as wide as recognition allows: errors are measured by the Fisher information of the trained recognizer
(`model.sensitivity`), mixed with the values' plain spread, so that there is something left for other sites to teach
from. Pooled values go together, and each told by itself says again what others say; so what is told is what the vector
has along the directions in which founding frames differ most in that measure, with one step in all of them that fits a
bit budget (transform coding: Huang & Schultheiss 1963, IEEE Transactions on Communications Systems 11(3); as
`model.neck` does it for position vectors). A level stands for the mean of what founding frames have there, which costs
least where levels are few (Lloyd 1982, IEEE Transactions on Information Theory 28(2)). Where the form itself says how
many levels a value has, or adds noise to each, values are told by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from featureloop.core.types import Float32, Frame, Task, UInt8
from featureloop.model.forms import Form
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.manifest import Manifest, PooledTables, ReleasedForm
from featureloop.model.neck import MAX_LEVELS, metric_root, symbol_entropies, with_signs
from featureloop.model.pooling import Directions, pooled_bits, pooled_bounds, turned
from featureloop.model.runtime import Runtime
from featureloop.model.sensitivity import fisher_information
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
DIGITS = 6
"""Of a direction's values."""
DRAWS = 16
"""How often each vector's labels are drawn for the Fisher information."""
REACH = 3.0
"""So many standard deviations of founding frames are within a direction's bounds."""
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
    by_value: bool = False,
) -> ReleasedForm:
    """The form with levels by what the trained recognizer feels of a vector; tables are still to be counted.

    Parameters
    ----------
    vectors
        Pooled vectors of founding frames, float32 (M, C).
    bits
        What a vector may take by the entropies of what is told along each direction.
    breadth
        Share of the measure that treats all values alike by their spread, in (0, 1].
    by_value
        Tell each value by itself, as always where the form says how many levels one has.
    """
    own = by_value or form.form.quantize > 0
    spread = np.maximum(vectors.std(axis=0, dtype=np.float64), LEAST_SPREAD)
    root = metric_root(_felt(recognizer, vectors, task=task, seed=seed), spread, breadth)
    form = replace(form, pooled=None, directions=() if own else telling_directions(vectors, root / spread))
    steps = spread / np.linalg.norm(root, axis=0) if own else np.ones(len(spread))
    low, high = 1e-3, 1e3
    for _ in range(40):
        middle = (low * high) ** 0.5
        if symbol_entropies(codec.quantize(vectors, stepped(form, middle * steps, vectors))).sum() > bits:
            low = middle
        else:
            high = middle
    return stepped(form, high * steps, vectors)


def _felt(recognizer: nn.Module, vectors: Float32, *, task: Task, seed: int) -> Float64:
    """The Fisher information of pooled vectors float32 (M, C), (C, C)."""
    recognizer.eval()
    batches = [vectors[:, :, None, None]] * DRAWS
    return fisher_information(lambda x: recognizer(x[:, :, 0, 0][:, None]), batches, task=task, seed=seed)


def telling_directions(vectors: Float32, root: Float64) -> Directions:
    """The directions in which vectors float32 (M, C) differ, the most first: (C, C).

    Parameters
    ----------
    root
        Of the measure, float64 (C, C): an error e costs the squared length of `root @ e`. Errors along any of the
        directions cost as much, and what vectors have along them doesn't go together.
    """
    _, found = np.linalg.eigh(root @ np.cov(vectors.T.astype(np.float64), bias=True) @ root.T)
    rows = with_signs((found.T[::-1] @ root).T).T
    return tuple(tuple(float(f"{x:.{DIGITS}g}") for x in row) for row in rows)


def stepped(form: ReleasedForm, steps: Float64, vectors: Float32) -> ReleasedForm:
    """The form with other steps, float64 (C,), and tables as if all symbols were as frequent.

    A level's middle is at the mean of the vectors, float32 (M, C), so that a value that needs no bits takes none, and
    the bounds are moved outwards to whole steps. No channel has more levels than the form allows: its step is wider
    then.
    """
    low, high = pooled_bounds(form.statistics, form.channels // len(form.statistics))
    most = min(form.form.quantize or MAX_LEVELS, MAX_LEVELS)
    values = turned(vectors, form.directions)
    if form.directions:
        low, high = _reached(values)
    lows, highs, levels = [], [], []
    for a, b, mean, step in zip(low, high, values.mean(axis=0), steps, strict=True):
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


def _reached(values: Float64) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Bounds of each direction for founding frames' values float64 (M, C).

    What is unlike the founding frames would be told the more finely the further it is from them; it ends at the bounds.
    """
    mean, far = values.mean(axis=0), REACH * np.maximum(values.std(axis=0), LEAST_SPREAD)
    return tuple((mean - far).tolist()), tuple((mean + far).tolist())


def widened(form: ReleasedForm, times: float, vectors: Float32) -> ReleasedForm:
    """The form with steps so many times wider, of vectors float32 (M, C), with what its levels stand for."""
    steps = times * (np.array(form.high) - np.array(form.low)) / (np.array(form.levels) - 1.0)
    made = stepped(form, steps, vectors)
    return replace(made, pooled=pooled_tables(made, vectors))


def with_sensitive_levels(
    draft: Manifest, recognizer: nn.Module, vectors: Float32, settings: FoundingSettings, *, form: Form
) -> Manifest:
    """A manifest of one task whose pooled vectors have `sensitive_levels`, and are to leave in a form.

    Noise is of each value, so each is told by itself under it.
    """
    released = sensitive_levels(
        draft.released,
        recognizer,
        vectors,
        task=Task(draft.task),
        bits=settings.pooled_bits or pooled_bits(len(draft.labels)),
        seed=settings.seed,
        by_value=form.noise > 0,
    )
    return replace(draft, released=released)


def centroids(form: ReleasedForm, vectors: Float32, symbols: UInt8 | None = None) -> tuple[tuple[float, ...], ...]:
    """What each channel's levels stand for: the mean of what vectors float32 (M, C) have there, or the middle.

    Parameters
    ----------
    symbols
        Of the vectors, uint8 (M, C); None for the nearest levels.
    """
    symbols = codec.quantize(vectors, replace(form, pooled=None)) if symbols is None else symbols
    values = turned(vectors, form.directions)
    out = []
    for c, (low, high, n) in enumerate(zip(form.low, form.high, form.levels, strict=True)):
        step = (high - low) / (n - 1)
        middles = low + step * np.arange(n)
        count = np.bincount(symbols[:, c], minlength=n)
        total = np.bincount(symbols[:, c], values[:, c], minlength=n)
        mean = np.where(count > 0, total / np.maximum(count, 1), middles)
        reach = WITHIN * step / 2
        out.append(tuple(np.round(np.clip(mean, middles - reach, middles + reach), DECIMALS).tolist()))
    return tuple(out)


def pooled_tables(form: ReleasedForm, vectors: Float32 | None) -> PooledTables:
    """The tables of a pooled form for founding frames' values, float32 (M, C), where these are known.

    Payloads have no usual size yet.
    """
    return PooledTables(centroids(form, np.zeros((0, form.channels), np.float32) if vectors is None else vectors))
