"""A threshold with a guarantee: results above it are wrong at most so much, at a stated confidence.

Learn then test (Angelopoulos, Bates, Candes, Jordan & Lei 2021, arXiv:2110.01052): for every threshold of a grid that
was fixed before any result was seen, the hypothesis "the risk above it is larger than allowed" is tested on results
whose truth is known, from the strictest threshold down, until one can't be rejected. Several such walks begin at
several starts, and share what may go wrong among them. With the stated confidence, no threshold that was passed has
a larger risk: whatever the recognizer, the score and the distribution, as long as patients are exchangeable.

A patient counts once: the risk above a threshold is the mean, over patients with results above it, of their
mean loss. Frames of one patient are not independent of each other, patients are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, kstwobign

from featureloop.core.errors import InputError
from featureloop.model.manifest import Guarantee

Float64 = NDArray[np.float64]
STARTS = (95, 90, 80, 65, 50)
"""Hundredths of reliability at which a walk begins."""
HUNDREDTHS = 100
NOTHING = 1.0
"""A threshold that no reliability reaches."""
QUANTILES = 65
"""Of the patients' median reliabilities, by which a site's are compared with those that the guarantee is from."""
PLACES = 6
"""Decimals of what the package keeps; what is compared with it is rounded alike, else equal values differ."""
MOST_STAKE = 0.95
"""Of the capital, so that no loss ruins."""
PACE = 0.01
"""The p-value for which the first stakes are meant."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What lies above one threshold.

    Attributes
    ----------
    threshold
        Of the reliability.
    share
        Of all results.
    risk
        Mean loss, every patient counting once; 0 where there is nothing.
    groups
        Patients with results above it.
    p
        How likely so small a loss is at most, if the risk were larger than allowed.
    """

    threshold: float
    share: float
    risk: float
    groups: int
    p: float


def guarantee(
    reliabilities: Float64,
    losses: Float64,
    groups: Sequence[str],
    *,
    risk: float,
    confidence: float,
    outlying: Float64 | None = None,
    least: float = 0.0,
) -> tuple[Guarantee, tuple[Accepted, ...]]:
    """The lowest threshold whose risk is at most `risk` with at least `confidence`, and all thresholds looked at.

    Parameters
    ----------
    reliabilities, losses
        Of every result, float64 (M,) in [0, 1] each.
    groups
        Whose it is, M names.
    risk, confidence
        In (0, 1).
    outlying
        Of every result how far its frame is from founding frames, float64 (M,); None where it isn't known.
    least
        A threshold that can be guaranteed isn't lower than this, in [0, 1].

    Returns
    -------
    guarantee, curve
        Its threshold is 1, so that nothing is accepted, where none could be guaranteed.

    Raises
    ------
    InputError
        There is no result, or a number is outside its range.
    """
    if not 0 < risk < 1 or not 0 < confidence < 1:
        raise InputError(f"a risk and a confidence are shares between 0 and 1, not {risk} and {confidence}")
    if not len(losses):
        raise InputError("no result to find a threshold by; give labelled images")
    _, owner = np.unique(np.array(groups), return_inverse=True)
    curve = tuple(_above(k / HUNDREDTHS, reliabilities, losses, owner, risk) for k in range(HUNDREDTHS))
    allowed = (1 - confidence) / len(STARTS)
    passed = [k for start in STARTS for k in _walk(start, curve, allowed)]
    # Every threshold that was passed is guaranteed at once, so any of them may be taken.
    chosen = min([k for k in passed if k >= least * HUNDREDTHS] or [max(passed)]) if passed else None
    found = Guarantee(
        risk=risk,
        confidence=confidence,
        threshold=NOTHING if chosen is None else chosen / HUNDREDTHS,
        accepted=0.0 if chosen is None else curve[chosen].share,
        frames=len(losses),
        groups=int(owner.max()) + 1,
        curve=tuple((a.threshold, round(a.share, 6), round(a.risk, 6)) for a in curve),
        reliabilities=_quantiles(reliabilities, groups),
        outlying=() if outlying is None else _quantiles(outlying, groups),
    )
    return found, curve


def _quantiles(values: Float64, groups: Sequence[str]) -> tuple[float, ...]:
    medians = medians_of(values, groups)
    kept = np.quantile(medians, np.linspace(0, 1, min(QUANTILES, len(medians))))
    return tuple(round(float(x), PLACES) for x in kept)


def medians_of(values: Float64, groups: Sequence[str]) -> Float64:
    """Of every patient the median value, float64 (G,)."""
    names, owner = np.unique(np.array(groups), return_inverse=True)
    return np.array([float(np.median(values[owner == i])) for i in range(len(names))])


def drift(found: Guarantee, reliabilities: Float64, groups: Sequence[str], *, outlying: Float64 | None = None) -> float:
    """How likely a site's frames are at most, if its patients were like those of the guarantee: a p-value.

    By the Kolmogorov-Smirnov test of the patients' medians: of their reliabilities, and of how far their features are
    from founding frames', where both are known. Of two tests the smaller p-value counts double (Bonferroni).
    """
    each = [_alike(medians_of(reliabilities, groups), found.reliabilities, found.groups)]
    if outlying is not None and found.outlying:
        each.append(_alike(medians_of(outlying, groups), found.outlying, found.groups))
    return min(1.0, len(each) * min(each))


def _alike(own: Float64, quantiles: Sequence[float], groups: int) -> float:
    """The p-value of one test; `groups` is how many patients the quantiles are of."""
    known = np.array(quantiles)
    own = own.round(PLACES)
    at = np.concatenate([own, known])
    shares = [np.searchsorted(np.sort(x), at, side="right") / len(x) for x in (own, known)]
    size = len(own) * groups / (len(own) + groups)
    return float(kstwobign.sf(np.sqrt(size) * np.abs(shares[0] - shares[1]).max()))


def _walk(start: int, curve: Sequence[Accepted], allowed: float) -> list[int]:
    """Thresholds from a start down to the last one that passes, in hundredths."""
    passed = []
    for k in range(start, -1, -1):
        if curve[k].p > allowed:
            break
        passed.append(k)
    return passed


def _above(threshold: float, reliabilities: Float64, losses: Float64, owner: NDArray[np.intp], risk: float) -> Accepted:
    over = reliabilities >= threshold
    count = np.bincount(owner[over], minlength=int(owner.max()) + 1)
    total = np.bincount(owner[over], losses[over], minlength=len(count))
    each = total[count > 0] / count[count > 0]
    mean = float(each.mean()) if len(each) else 0.0
    return Accepted(threshold, float(over.mean()), mean, len(each), p_value(each, risk))


def p_value(losses: Float64, risk: float) -> float:
    """How likely losses as small as these are at most, if their mean were above `risk`.

    Of losses that are 0 or 1 by the binomial distribution; of others by betting (Waudby-Smith & Ramdas 2023,
    arXiv:2010.09686), in the order given, which must not follow from the losses.

    Parameters
    ----------
    losses
        float64 (n,) in [0, 1], independent and alike.
    """
    n = len(losses)
    if not n:
        return 1.0
    if np.isin(losses, (0.0, 1.0)).all():
        return float(binom.cdf(losses.sum(), n, risk))
    seen = np.arange(n) + 1.0
    before = np.concatenate([[0.5], (0.5 + losses.cumsum()[:-1]) / (seen[:-1] + 1)])
    squares = (losses - (0.5 + losses.cumsum()) / (seen + 1)) ** 2
    variance = np.concatenate([[0.25], (0.25 + squares.cumsum()[:-1]) / (seen[:-1] + 1)])
    # The stake that is best for a normal variable of that mean and scatter; never all, so that no loss ruins.
    gain = np.maximum(risk - before, 0.0)
    best = gain / (variance + gain**2)
    cautious = np.sqrt(2 * np.log(1 / PACE) / (n * variance))
    stake = np.minimum(np.where(seen <= n / 4, cautious, np.maximum(best, 0.25 * cautious)), MOST_STAKE / (1 - risk))
    capital = np.cumsum(np.log1p(stake * (risk - losses)))
    return float(min(1.0, np.exp(-max(0.0, float(capital.max())))))
