"""A neck trained with what it must not tell, beginning from the computed one (docs/adr/010).

The backbone stays as it was tuned. The neck learns with a recognizer of what it releases, under noise of one
quantization step, while adversaries learn to tell from the same releases where a vector stood and which takes
are of the same patient; what they know, the neck pays for (Ganin et al. 2016, arXiv:1505.07818). The
adversaries learn in every step, the neck in every third, against adversaries that stand still; it pays
nothing once they are at chance, so that nothing is gained by misleading them further.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featureloop.core.types import Task
from featureloop.model.adversaries import Adversaries
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.lesson import Batch, Draw, Lesson, Pace, Surroundings
from featureloop.model.loop import train
from featureloop.model.losses import recognition_loss
from featureloop.model.manifest import RecognizerSpec
from featureloop.model.neck import LEAST_BITS, Neck, Transform, entropies
from featureloop.model.recognizers import GlobalRecognizer, build_recognizer
from featureloop.model.takes import TOLD, Form, Pairs, Takes, form_of, told_of

Float64 = NDArray[np.float64]
TURNS = 3
"""The adversaries' steps to one of the neck."""
WARM, RAMPED = 0.15, 0.4
"""Shares of the steps until which the neck stands still, and from which on the adversaries count in full."""
ADVERSARY_RATE, NECK_RATE = 2.0, 5.0
"""Learning rates, as shares of the recognizer's."""
OVERDRAWN = 10.0
"""What twice the computed neck's bits cost in the loss."""


@dataclass(frozen=True, slots=True, eq=False)
class PrivateNeck:
    """A neck that was trained.

    Attributes
    ----------
    neck
        From the takes' basis to channels.
    levels, bits
        As of `neck.Transform`.
    """

    neck: Neck
    levels: tuple[int, ...]
    bits: float


def starting_neck(computed: Transform, basis: Transform, *, hidden: int, seed: int) -> Neck:
    """The computed neck as a function of the basis, whose directions its own are among."""
    d = np.float64
    mixed, *_ = np.linalg.lstsq(basis.weight.T.astype(d), computed.weight.T.astype(d), rcond=None)
    torch.manual_seed(seed)
    neck = Neck(len(basis.bias), len(computed.bias), hidden=hidden)
    _put(neck.transform, mixed.T, computed.bias.astype(d) - mixed.T @ basis.bias.astype(d))
    return neck


def on_taps(neck: Neck, basis: Transform) -> Neck:
    """A neck of the basis as a neck of the joined taps: the basis goes into its first layers."""
    weight, bias = basis.weight.astype(np.float64), basis.bias.astype(np.float64)
    hidden = 0 if neck.down is None else neck.down.out_channels
    out = Neck(weight.shape[1], neck.transform.out_channels, hidden=hidden)
    for source, target in ((neck.transform, out.transform), (neck.down, out.down)):
        if source is not None and target is not None and source.bias is not None:
            own = source.weight.detach()[:, :, 0, 0].double().numpy()
            _put(target, own @ weight, own @ bias + source.bias.detach().double().numpy())
    if neck.up is not None and out.up is not None:
        out.up.load_state_dict(neck.up.state_dict())
    return out


def _put(layer: nn.Conv2d, weight: Float64, bias: Float64) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight)[:, :, None, None])
        if layer.bias is not None:
            layer.bias.copy_(torch.from_numpy(bias))


def train_neck(
    start: Neck,
    levels: Sequence[int],
    takes: Takes,
    spec: RecognizerSpec,
    *,
    task: Task,
    shares: Float64,
    settings: FoundingSettings,
    around: Surroundings,
) -> PrivateNeck:
    """Train a neck of the takes' basis, in place, against what it must not tell.

    Parameters
    ----------
    start
        The computed neck as a function of the basis.
    levels
        Quantization levels of its channels.
    shares
        float64 (frames,), how often each frame is drawn; sums to 1.
    """
    form = form_of(levels, settings.statistics if spec.anonymizer == "pool" else ())
    stage = _Stage(start, form, takes, spec, task=task, shares=shares, settings=settings)
    rate = settings.learning_rate
    rates = [(start, NECK_RATE * rate), (stage.recognizer, rate), (stage.adversaries, ADVERSARY_RATE * rate)]
    lesson = Lesson("neck", stage, rates, stage.batch, stage.loss)
    train(lesson, pace=Pace(stage.steps, settings.average, settings.seed), around=around)
    if not form.rows:
        return PrivateNeck(start, tuple(levels), 0.0)
    return _within_budget(start, np.array(levels), takes, settings.bits_per_vector)


