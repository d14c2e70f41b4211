"""Training a recognizer on bags: the same function at the learner, in controls and on a scaled-out engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featureloop.core.ports import Progress, silent
from featureloop.core.types import Float32, Task, UInt8
from featureloop.model.losses import recognition_loss


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How a recognizer is trained on.

    Attributes
    ----------
    epochs
        Passes over as many bags as there are.
    batch, learning_rate
        Of AdamW with a cosine schedule after a short warm-up.
    dither
        Half-width of the uniform noise added to the values, in quantization
        steps; 0 learns from the coded values as they are.
    average
        Decay of the exponential moving average of the weights that is kept.
    seed
        Of every random choice.
    """

    epochs: float = 8.0
    batch: int = 16
    learning_rate: float = 1e-3
    dither: float = 0.0
    average: float = 0.99
    seed: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class BagSet:
    """Bags of equal N to learn from.

    Attributes
    ----------
    values
        Position vectors (M, N, C): uint8 symbols, or float32 values.
    targets
        uint8 (M, N, T) of 0 and 1.
    shares
        float64 (M,), how often each bag is drawn; sums to 1.
    weights
        float32 (M,), weight in the loss.
    scale, offset
        float32 (C,): a value is `offset + scale * values`; one quantization step is `scale`.
    """

    values: UInt8 | Float32
    targets: UInt8
    shares: NDArray[np.float64]
    weights: Float32
    scale: Float32
    offset: Float32

    def __len__(self) -> int:
        return len(self.values)


def running_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """The step of an exponential moving average of weights, started by a plain mean."""

    def step(kept: Tensor, new: Tensor, n: Tensor | int) -> Tensor:
        share = min(decay, float(n) / (float(n) + 1.0))
        return kept * share + new * (1.0 - share)

    return step


def fit_recognizer(
    recognizer: nn.Module, bags: BagSet, *, task: Task, settings: FitSettings, progress: Progress = silent
) -> None:
    """Train `recognizer` in place on the bags, and leave the averaged weights in it."""
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    steps = max(1, round(settings.epochs * len(bags) / settings.batch))
    optimizer = torch.optim.AdamW(recognizer.parameters(), lr=settings.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps + 1, pct_start=0.1, cycle_momentum=False
    )
    average = torch.optim.swa_utils.AveragedModel(recognizer, avg_fn=running_average(settings.average))
    recognizer.train()
    for step in range(steps):
        at = rng.choice(len(bags), settings.batch, p=bags.shares)
        x = bags.values[at].astype(np.float32)
        if settings.dither and bags.values.dtype == np.uint8:
            x += rng.uniform(-settings.dither, settings.dither, x.shape).astype(np.float32)
        x = bags.offset + bags.scale * x
        y = torch.from_numpy(bags.targets[at].astype(np.float32))
        logits = recognizer(torch.from_numpy(x))
        loss = recognition_loss(logits, y, task=task, weights=torch.from_numpy(bags.weights[at]))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(recognizer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(recognizer)
        progress(f"training, loss {loss.item():.3f}", step + 1, steps)
    recognizer.load_state_dict(average.module.state_dict())
    recognizer.eval()
