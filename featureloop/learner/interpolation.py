"""How far a candidate goes from the live weights, so that few groups are learned from and not by heart.

A recognizer that was trained on from the live weights knows the frames it
learned from better than others like them, the more so the fewer patients they
are of. A mean of its weights and the live ones keeps most of what it learned
and less of what it memorized (Wortsman et al. 2022, arXiv:2109.01903). Which
share of the way is best depends on how different the sites are and on how much
they provided; it is chosen by cross-validation over groups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featureloop.core.types import Bool, Float32, Task, UInt8
from featureloop.learner.bags import Bags
from featureloop.learner.founding_records import FOUNDING_SITE
from featureloop.learner.gate import bootstrap_means
from featureloop.model.fit import Weights, interpolate
from featureloop.model.manifest import Calibration, uncalibrated
from featureloop.model.tasks import RULES

Float64 = NDArray[np.float64]
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the way from the live to the trained weights that are compared."""
DEFAULT = 0.5
"""The share where the verified results of training groups are too few to tell that another is better."""
CLEARLY = 0.16
"""Quantile of the resampled differences that must favour another share: about one standard error."""
FOLDS = 2


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The chosen share, and how the way of training did on groups that were not learned from.

    Attributes
    ----------
    share
        Of the way from the live to the trained weights.
    at
        intp (K,), the numbers of the bags that were judged.
    qualities
        float64 (K,) of each share, and of 0, the live weights: of these bags, by weights that didn't learn from them.
    judged
        float64 (K,), the share at which each is judged: what was best for the other part's judging, so that what a bag
        says of itself has no say in it.
    """

    share: float
    at: NDArray[np.intp]
    qualities: Mapping[float, Float64]
    judged: Float64

    @property
    def before(self) -> Float64:
        """Quality of the judged bags by the live weights, float64 (K,)."""
        return self.qualities[0.0]

    @property
    def after(self) -> Float64:
        """Quality of the judged bags by weights that the other part led to, float64 (K,)."""
        shares = np.array(sorted(self.qualities))
        each = np.stack([self.qualities[share] for share in shares.tolist()])
        return np.asarray(each[np.searchsorted(shares, self.judged), np.arange(len(self.at))])

    def at_most(self, share: float) -> Choice:
        """The same, gone no further than a smaller one of the shares; one that isn't smaller changes nothing."""
        return self if share >= self.share else replace(self, share=share, judged=np.minimum(self.judged, share))


def given_share(share: float) -> Choice:
    """A share that somebody chose; nothing is judged."""
    return Choice(share, np.array([], np.intp), {0.0: np.array([])}, np.array([]))


def choose_share(
    bags: Bags,
    chosen: Bool,
    *,
    live: Weights,
    recognizer: nn.Module,
    train: Callable[[Bool], Weights],
    values: Callable[[int], Float32],
    task: Task,
) -> Choice:
    """The share of the way that serves groups best which were not learned from.

    The sites' groups are parted in two; a recognizer is trained on each part (with all founding
    records) and judged on the verified records of the other. Every site counts alike. Few groups
    make any share look best by chance: another one than `DEFAULT` is taken only where it is better
    by about a standard error of their difference, resampled by group.

    Parameters
    ----------
    chosen
        bool (M,), the bags to learn from.
    live, recognizer
        The live weights, and a network that takes them; its weights are changed.
    train
        Trains on from the live weights on some of the bags, bool (M,), and returns the weights.
    values
        Position vectors float32 (N, C) of a bag by its number.
    """
    own = chosen & (bags.sites != FOUNDING_SITE)
    folds = np.array([_fold(g) for g in bags.groups])
    judged = [np.flatnonzero(own & bags.verified & (folds == f)) for f in range(FOLDS)]

    def qualities(weights: Weights, at: NDArray[np.intp]) -> Float64:
        recognizer.load_state_dict(weights)
        recognizer.eval()
        return np.array([quality_of(recognizer, values(i), bags.results[i], task=task) for i in at.tolist()])

    found: list[dict[float, Float64]] = []
    for fold, at in enumerate(judged):
        trained = train(chosen & ~(own & (folds == fold))) if len(at) else live
        found.append({share: qualities(interpolate(live, trained, share), at) for share in (0.0, *SHARES)})
    best = [best_share(f, bags.sites[at], bags.groups[at]) for f, at in zip(found, judged, strict=True)]
    at = np.concatenate(judged)
    pooled = {share: np.concatenate([f[share] for f in found]) for share in (0.0, *SHARES)}
    by_other = np.repeat(np.array(best[::-1]), [len(j) for j in judged])
    return Choice(best_share(pooled, bags.sites[at], bags.groups[at]), at, pooled, by_other)


def harmless_share(
    most: float, sites: NDArray[np.str_], *, qualities: Callable[[float], Float64], margin: float
) -> float:
    """The largest share up to `most` at which no site's mean quality falls by more than the margin.

    Where every share harms somebody it is `most`: the gate then refuses, and says whom.

    Parameters
    ----------
    sites
        str (K,), whose held-back records are asked: sites that the training doesn't serve, the founding's first of all.
    qualities
        float64 (K,), of these records at a share of the way; 0 are the live weights.
    """
    before = qualities(0.0)
    for share in sorted((s for s in SHARES if s <= most), reverse=True):
        fallen = before - qualities(share)
        if all(fallen[sites == site].mean() <= margin for site in np.unique(sites)):
            return share
    return most


def best_share(found: Mapping[float, Float64], sites: NDArray[np.str_], groups: NDArray[np.str_]) -> float:
    """The share of the best mean quality among those that are clearly better than `DEFAULT`; else that one."""
    if not len(sites):
        return DEFAULT

    def gains(share: float) -> Float64:
        """Resampled mean differences to `DEFAULT`, every site counted alike."""
        difference = found[share] - found[DEFAULT]
        each = [
            bootstrap_means(difference[sites == site], groups[sites == site], seed=i)
            for i, site in enumerate(np.unique(sites))
        ]
        return np.asarray(np.mean(each, axis=0))

    resampled = {share: gains(share) for share in SHARES if share != DEFAULT}
    clear = [share for share, gain in resampled.items() if np.quantile(gain, CLEARLY) > 0]
    return max(clear, key=lambda share: resampled[share].mean(), default=DEFAULT)


def _fold(group: str) -> int:
    """The part that a group stays in; not the digits that hold groups back (`bags.py`)."""
    return hashlib.sha256(b"fold" + group.encode()).digest()[0] % FOLDS


def quality_of(
    recognizer: nn.Module, vectors: Float32, truth: UInt8, *, task: Task, calibration: Calibration | None = None
) -> float:
    """The quality of what a recognizer finds in a bag, calibrated or not."""
    rules = RULES[task]
    with torch.no_grad():
        logits = recognizer(torch.from_numpy(vectors[None]))[0].numpy()
    return rules.quality(rules.recognition(logits, calibration or uncalibrated(rules.method)), truth)
