"""The restorer: what an attacker learned from its own records and maps, to put rows back on the grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from featureloop.audit.material import Lab, Party, Release
from featureloop.audit.places import known_places
from featureloop.audit.placing import Order, Placed, Placer, Places, assigned, kept_order, said_of, train_placer
from featureloop.core.types import Float32, Frame

WEIGHTS = (0.0, 0.3, 1.0)
"""Of the neighbours' say, tried on the attacker's own bags."""
JUDGED = 8
"""The attacker's bags that they are tried on, of which nothing is learned."""


@dataclass(frozen=True, slots=True, eq=False)
class Bag:
    """A release and where its rows stood.

    Attributes
    ----------
    placed
        The rows as they are, not standardized, with their places.
    count
        Frames in the record.
    group
        Whose the first one is.
    """

    placed: Placed
    count: int
    group: str


@dataclass(frozen=True, slots=True, eq=False)
class Restorer:
    """Puts the rows of a bag back on the grid, as an attacker learned it.

    Attributes
    ----------
    grid
        Cells per side.
    neighbours
        Weight of the neighbours' say, chosen on the attacker's own bags.
    order
        What the order of rows keeps, as the attacker sees it in its own records.
    """

    placer: Placer | None
    mean: Float32
    spread: Float32
    grid: int
    neighbours: float
    order: Order | None = None

    def place(self, values: Float32, *, frames: int = 1) -> Places:
        """The cell of each row of float32 (N, C), intp (N,), counted row by row; a pooled vector is in cell 0."""
        if self.placer is None or len(values) < 2:
            return np.zeros(len(values), np.intp)
        said = said_of(self.placer, self.standard(values))
        return assigned(said, grid=self.grid, neighbours=self.neighbours, order=self.order, frames=frames)

    def standard(self, values: Float32) -> Float32:
        """In units of the attacker's own rows."""
        return np.asarray((values - self.mean) / self.spread, np.float32)


def is_pooled(lab: Lab) -> bool:
    """Whether a frame leaves as one vector."""
    return bool(lab.package.manifest.released.statistics)


def placed_bags(lab: Lab, releases: Sequence[Release], whole: Party) -> list[Bag]:
    """Releases of a party with the places of their rows, as their maps tell."""
    frames: list[Frame] = [whole.frames[i] for r in releases for i in r.frames]
    maps = iter(lab.ordered(frames))
    out = []
    for r in releases:
        own = [next(maps) for _ in r.frames]
        placed = known_places(r.values, own, lab.package.manifest.released)
        out.append(Bag(placed, len(own), str(whole.groups[r.frames[0]])))
    return out


def learned(lab: Lab, bags: Sequence[Bag], *, steps: int, weights: Sequence[float] = WEIGHTS) -> Restorer:
    """Train on most bags, and choose the neighbours' weight on the others."""
    rows = np.concatenate([b.placed.values for b in bags])
    grid = lab.package.manifest.features.grid
    kept = kept_order([b.placed for b in bags], grid=grid)
    made = Restorer(None, rows.mean(0), rows.std(0) + np.float32(1e-6), grid, 0.0, kept)
    order = np.random.default_rng((lab.seed, 67)).permutation(len(bags))
    held = order[: min(JUDGED, len(bags) // 4)]
    rest = [replace(bags[i].placed, values=made.standard(bags[i].placed.values)) for i in order[len(held) :]]
    made = replace(made, placer=train_placer(rest, grid=grid, steps=steps, seed=lab.seed, progress=lab.progress))

    def exact(weight: float) -> float:
        return float(np.mean([exact_of(replace(made, neighbours=weight), bags[i])[0] for i in held]))

    single = all(b.count == 1 for b in bags) and len(kept.offsets) == 1
    choose = single and len(held) and len(weights) > 1
    return replace(made, neighbours=max(weights, key=exact) if choose else 0.0)


def exact_of(restorer: Restorer, bag: Bag) -> tuple[float, float, float]:
    """Share of the rows placed exactly, their mean distance from their cells, and the bits that were learned."""
    placed, grid = bag.placed, restorer.grid
    if restorer.placer is None or not placed.alone.any():
        return math.nan, math.nan, math.nan
    said = said_of(restorer.placer, restorer.standard(placed.values))
    cells = assigned(said, grid=grid, neighbours=restorer.neighbours, order=restorer.order, frames=bag.count)
    (y, x), (v, u) = np.divmod(cells, grid), np.divmod(placed.cells, grid)
    away = np.hypot(y - v, x - u)[placed.alone]
    told = said.cells[np.arange(len(cells)), placed.cells][placed.alone]
    bits = 2 * math.log2(grid) + float(told.mean()) / math.log(2)
    return float((away == 0).mean()), float(away.mean()), bits
