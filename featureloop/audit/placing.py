"""What puts rows back on the grid: networks that say where a row stands and which one stands beside it, and their use.

A perceptron says of every row, by its values and what the bag holds, in which cell it stood; a bilinear form says
which row stood to the right of another and which one below. Both together are a quadratic assignment, improved by
Frank-Wolfe steps from the best linear one (Vogelstein et al. 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from featureloop.core.ports import Progress, silent
from featureloop.core.types import Bool, Float32

Places = NDArray[np.intp]
"""Cell number of each row, intp (N,), counted row by row of the grid."""
WIDTH, PAIR, FREQUENCIES = 256, 48, 12
"""Of the perceptron; components that pairs are compared by; waves along a side that a place is written in."""
BATCH, RATE, DROPOUT = 1024, 2e-3, 0.1
PAIR_SHARE = 0.2
"""Bags of which pairs are learned, for each step on rows."""
SPREAD = 0.5
"""Deviation, in cells, of what counts as nearly right while learning."""
AGREED = 0.8
"""Share of the rows that must stand in a unit as in all others."""
FLOOR = 8.0
"""A neighbour that is less probable than exp(-FLOOR) counts as none at all."""
ROUNDS = 8
"""Frank-Wolfe steps at most."""


class Placer(nn.Module):
    """Rows and their bag's moments to logits of cells, and rows of a bag to logits of neighbours."""

    waves: Tensor

    def __init__(self, channels: int, grid: int) -> None:
        super().__init__()
        waves = _waves(grid)
        self.register_buffer("waves", waves)
        self.layers = nn.Sequential(
            nn.Linear(3 * channels, WIDTH),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(WIDTH, WIDTH),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(WIDTH, len(waves)),
        )
        self.pairs = nn.Sequential(nn.Linear(channels, WIDTH // 2), nn.ReLU(), nn.Linear(WIDTH // 2, 4 * PAIR))

    def where(self, x: Tensor) -> Tensor:
        """Rows with their bag's mean and deviation (R, 3 C) to logits of cells (R, G G)."""
        logits: Tensor = self.layers(x) @ self.waves
        return logits

    def beside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (N, C) of a bag to logits of which one stands to the right of each, and which one below, (N, N)."""
        from_right, to_right, from_below, to_below = self.pairs(x).chunk(4, dim=-1)
        return from_right @ to_right.T / PAIR**0.5, from_below @ to_below.T / PAIR**0.5


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Rows whose places are known.

    Attributes
    ----------
    values
        float32 (N, C), standardized.
    cells
        intp (N,), the cell of each.
    frames
        intp (N,), which of the record's frames each is of.
    alone
        bool (N,), rows that no other of the bag equals: only of them a place is one.
    """

    values: Float32
    cells: Places
    frames: NDArray[np.intp]
    alone: Bool

    def neighbours(self, by: int, grid: int) -> tuple[Places, Places]:
        """Rows with another one to the right (1) or below (G) of them, and those."""
        inside = self.cells % grid < grid - 1 if by == 1 else self.cells < grid * (grid - 1)
        rows = {(int(f), int(c)): i for i, (f, c) in enumerate(zip(self.frames, self.cells, strict=True))}
        pairs = [
            (i, rows[int(self.frames[i]), int(self.cells[i]) + by])
            for i in np.flatnonzero(inside)
            if (int(self.frames[i]), int(self.cells[i]) + by) in rows
        ]
        found = np.array(pairs, np.intp).reshape(-1, 2)
        return found[:, 0], found[:, 1]


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What a placer says of one bag, log-probabilities float32: of cells (N, G G), of right and lower rows (N, N)."""

    cells: Float32
    right: Float32
    below: Float32


def train_placer(bags: Sequence[Placed], *, grid: int, steps: int, seed: int, progress: Progress = silent) -> Placer:
    """Learn from bags whose rows' places are known, `steps` times from rows of all of them at once."""
    torch.manual_seed(seed)
    rng = np.random.default_rng((seed, 61))
    placer, soft = Placer(bags[0].values.shape[1], grid), _softened(grid)
    optimizer = torch.optim.AdamW(placer.parameters(), lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 1)
    rows, cells = np.concatenate([in_context(b.values) for b in bags]), np.concatenate([b.cells for b in bags])
    placer.train()
    for step in range(steps):
        at = rng.integers(0, len(rows), BATCH)
        told = F.log_softmax(placer.where(torch.from_numpy(rows[at])), dim=1)
        loss = -(soft[torch.from_numpy(cells[at])] * told).sum(1).mean()
        if rng.random() < PAIR_SHARE:
            loss = loss + _pair_loss(placer, bags[int(rng.integers(len(bags)))], grid)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(placer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress("position", step + 1, steps)
    return placer.eval()


def in_context(values: Float32) -> Float32:
    """Each row beside the mean and deviation of its bag: float32 (N, C) to (N, 3 C)."""
    moments = np.concatenate([values.mean(0), values.std(0)])
    return np.concatenate([values, np.broadcast_to(moments, (len(values), len(moments)))], axis=1)


def _pair_loss(placer: Placer, bag: Placed, grid: int) -> Tensor:
    loss = torch.zeros(())
    for logits, by in zip(placer.beside(torch.from_numpy(bag.values)), (1, grid), strict=True):
        first, second = bag.neighbours(by, grid)
        if len(first):
            loss = loss + F.cross_entropy(logits[torch.from_numpy(first)], torch.from_numpy(second))
    return loss


def said_of(placer: Placer, values: Float32) -> Said:
    """What the placer says of standardized rows float32 (N, C)."""
    with torch.no_grad():
        logits = placer.where(torch.from_numpy(in_context(values))), *placer.beside(torch.from_numpy(values))
        cells, right, below = (F.log_softmax(x, dim=1).numpy() for x in logits)
    return Said(cells, right, below)


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """What the order of a record's rows keeps: units of rows that stand together as they stood in the map.

    Attributes
    ----------
    offsets
        intp (U,), cells from a unit's first row to each of its rows; one row is a unit where the order keeps nothing.
    starts
        intp (S,), cells where a unit's first row may stand.
    """

    offsets: Places
    starts: Places

    def gains(self, cells: Float32) -> Float32:
        """Log-probabilities (N, G G) of rows' cells as those of units' starts, (N / U, S)."""
        u = len(self.offsets)
        parts = cells.reshape(len(cells) // u, u, cells.shape[1])
        return np.asarray(parts[:, np.arange(u), self.starts[:, None] + self.offsets].sum(2), np.float32)

    def spread(self, starts: Places) -> Places:
        """The cells of all rows of units that start there."""
        return (starts[:, None] + self.offsets).ravel()


def kept_order(bags: Sequence[Placed], *, grid: int) -> Order:
    """What the order of rows keeps in bags whose rows' places are known: the longest unit that all agree on."""
    cells = grid * grid
    sizes = [w * w for w in range(grid, 1, -1) if all(len(b.cells) % (w * w) == 0 for b in bags)]
    for u in sizes:
        units = np.concatenate([b.cells.reshape(-1, u) for b in bags])
        away = units - units[:, :1]
        offsets = np.median(away, axis=0).astype(np.intp)
        if (away == offsets).mean() < AGREED:
            continue
        starts, counts = np.unique(units[:, 0], return_counts=True)
        usual = starts[(counts >= AGREED / 4 * counts.mean()) & (starts + offsets.max() < cells)]
        return Order(offsets, usual)
    return Order(np.zeros(1, np.intp), np.arange(cells))


def assigned(said: Said, *, grid: int, neighbours: float, order: Order | None = None, frames: int = 1) -> Places:
    """One cell for every row: the best by itself, then the best with what the neighbours say, weighed by `neighbours`.

    Where several frames share a bag, a cell takes a row of each; there, and where the order keeps units of rows,
    neighbours are not asked.
    """
    n, cells = said.cells.shape
    kept = order or Order(np.zeros(1, np.intp), np.arange(cells))
    if len(kept.offsets) > 1 and n % len(kept.offsets) == 0 and n // len(kept.offsets) <= frames * len(kept.starts):
        gains = np.tile(kept.gains(said.cells), (1, frames))
        return kept.spread(kept.starts[_solve(gains) % len(kept.starts)])
    if frames > 1:
        cell: Places = _solve(np.tile(said.cells, (1, frames))) % cells
        return cell
    places = _solve(said.cells)
    if not neighbours:
        return places
    current = np.zeros((n, cells), np.float32)
    current[np.arange(n), places] = 1
    pull = _pull(said, current, grid)
    for _ in range(ROUNDS):
        gradient = said.cells + neighbours * pull
        target = np.zeros_like(current)
        target[np.arange(n), _solve(gradient)] = 1
        step = target - current
        change = _pull(said, step, grid)
        slope, bend = float((gradient * step).sum()), neighbours * float((change * step).sum()) / 2
        if slope <= 1e-4 * n:
            break
        share = np.float32(1.0 if bend >= 0 else min(1.0, -slope / (2 * bend)))
        current, pull = current + share * step, pull + share * change
    return _solve(current + 1e-3 * said.cells / (1 + np.abs(said.cells).max()))


def _pull(said: Said, current: Float32, grid: int) -> Float32:
    """What each row would gain in each cell by its neighbours, as far as they stand there: the slope of their sum."""
    n, cells = current.shape
    board = current.reshape(n, grid, grid)
    out = np.zeros((n, grid, grid), np.float32)
    for logs, axis in ((said.right, 2), (said.below, 1)):
        score = np.maximum(logs + FLOOR, 0)
        after, before = _moved(board, axis, -1), _moved(board, axis, 1)
        out += (score @ after.reshape(n, cells)).reshape(out.shape) + (score.T @ before.reshape(n, cells)).reshape(
            out.shape
        )
    return out.reshape(n, cells)


def _moved(board: Float32, axis: int, by: int) -> Float32:
    """The board whose cell holds what stands beside it; nothing stands beyond the border."""
    out = np.roll(board, by, axis=axis)
    edge: list[slice | int] = [slice(None)] * 3
    edge[axis] = -1 if by < 0 else 0
    out[tuple(edge)] = 0
    return out


def _solve(gain: Float32) -> Places:
    return np.asarray(linear_sum_assignment(gain, maximize=True)[1], np.intp)


def _softened(grid: int) -> Tensor:
    """Wanted shares of cells for the row of each cell, float32 (G G, G G)."""
    y, x = np.divmod(np.arange(grid * grid), grid)
    squared = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2
    weights = np.exp(-squared / (2 * SPREAD**2))
    return torch.from_numpy((weights / weights.sum(1, keepdims=True)).astype(np.float32))


def _waves(grid: int) -> Tensor:
    """Cosines over the grid, the long ones strong, float32 (K, G G): places are learned from coarse to fine."""
    k = np.arange(min(grid, FREQUENCIES))
    side = np.cos(np.pi * k[:, None] * (np.arange(grid) + 0.5) / grid)
    both = (side[:, None, :, None] * side[None, :, None, :]).reshape(len(k) ** 2, grid * grid)
    strength = 2.0 / (1 + 0.2 * np.hypot(*np.meshgrid(k, k)).ravel())
    return torch.from_numpy((both * strength[:, None]).astype(np.float32))
