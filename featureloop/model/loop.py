"""The training loop: steps under a cosine, a running average of the weights, looks at held frames, and a way back.

A step's batch and its random choices follow from the seed and the step alone,
so that a training that was killed goes on as if it had not been.
"""

from __future__ import annotations

import logging
import math
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featureloop.core.errors import InputError
from featureloop.model.compute import Compute
from featureloop.model.lesson import ALONE, Batch, Lesson, Pace, State, Surroundings
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
