"""What the noise of a released form guarantees, by Google's dp-accounting.

The mechanism is local: a device clips each vector and adds the noise before
anything leaves. Two clipped vectors are at most two norms apart, so noise of
`z` norms is a Gaussian mechanism of the multiplier `z / 2` for one vector, and
of `z / (2 sqrt(k))` for all k vectors of a frame together (Dong, Roth and Su
2022, Gaussian differential privacy, arXiv:1905.02383: independent Gaussian
mechanisms compose like one). Epsilon is exact for it (Balle and Wang 2018,
arXiv:1805.06530), up to the generator being a cryptographic one.

It is about the vectors' values. The rows of results that go along, the number
of records and their pseudonyms are not covered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from featureloop.core.errors import InputError
from featureloop.model.forms import Form

DELTA = 1e-5


@dataclass(frozen=True, slots=True)
class Guarantee:
    """Differential privacy of what leaves, against any replacement.

    Attributes
    ----------
    vector, frame
        Epsilon for one position vector, and for all that leave of a frame.
    delta
        At this probability of failure.
    """

    vector: float
    frame: float
    delta: float


def guarantee(form: Form, *, grid: int, delta: float = DELTA) -> Guarantee:
    """What a form's noise guarantees for a map of grid x grid positions.

    Raises
    ------
    InputError
        The form has no noise, or delta is no probability.
    """
    from dp_accounting import get_epsilon_gaussian

    if not form.noise or not 0 < delta < 1:
        raise InputError(
            f"there is no epsilon of the form '{form}' at a delta of {delta}: it needs noise, and 0 < delta < 1"
        )
    multiplier = form.noise / 2
    one, frame = (float(get_epsilon_gaussian(multiplier / math.sqrt(k), delta)) for k in (1, form.rows_of_frame(grid)))
    return Guarantee(one, frame, delta)
