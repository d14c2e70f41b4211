"""The training loop: steps under a cosine, a running average of the weights, looks at held frames, and a way back.

A step's batch and its random choices follow from the seed and the step alone,
so that a training that was killed goes on as if it had not been.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featureloop.core.errors import InputError
from featureloop.core.ports import Log, Progress, silent, unlogged
from featureloop.core.types import Float32
from featureloop.model.memory import enough_for, in_parts

WARM_UP = 0.1
"""Share of the steps in which the learning rate rises."""
LOOKS = 20
"""Looks at the held frames, and checkpoints, in a training."""
PATIENCE = 5
"""Looks in a row that must be worse than the best before a training stops early."""
BAD_STEPS = 5
"""Steps in a row without a finite gradient after which a training is given up."""
WEIGHT_DECAY = 1e-3

_log = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class Compute:
    """Where a training calculates.

    Attributes
    ----------
    device
        A torch device: `cpu`, `cuda`, `cuda:1`.
    mixed
        Whether in bfloat16 where torch finds that safe, and else in float32.
    """

    device: str = "cpu"
    mixed: bool = False


def compute_on(name: str) -> Compute:
    """A torch device by name; `auto` takes a GPU with mixed precision where there is one.

    For a GPU, torch is told to calculate alike every time where it can, and warns where it can't.

    Raises
    ------
    InputError
        There is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"torch can't calculate on '{name}': {str(error)[:120]}; choose auto or cpu") from error
    if name.startswith("cuda"):
        _calculate_alike()
    return Compute(name, mixed=not name.startswith("cpu"))


def _calculate_alike() -> None:
    """What torch needs for algorithms on a GPU that give the same every time.

    https://docs.pytorch.org/docs/stable/notes/randomness.html; cuBLAS reads its setting when it is used first.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


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
        Batches that nothing is learned from: they say when to stop.
    """

    name: str
    networks: nn.Module
    rates: Sequence[tuple[nn.Module, float]]
    batch: Callable[[int], Batch]
    loss: Callable[[Tensor, Tensor], Tensor]
    held: Sequence[Batch] = ()


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

    compute: Compute = Compute()
    keeper: Keeper | None = None
    log: Log = unlogged
    progress: Progress = silent


ALONE = Surroundings()


def train(lesson: Lesson, *, pace: Pace, around: Surroundings = ALONE) -> int:
    """Train a lesson's networks, or go on where they were left, and leave the kept weights in them.

    The average of the last weights is kept; where the held items say that an
    earlier average was better by more than two standard errors, that one is. Once
    that has been so for `PATIENCE` looks in a row, the training stops.

    A step whose loss or gradient is not finite changes no weight.

    Returns
    -------
    int
        The steps taken.

    Raises
    ------
    InputError
        The GPU's memory is too small for the networks or for a single item, or `BAD_STEPS` steps in a row have no
        finite loss or gradient.
    """
    with enough_for(f"the {lesson.name}'s weights and moments"):
        return _train(lesson, pace, around)


def _train(lesson: Lesson, pace: Pace, around: Surroundings) -> int:
    networks, device = lesson.networks.to(around.compute.device), around.compute.device
    _train_mode(networks)
    learning = [(list(part.parameters()), rate) for part, rate in lesson.rates]
    highest = [rate for weights, rate in learning if weights]
    optimizer = torch.optim.AdamW(
        [{"params": weights} for weights, _ in learning if weights], weight_decay=WEIGHT_DECAY
    )
    state = State(0, _weights(networks), {}, np.array([]), 0, optimizer)
    if around.keeper is not None:
        state = around.keeper.restore(lesson, state)
    every, parts, bad = max(1, math.ceil(pace.steps / LOOKS)), 1, _Bad(lesson.name, min(BAD_STEPS, pace.steps))
    while state.step < pace.steps and state.worse < PATIENCE:
        for group, rate in zip(optimizer.param_groups, highest, strict=True):
            group["lr"] = rate * cosine(state.step, pace.steps)
        seed = pace.seed * 1_000_003 + state.step
        loss, parts, taken = _step(lesson, lesson.batch(state.step), optimizer, around.compute, parts, seed=seed)
        bad.count(state.step, loss, taken=taken)
        _follow(state.average, networks, min(pace.average, state.step / (state.step + 1)))
        state.step += 1
        around.progress(f"{lesson.name}, loss {loss:.3f}", state.step, pace.steps)
        around.log(f"{lesson.name}/loss", loss, state.step)
        around.log(f"{lesson.name}/learning rate", optimizer.param_groups[0]["lr"], state.step)
        if state.step % every == 0 or state.step == pace.steps:
            parts = _look(lesson, state, around, parts)
            if around.keeper is not None:
                ended = state.step == pace.steps or state.worse >= PATIENCE
                around.keeper.save(lesson, state, ended=ended)
    _put(networks, state.best if state.worse and state.best else state.average)
    lesson.networks.to("cpu").eval()
    if device != "cpu":
        torch.cuda.empty_cache()
    return state.step


