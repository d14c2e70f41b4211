"""Shadow recognizers: what recognizers of the same training say of frames that they knew, and of others.

Each learns by the project's own training from a random half, of values as records hold them, so that every candidate
has recognizers that knew it and such that did not (Carlini et al. 2022, arXiv:2112.03570, with one variance for all
candidates, as they advise for few).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featureloop.audit.material import Lab
from featureloop.audit.members import Pool
from featureloop.core.intervals import Float64
from featureloop.core.types import Bool, Task
from featureloop.model.fit import FitSettings, fit_recognizer
from featureloop.model.lesson import Surroundings
from featureloop.model.losses import recognition_loss
from featureloop.model.recognizers import NOISE, GlobalRecognizer, build_recognizer
from featureloop.model.runtime import Runtime

LEAST_SPREAD = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Shadows:
    """What the shadows say of the candidates.

    Attributes
    ----------
    confidence
        float64 (S, M), log-odds of being right, standardized within each shadow.
    knew
        bool (S, M), whom each one learned from.
    """

    confidence: Float64
    knew: Bool

    def ratio(self, said: Float64) -> Float64:
        """Log-likelihood ratio of having been a member, for a recognizer's standardized confidence, float64 (M,)."""
        inside, outside = self._normal(self.knew), self._normal(~self.knew)
        return _log_density(said, *inside) - _log_density(said, *outside)

    def excess(self, said: Float64) -> Float64:
        """How far the confidence is above that of recognizers that did not know the candidate (offline variant)."""
        mean, spread = self._normal(~self.knew)
        return (said - mean) / spread

    def without(self, i: int) -> Shadows:
        """The others."""
        return Shadows(np.delete(self.confidence, i, axis=0), np.delete(self.knew, i, axis=0))

    def _normal(self, which: Bool) -> tuple[Float64, float]:
        """Each candidate's mean over some shadows, and one deviation about it for all."""
        x = np.where(which, self.confidence, np.nan)
        count = which.sum(0)
        mean = np.where(count > 0, np.nansum(x, axis=0) / np.maximum(count, 1), np.nanmean(x))
        free = max(1, int(count.sum() - (count > 0).sum()))
        return mean, max(LEAST_SPREAD, math.sqrt(float(np.nansum((x - mean) ** 2)) / free))


def trained_shadows(lab: Lab, pool: Pool, *, count: int, steps: int, rng: np.random.Generator) -> Shadows:
    """Train in pairs on a random half and on the other one, so that every candidate is in half of them."""
    knew, confidence = [], []
    for pair in range(-(-count // 2)):
        half = rng.permutation(len(pool)) < len(pool) // 2
        for i, chosen in enumerate((half, ~half)):
            made = fitted(
                lab, pool.only(np.flatnonzero(chosen)), steps=steps, seed=2 * pair + i, name="shadow recognizers"
            )
            knew.append(chosen)
            confidence.append(confidence_of(losses_of(lab, made, pool)))
    return Shadows(np.stack(confidence), np.stack(knew))


def fitted(
    lab: Lab, pool: Pool, *, steps: int, seed: int, name: str, average: float = 0.9, noise: float = NOISE
) -> nn.Module:
    """A recognizer like the package's, trained by the project's own training.

    Parameters
    ----------
    noise
        With which a recognizer of pooled vectors learns, in standard deviations; it keeps it from learning by heart.
    """
    manifest = lab.package.manifest
    torch.manual_seed(1000 * lab.seed + seed)
    made = build_recognizer(manifest.recognizer, channels=pool.values.shape[2])
    if isinstance(made, GlobalRecognizer):
        made.standardize_by(torch.from_numpy(pool.values))
        made.noise = noise
    batch = min(16, len(pool))
    fit = FitSettings(
        epochs=steps * batch / len(pool), batch=batch, learning_rate=2e-3, average=average, seed=seed, name=name
    )
    around = Surroundings(progress=lab.progress)
    fit_recognizer(made, pool.bags(), task=Task(manifest.task), settings=fit, around=around)
    return made


def losses_of(lab: Lab, made: nn.Module, pool: Pool) -> Float64:
    """A recognizer's loss of every bag, float64 (M,)."""
    parts = np.array_split(np.arange(len(pool)), -(-len(pool) // 16))
    with torch.no_grad():
        return np.concatenate([_loss(lab, made(torch.from_numpy(pool.values[at])), pool, at) for at in parts])


def package_losses(lab: Lab, pool: Pool) -> Float64:
    """The package's own recognizer's."""
    runtime = Runtime(lab.package)
    out = []
    for i in range(len(pool)):
        logits = torch.from_numpy(runtime.logits(pool.values[i]))[None]
        out.append(_loss(lab, logits, pool, np.array([i])))
    return np.concatenate(out)


def _loss(lab: Lab, logits: torch.Tensor, pool: Pool, at: NDArray[np.intp]) -> Float64:
    targets = torch.from_numpy(pool.targets[at].astype(np.float32))
    with torch.no_grad():
        found = recognition_loss(logits.float(), targets, task=Task(lab.package.manifest.task))
    return np.asarray(found.numpy(), np.float64)


def confidence_of(losses: Float64) -> Float64:
    """Log-odds of being right, standardized over the bags: recognizers differ in how sure they are of all."""
    x = np.clip(losses, 1e-7, 50.0)
    odds = -x - np.log(-np.expm1(-x))
    return np.asarray((odds - odds.mean()) / (odds.std() + 1e-9), np.float64)


def _log_density(x: Float64, mean: Float64, spread: float) -> Float64:
    return np.asarray(-0.5 * ((x - mean) / spread) ** 2 - math.log(spread), np.float64)
