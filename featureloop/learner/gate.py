"""The gate: a candidate passes only if it is not worse for any site, and better overall.

Candidate and live package are compared on the same held-back records, by a
bootstrap of their paired differences that resamples whole groups (Efron &
Tibshirani 1993): frames of one examination are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import GateError
from featureloop.core.types import Task

Float64 = NDArray[np.float64]
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What passes.

    Attributes
    ----------
    margin
        By how much a site's mean quality may fall, in [0, 1].
    confidence
        The probability, by bootstrap, that the candidate is better overall.
    """

    margin: float = 0.005
    confidence: float = 0.9


@dataclass(frozen=True, slots=True)
class Comparison:
    """Candidate against live on one site's held-back records of a task; quality is Dice or accuracy."""

    task: str
    site: str
    frames: int
    groups: int
    before: float
    after: float
    low: float
    high: float
    worse: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's answer.

    Attributes
    ----------
    passed
        Whether the candidate may be promoted.
    probability
        That it is better overall; of several tasks, the least one of those that passed.
    sites
        The comparison for each site.
    reasons
        Why it did not pass, or, of several tasks, why one of them did not.
    """

    passed: bool
    probability: float
    sites: tuple[Comparison, ...]
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def bootstrap_means(values: Float64, groups: NDArray[np.str_], *, seed: int, resamples: int = RESAMPLES) -> Float64:
    """Means of float64 (M,) over resampled groups, float64 (resamples,)."""
    _, at = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(at, weights=values), np.bincount(at)
    drawn = np.random.default_rng(seed).integers(0, len(sums), (resamples, len(sums)))
    return np.asarray(sums[drawn].sum(1) / counts[drawn].sum(1))


def judge(
    before: Float64,
    after: Float64,
    sites: NDArray[np.str_],
    groups: NDArray[np.str_],
    *,
    settings: GateSettings,
    contributing: Mapping[str, int],
    task: str = "",
    seed: int = 1,
) -> Verdict:
    """Compare two recognizers' qualities on the same records, each float64 (M,).

    A site is worse when its mean falls by more than the margin. Overall,
    every contributing site counts alike.

    Raises
    ------
    GateError
        No contributing site has a verified held-back record, so that nothing can be proved.
    """
    comparisons, resampled, reasons = [], [], []
    for i, site in enumerate(sorted(set(sites.tolist()))):
        own = sites == site
        difference = after[own] - before[own]
        means = bootstrap_means(difference, groups[own], seed=seed + i)  # sites are drawn independently
        low, high = np.quantile(means, [0.025, 0.975])
        worse = bool(difference.mean() < -settings.margin)
        comparisons.append(
            Comparison(
                task,
                site,
                int(own.sum()),
                len(set(groups[own].tolist())),
                float(before[own].mean()),
                float(after[own].mean()),
                float(low),
                float(high),
                worse,
            )
        )
        if worse:
            reasons.append(f"worse for {site}: {before[own].mean():.3f} to {after[own].mean():.3f}")
        if site in contributing:
            resampled.append(means)
    if not resampled:
        raise GateError(
            "no contributing site has a verified record of a held-back group; "
            "provide changed results of at least two groups (patients or sequences) of a site"
        )
    probability = float((np.mean(resampled, axis=0) > 0).mean())
    if probability < settings.confidence:
        reasons.append(f"better overall only with probability {probability:.2f}, {settings.confidence:.2f} is required")
    return Verdict(not reasons, probability, tuple(comparisons), tuple(reasons))


def refusal(reason: str) -> Verdict:
    """The verdict on a task that could not be judged."""
    return Verdict(passed=False, probability=0.0, sites=(), reasons=(reason,))


def together(verdicts: Mapping[Task, Verdict]) -> Verdict:
    """One verdict on a package from those on its tasks.

    It passes where at least one task does: the others keep their live recognizers, and the reasons say why.
    """
    if len(verdicts) == 1:
        return next(iter(verdicts.values()))
    passed = [v for v in verdicts.values() if v.passed]
    return Verdict(
        bool(passed),
        min((v.probability for v in passed), default=max(v.probability for v in verdicts.values())),
        tuple(site for v in verdicts.values() for site in v.sites),
        tuple(f"{task}: {reason}" for task, v in verdicts.items() for reason in v.reasons),
    )