def cosine(step: int, steps: int) -> float:
    """The learning rate's share of its highest: a linear rise, then half a cosine down to 0."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _step(
    lesson: Lesson, batch: Batch, optimizer: torch.optim.Optimizer, compute: Compute, parts: int, *, seed: int
) -> tuple[float, int, bool]:
    """One step on a batch, in as many parts as fit into memory: its loss, the parts, and whether it was taken."""

    def gradient(parts: int) -> float:
        torch.manual_seed(seed)
        optimizer.zero_grad()
        return sum(_backward(lesson, piece, batch.weights.sum(), compute) for piece in batch.pieces(parts))

    total, parts = in_parts(gradient, parts=parts, items=len(batch))
    norm = nn.utils.clip_grad_norm_(lesson.networks.parameters(), 1.0)
    finite = math.isfinite(total) and bool(torch.isfinite(norm))
    if finite:
        optimizer.step()
    return total, parts, finite


class _Bad:
    """Counts the steps that were not taken, and gives up after so many in a row."""

    def __init__(self, name: str, most: int) -> None:
        self._name, self._most = name, most
        self._in_all = self._in_a_row = 0

    def count(self, step: int, loss: float, *, taken: bool) -> None:
        """Count a step.

        Raises
        ------
        InputError
            There were too many in a row.
        """
        if taken:
            self._in_a_row = 0
            return
        self._in_all, self._in_a_row = self._in_all + 1, self._in_a_row + 1
        _log.warning("%s: step %d is left out, its gradient is not finite (%d so far)", self._name, step, self._in_all)
        if self._in_a_row >= self._most:
            raise InputError(
                f"the {self._name} has had no finite loss or gradient for {self._in_a_row} steps in a row (at step "
                f"{step}, the loss is {loss}): look for images with odd values, or take another backbone"
            )


def _backward(lesson: Lesson, piece: Batch, weight: float, compute: Compute) -> float:
    """Add a piece's share of the batch's gradient; the pieces' sum is the gradient of the weighted mean."""
    each = _losses(lesson, piece, compute)
    loss = (each * torch.from_numpy(piece.weights).to(compute.device)).sum() / float(weight)
    torch.autograd.backward(loss)
    return loss.item()


def _losses(lesson: Lesson, batch: Batch, compute: Compute) -> Tensor:
    kind = torch.device(compute.device).type
    x, y = (torch.from_numpy(a).to(compute.device) for a in (batch.x, batch.y))
    with torch.autocast(kind, dtype=torch.bfloat16, enabled=compute.mixed):
        return lesson.loss(x, y).float()


def _look(lesson: Lesson, state: State, around: Surroundings, parts: int) -> int:
    """Judge the averaged weights on what is held; remember them where they are the best so far.

    Returns the parts that a batch was judged in, at least those given.
    """
    if not lesson.held:
        return parts
    learning = _weights(lesson.networks)
    _put(lesson.networks, state.average)
    lesson.networks.eval()
    with torch.no_grad():
        found = []
        for batch in lesson.held:
            judged, parts = in_parts(
                partial(_held_losses, lesson, batch, around.compute), parts=parts, items=len(batch)
            )
            found.append(judged)
        losses = np.concatenate(found)
    _put(lesson.networks, learning)
    _train_mode(lesson.networks)
    around.log(f"{lesson.name}/held loss", float(losses.mean()), state.step)
    comparable = len(state.best_losses) and np.isfinite(state.best_losses).all()
    if not comparable or losses.mean() < state.best_losses.mean():
        state.best = {k: v.clone() for k, v in state.average.items()}
        state.best_losses, state.worse = losses, 0
    else:
        state.worse = state.worse + 1 if clearly_worse(losses, state.best_losses) else 0
    return parts


def _held_losses(lesson: Lesson, batch: Batch, compute: Compute, parts: int) -> NDArray[np.float64]:
    """Of every item of a held batch, float64 (B,)."""
    found = [_losses(lesson, piece, compute).cpu().numpy() for piece in batch.pieces(parts)]
    return np.concatenate(found).astype(np.float64)


def clearly_worse(losses: NDArray[np.float64], best: NDArray[np.float64]) -> bool:
    """Whether the losses of the same items, float64 (H,), rose by more than two standard errors of their mean rise."""
    rise = losses - best
    if len(rise) < 2:
        return False
    return bool(rise.mean() > 2.0 * rise.std(ddof=1) / math.sqrt(len(rise)))


def _weights(networks: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in networks.named_parameters()}


@torch.no_grad()
def _put(networks: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, p in networks.named_parameters():
        p.copy_(weights[name])


@torch.no_grad()
def _follow(average: dict[str, Tensor], networks: nn.Module, kept: float) -> None:
    """Move the average towards the weights, in place; it keeps a share of itself."""
    for name, p in networks.named_parameters():
        average[name].lerp_(p.detach(), 1.0 - kept)


def _train_mode(networks: nn.Module) -> None:
    """Training mode, but batch normalization stays as it was learned: the batches are small."""
    networks.train()
    for module in networks.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001  It has no public name.
            module.eval()


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
