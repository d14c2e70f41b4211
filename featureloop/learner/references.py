"""What founding frames' features are like, as means over many of them, for the package to keep.

No frame stands in the package: each mean is over frames of at least `LEAST_GROUPS` patients, or it is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featureloop.core.types import Float32
from featureloop.model.manifest import Reference, ReleasedForm
from featureloop.model.reference import apart, compared, shares_of
from featureloop.sharing.score_maps import folds

Float64 = NDArray[np.float64]
Owners = NDArray[np.intp]
Compared = NDArray[np.uint8] | NDArray[np.float32]
KINDS = 32
"""Of position vectors."""
USUAL = 5
"""Means that stand for the founding frames."""
LEAST_GROUPS = 5
GROUPS_EACH = 10
"""Patients per usual frame where there are few."""
ROWS = 30_000
"""Position vectors that the kinds are found on, evenly drawn."""
MOST_FRAMES = 2000
LEAST_DEVIATION = 0.5
"""Of a channel, in quantization steps."""
LEAST_SHARE, LEAST_SCALE = 0.03, 1e-3
"""Of what one vector has along a direction, in the root of the mean variance of all, and at least.

Few frames have hardly any variance in the last directions, where another frame has some.
"""
DECIMALS = 4


def for_reference(vectors: Float32, released: ReleasedForm) -> Compared:
    """What of a founding frame the reference is made of, (N, C): whole steps as uint8, else float32."""
    values = compared(vectors, released)
    return values.astype(np.float32) if released.directions else values.astype(np.uint8)


def founding_reference(frames: Sequence[Compared], groups: Sequence[str]) -> Reference | None:
    """The reference of founding frames; None where they are of too few patients.

    Parameters
    ----------
    frames
        Per frame what `for_reference` makes of it, (N, C); N = 1 where one vector leaves.
    groups
        Per frame whose it is.
    """
    every = max(1, -(-len(frames) // MOST_FRAMES))
    chosen = [x.astype(np.float64) for x in frames[::every]]
    _, owners = np.unique(np.array(groups)[::every], return_inverse=True)
    count = int(owners.max(initial=-1)) + 1
    if count < LEAST_GROUPS:
        return None
    deviations = np.concatenate(chosen).std(axis=0)
    whole = np.issubdtype(frames[0].dtype, np.integer)
    least = LEAST_DEVIATION if whole else max(LEAST_SHARE * float(np.sqrt((deviations**2).mean())), LEAST_SCALE)
    scale = np.maximum(deviations, least)
    scaled = [x / scale for x in chosen]
    if all(len(x) == 1 for x in chosen):
        usual, members = _means(np.concatenate(scaled), owners, _usual(count))
        return _reference((), usual, scale, members, owners)
    kinds = _kinds(scaled, owners)
    shares = np.stack([shares_of(x, kinds) for x in scaled])
    usual, members = _means(np.sqrt(shares), owners, _usual(count))
    return _reference(kinds, usual**2 / (usual**2).sum(axis=1, keepdims=True), scale, members, owners)


def crossed_distances(frames: Sequence[Compared], groups: Sequence[str]) -> list[float]:
    """How far each founding frame is from a reference of the other patients' frames, made of four fifths of them.

    The frames held for calibration are a tenth of the founding ones; where these are few, the ends of a handful of
    distances say little of how far a usual frame may be. Parameters as in `founding_reference`.

    Returns
    -------
    list[float]
        Of at most `MOST_FRAMES` frames; none where a reference can't be made.
    """
    every = max(1, -(-len(frames) // MOST_FRAMES))
    chosen, owners = frames[::every], list(groups)[::every]
    found: list[float] = []
    for rest, held in folds(owners):
        reference = founding_reference([chosen[i] for i in rest], [owners[i] for i in rest])
        if reference is None:
            return []
        found += [apart(chosen[i].astype(np.float64), reference) for i in held]
    return found


def _usual(groups: int) -> int:
    return max(1, min(USUAL, groups // GROUPS_EACH))


def _kinds(frames: Sequence[Float64], owners: Owners) -> Float64:
    rows = np.concatenate(frames)
    of = np.repeat(owners, [len(x) for x in frames])
    every = max(1, len(rows) // ROWS)
    return _means(rows[::every], of[::every], KINDS)[0]


def _means(values: Float64, owners: Owners, count: int) -> tuple[Float64, list[NDArray[np.intp]]]:
    """Means of clusters of at least `LEAST_GROUPS` patients, (P, C), and the numbers of what each is over."""
    from sklearn.cluster import KMeans

    count = min(count, len(np.unique(values, axis=0)))
    belongs = KMeans(count, n_init=3, max_iter=60, random_state=0).fit(values).labels_
    members = [np.flatnonzero(belongs == k) for k in range(count)]
    kept = [m for m in members if len(np.unique(owners[m])) >= LEAST_GROUPS] or [np.arange(len(values))]
    return np.stack([values[m].mean(axis=0) for m in kept]), kept


def _reference(
    kinds: Float64 | tuple[()], usual: Float64, scale: Float64, members: Sequence[NDArray[np.intp]], owners: Owners
) -> Reference:
    def rounded(rows: Float64 | tuple[()]) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(round(float(x), DECIMALS) for x in row) for row in rows)

    return Reference(
        kinds=rounded(kinds),
        usual=rounded(usual),
        scale=tuple(round(float(x), DECIMALS) for x in scale),
        frames=min(len(m) for m in members),
        groups=min(len(np.unique(owners[m])) for m in members),
    )
