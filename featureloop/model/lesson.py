"""What a training is given: its networks, batches and pace, who watches it, and the state that it goes on from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featureloop.core.ports import Log, Progress, silent, unlogged
from featureloop.core.types import Float32
from featureloop.model.compute import CPU, Compute


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one step learns from.

    Attributes
    ----------
    x
        float32 (B, ...), what the networks take.
    y
        float32 (B, N, T), rows of targets.
    weights
        float32 (B,), of each item in the loss.
    """

    x: Float32
    y: Float32
    weights: Float32

    def __len__(self) -> int:
        return len(self.x)

    def pieces(self, parts: int) -> Iterator[Batch]:
        """The same items in at most so many smaller batches."""
        for at in np.array_split(np.arange(len(self)), min(parts, len(self))):
            yield Batch(self.x[at], self.y[at], self.weights[at])


class Draw:
    """Which items a step's batch is made of.

    Where all are drawn alike, each comes once before any comes again.

    Parameters
    ----------
    shares
        float64 (M,), how often each item is drawn; sums to 1.
    """

    def __init__(self, shares: NDArray[np.float64], *, size: int, seed: int) -> None:
        self._shares = shares
        self._alike = bool(np.ptp(shares) == 0)
        self._size = size
        self._seed = seed

    def __call__(self, step: int) -> NDArray[np.intp]:
        """The items of a step, intp (size,)."""
        if not self._alike:
            return self.random(step).choice(len(self._shares), self._size, p=self._shares)
        places = np.arange(step * self._size, (step + 1) * self._size)
        rounds, within = np.divmod(places, len(self._shares))
        orders = {r: np.random.default_rng((self._seed, 1, r)).permutation(len(self._shares)) for r in set(rounds)}
        return np.array([orders[r][i] for r, i in zip(rounds, within, strict=True)])

    def random(self, step: int) -> np.random.Generator:
        """Random choices of a step."""
        return np.random.default_rng((self._seed, 0, step))


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What is trained, on what, by which loss.

    Attributes
    ----------
    name
        For progress, logs and checkpoints.
    networks
        All that is trained, left with the kept weights.
    rates
        Its parts with their highest learning rates.
    batch
        The batch of a step; the same step gives the same batch.
    loss
        (B,) of `batch.x` and `batch.y`.
    held
        Batches that nothing is learned from, gone through anew at each look: they say when to stop.
    """

    name: str
    networks: nn.Module
    rates: Sequence[tuple[nn.Module, float]]
    batch: Callable[[int], Batch]
    loss: Callable[[Tensor, Tensor], Tensor]
    held: Iterable[Batch] = ()


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a lesson lasts.

    Attributes
    ----------
    steps
        Batches.
    average
        Decay of the running average of the weights, which is what is kept.
    seed
        Of dropout.
    """

    steps: int
    average: float
    seed: int


@dataclass(slots=True, eq=False)
class State:
    """Where a training stands: all that a checkpoint holds.

    Attributes
    ----------
    step
        Steps taken.
    average, best
        Averaged weights by name, and those of the best look.
    best_losses
        float64 (H,), the best look's loss of every held item.
    worse
        Looks in a row that were clearly worse than the best.
    optimizer
        AdamW, with its moments.
    """

    step: int
    average: dict[str, Tensor]
    best: dict[str, Tensor]
    best_losses: NDArray[np.float64]
    worse: int
    optimizer: torch.optim.Optimizer


class Keeper(Protocol):
    """Where the state of a lesson is kept: `model.checkpoint`, or nowhere."""

    def save(self, lesson: Lesson, state: State, *, ended: bool) -> None:
        """Keep it, in place of what was kept before; at once where the lesson has ended."""
        ...

    def restore(self, lesson: Lesson, state: State) -> State:
        """What was kept of this lesson, its weights put into the networks; where nothing was, the state given."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Who watches a training and where it runs.

    Attributes
    ----------
    compute
        Where it calculates.
    keeper
        Keeps its state, for a restart; None keeps nothing.
    log
        Takes its curves.
    progress
        Shows it to a person.
    """

    compute: Compute = CPU
    keeper: Keeper | None = None
    log: Log = unlogged
    progress: Progress = silent


ALONE = Surroundings()
