"""What a neck still tells: adversaries that begin anew on what it releases, asked about frames they haven't seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from featureloop.model.adversaries import Adversaries, Told
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.lesson import Draw, Lesson, Pace, Surroundings
from featureloop.model.loop import train
from featureloop.model.manifest import RecognizerSpec
from featureloop.model.neck import Neck
from featureloop.model.private_neck import ADVERSARY_RATE, TURNS, released
from featureloop.model.takes import Pairs, Takes, form_of, told_of


@dataclass(frozen=True, slots=True)
class Leak:
    """What new adversaries know of unseen frames.

    Attributes
    ----------
    position
        R2 of the places: 1 is all, 0 or less nothing; NaN where one vector is released.
    linkage
        Share of the takes whose nearest other take is of the same group.
    chance
        Of the linkage, by guessing.
    """

    position: float
    linkage: float
    chance: float

    @property
    def text(self) -> str:
        """For people."""
        where = "" if np.isnan(self.position) else f"position R2 {self.position:.2f}, "
        return f"{where}linkage top-1 {self.linkage:.2f} (chance {self.chance:.3f})"


def fresh_leak(
    neck: Neck,
    levels: Sequence[int],
    takes: Takes,
    unseen: Takes,
    spec: RecognizerSpec,
    *,
    settings: FoundingSettings,
    around: Surroundings,
    name: str,
) -> Leak:
    """Train new adversaries on what a finished neck releases, and ask them about unseen frames.

    Parameters
    ----------
    unseen
        Of frames from which neither neck nor adversaries learn.
    name
        Of the lesson, for progress, curves and checkpoints.
    """
    form = form_of(levels, settings.statistics if spec.anonymizer == "pool" else ())
    torch.manual_seed(settings.seed + 1)
    heads = Adversaries(len(form.step), rows=form.rows)
    draw = Draw(np.full(takes.frames, 1 / takes.frames), size=settings.batch, seed=settings.seed + 1)
    pairs = Pairs(takes)

    def told(x: Tensor, y: Tensor) -> Told:
        with torch.no_grad():
            left = form.quantized(form.of(neck(x[..., None])).float())
        return heads(left, *told_of(y))  # type: ignore[no-any-return]  # modules' calls aren't typed

    lesson = Lesson(
        name,
        nn.ModuleList([heads, neck]),
        [(heads, ADVERSARY_RATE * settings.learning_rate)],
        lambda step: takes.batch(pairs(draw(step), draw.random(step))),
        lambda x, y: told(x, y).loss(),
    )
    steps = TURNS * settings.adversary_steps(takes.frames)
    train(lesson, pace=Pace(steps, settings.average, settings.seed), around=around)
    leak = _asked(heads, form.quantized(released(neck, form, unseen, np.arange(len(unseen)))), unseen)
    around.log(f"{name}/position R2", leak.position, steps)
    around.log(f"{name}/linkage top-1", leak.linkage, steps)
    return leak


def _asked(heads: Adversaries, left: Tensor, unseen: Takes) -> Leak:
    places, groups = torch.from_numpy(unseen.places), torch.from_numpy(unseen.groups)
    position = float("nan")
    with torch.no_grad():
        if heads.position is not None:
            spread = (places - places.mean((0, 1))).square().mean((0, 1))
            position = 1 - ((heads.position(left) - places).square().mean((0, 1)) / spread).mean().item()
        embedded = heads.linkage(left)
    itself = torch.eye(len(groups), dtype=torch.bool)
    same = (groups[:, None] == groups) & ~itself
    nearest = (embedded @ embedded.T).masked_fill(itself, -2.0).argmax(1)
    linked = groups[nearest] == groups
    return Leak(position, linked.float().mean().item(), (same.sum(1) / (len(groups) - 1)).mean().item())