class _Stage(nn.Module):
    """The networks that learn in this stage, and by what."""

    def __init__(
        self,
        neck: Neck,
        form: Form,
        takes: Takes,
        spec: RecognizerSpec,
        *,
        task: Task,
        shares: Float64,
        settings: FoundingSettings,
    ) -> None:
        super().__init__()
        self.steps = TURNS * settings.adversary_steps(takes.frames)
        self._step = 0
        self._form, self._takes, self._task, self._settings = form, takes, task, settings
        self._draw, self._pairs = Draw(shares, size=settings.batch, seed=settings.seed), Pairs(takes)
        torch.manual_seed(settings.seed)
        self.neck = neck
        self.recognizer = build_recognizer(spec, channels=len(form.step))
        self.adversaries = Adversaries(len(form.step), rows=form.rows)
        found = released(neck, form, takes, takes.originals)
        self._bits = gaussian_bits(found, form).item()
        if isinstance(self.recognizer, GlobalRecognizer):
            self.recognizer.standardize_by(found)

    def batch(self, step: int) -> Batch:
        """Two takes of the group of each drawn frame."""
        self._step = step
        return self._takes.batch(self._pairs(self._draw(step), self._draw.random(step)))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """What is learned by in the batch's step, (B,)."""
        places, groups = told_of(y)
        turn, moves = self._step % TURNS == 0, self._step >= WARM * self.steps
        with torch.set_grad_enabled(turn and moves):
            clean = self._form.of(self.neck(x[..., None])).float()
        left = self._form.dithered(clean)
        loss = self.adversaries(left.detach(), places, groups).loss()
        if turn:
            targets = y[:, : self._takes.targets.shape[1], :-TOLD]
            loss = loss + recognition_loss(self.recognizer(left).float(), targets, task=self._task)
        if turn and moves:
            told = self.adversaries.frozen(left, places, groups).told()
            loss = loss + self._strength() * told + self._rate(clean)
        return cast(Tensor, loss)

    def _strength(self) -> float:
        """How strongly the adversaries count in this step."""
        risen = (self._step / self.steps - WARM) / (RAMPED - WARM)
        return self._settings.adversary * min(max(risen, 0.0), 1.0)

    def _rate(self, clean: Tensor) -> Tensor:
        """What the bits cost, of which the computed neck takes 1."""
        used = gaussian_bits(clean, self._form) / max(self._bits, 1e-6)
        over = torch.relu(used - 1) if self._form.rows else torch.zeros_like(used)
        return self._settings.adversary_rate * used + OVERDRAWN * over


def released(neck: Neck, form: Form, takes: Takes, at: NDArray[np.intp], *, size: int = 64) -> Tensor:
    """What leaves of some takes, (B, N, C), before its quantization."""
    parts = [at[i : i + size] for i in range(0, len(at), size)]
    with torch.no_grad():
        return torch.cat(
            [form.of(neck(torch.from_numpy(takes.values[p].astype(np.float32))[..., None])) for p in parts]
        )


def gaussian_bits(clean: Tensor, form: Form) -> Tensor:
    """Bits of one released vector, (B, N, C), were each channel normal with its own mean and deviation."""
    step = torch.from_numpy(form.step).to(clean)
    flat = clean.flatten(0, 1)
    mean, variance = flat.mean(0), flat.var(0, correction=0) + step.square() / 12
    deviation = variance.sqrt()
    share = torch.special.ndtr((flat + step / 2 - mean) / deviation)
    share = share - torch.special.ndtr((flat - step / 2 - mean) / deviation)
    return -torch.log2(share.clamp_min(1e-6)).mean(0).sum()


def _within_budget(neck: Neck, levels: NDArray[np.intp], takes: Takes, budget: float) -> PrivateNeck:
    """The neck without channels that say almost nothing, in steps that are wide enough for the bit budget."""
    found = released(neck, form_of(levels.tolist(), ()), takes, takes.originals).flatten(0, 1).numpy()

    def with_steps(factor: float) -> tuple[NDArray[np.intp], Float64]:
        half = np.maximum(np.rint((levels // 2) / factor), 1).astype(int)
        return 2 * half + 1, entropies(found * half, 1.0)

    low, high = 1.0, float(levels.max())
    fitting, bits = with_steps(low)
    if bits.sum() > budget:
        for _ in range(20):
            middle = math.sqrt(low * high)
            fitting, bits = with_steps(middle)
            low, high = (middle, high) if bits.sum() > budget else (low, middle)
        fitting, bits = with_steps(high)
    kept = np.flatnonzero(bits >= LEAST_BITS)
    kept = kept if len(kept) else np.array([int(bits.argmax())])
    return PrivateNeck(_only(neck, kept), tuple(fitting[kept].tolist()), float(bits[kept].sum()))


def _only(neck: Neck, kept: NDArray[np.intp]) -> Neck:
    """A neck of some of the channels."""
    hidden = 0 if neck.down is None else neck.down.out_channels
    out = Neck(neck.transform.in_channels, len(kept), hidden=hidden)
    state = neck.state_dict()
    out.load_state_dict({k: v if k.startswith("down") else v[kept] for k, v in state.items()})
    return out
