"""Where a record's rows stood, for those who made it; and what one vector alone tells of that."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import nn

from featureloop.audit.placing import Placed
from featureloop.core.intervals import Float64, Statistic
from featureloop.core.types import Float32
from featureloop.model.manifest import ReleasedForm
from featureloop.sharing import codec

ROWS, HIDDEN, EPOCHS, BATCH, RIDGE = 40_000, 128, 10, 1024, 1.0
"""Of the probes: rows that they learn from, width, passes, rows a step, and the ridge."""


def known_places(values: Float32, maps: Sequence[Float32], form: ReleasedForm) -> Placed:
    """Find each released row in its frames' maps.

    A row is looked up by its quantized values; where a form changed them (by noise), by the nearest ones.

    Parameters
    ----------
    values
        float32 (N, C), a record's rows.
    maps
        float32 (G G, C) of each of its frames, in order.
    """
    ordered = np.concatenate([codec.dequantize(codec.quantize(m, form), form) for m in maps])
    places: dict[bytes, deque[int]] = defaultdict(deque)
    for i, row in enumerate(ordered):
        places[row.tobytes()].append(i)
    alone = np.array([len(places[row.tobytes()]) < 2 for row in values], bool)
    at = np.array([p.popleft() if (p := places[row.tobytes()]) else -1 for row in values], np.intp)
    lost = np.flatnonzero(at < 0)
    if len(lost):
        free = np.setdiff1d(np.arange(len(ordered)), at)
        away = ((values[lost, None] - ordered[free]) ** 2).sum(2)
        rows, columns = linear_sum_assignment(away)
        at[lost[rows]] = free[columns]
    frame, cell = np.divmod(at, len(maps[0]))
    return Placed(values, cell, frame, alone)


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """Squared errors of a probe and of always saying the middle, float64 (M, 3) a bag: of x, y, and the border."""

    errors: Float64
    spread: Float64

    def r2(self, columns: tuple[int, ...]) -> Statistic:
        """Share of the spread over some bags that the probe explains."""

        def statistic(at: NDArray[np.intp]) -> float:
            own = np.ix_(at, np.array(columns))
            return float(1 - self.errors[own].sum() / self.spread[own].sum())

        return statistic


def probed(mine: Sequence[Placed], theirs: Sequence[Placed], *, grid: int, seed: int) -> Mapping[str, Told]:
    """What a ridge regression and a perceptron, learned on own rows, tell of the places of others' rows."""
    rng = np.random.default_rng((seed, 73))
    x, y = np.concatenate([b.values for b in mine]), np.concatenate([_targets(b, grid) for b in mine])
    some = rng.permutation(len(x))[:ROWS]
    x, y = x[some], y[some]
    mean, spread, middle, wide = x.mean(0), x.std(0) + np.float32(1e-6), y.mean(0), y.std(0) + np.float32(1e-6)
    x, y = (x - mean) / spread, (y - middle) / wide
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1], dtype=np.float32), x.T @ y)
    sayers: dict[str, Callable[[Float32], Float32]] = {
        "ridge": lambda v: np.asarray(v @ weights, np.float32),
        "perceptron": _perceptron(x, y, rng, seed),
    }
    wanted = [(_targets(b, grid) - middle) / wide for b in theirs]
    centred = np.array([(w.astype(np.float64) ** 2).sum(0) for w in wanted])
    out = {}
    for name, say in sayers.items():
        said = [say(np.asarray((b.values - mean) / spread, np.float32)) for b in theirs]
        errors = [((s - w).astype(np.float64) ** 2).sum(0) for s, w in zip(said, wanted, strict=True)]
        out[name] = Told(np.array(errors), centred)
    return out


def _targets(bag: Placed, grid: int) -> Float32:
    """x, y and the distance from the nearest border of each row, as shares of the grid: float32 (N, 3)."""
    row, column = np.divmod(bag.cells, grid)
    y, x = (row + 0.5) / grid, (column + 0.5) / grid
    return np.stack([x, y, np.minimum.reduce([x, 1 - x, y, 1 - y])], axis=1).astype(np.float32)


def _perceptron(x: Float32, y: Float32, rng: np.random.Generator, seed: int) -> Callable[[Float32], Float32]:
    torch.manual_seed(seed)
    layers = nn.Linear(x.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 3)
    network = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-3)
    batches = [at for _ in range(EPOCHS) for at in np.array_split(rng.permutation(len(x)), -(-len(x) // BATCH))]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    data, wanted = torch.from_numpy(np.asarray(x, np.float32)), torch.from_numpy(np.asarray(y, np.float32))
    for at in batches:
        loss = nn.functional.mse_loss(network(data[at]), wanted[at])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()

    def say(v: Float32) -> Float32:
        with torch.no_grad():
            found: Float32 = network(torch.from_numpy(v)).numpy()
        return found

    return say
