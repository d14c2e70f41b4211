"""What attacks found: figures with intervals, beside what chance, controls and trivial baselines give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from featureloop.core.intervals import Figure
from featureloop.model.charts import Chart

Arm = Literal["release", "shallow", "planted", "random", "baseline"]
"""What was attacked: what leaves; a positive control, an ordered map of the first layers or a leak that was planted;
the negative control, values that know nothing of their frame; or nothing, by a guess that needs no features."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One figure of one attack on one arm.

    Attributes
    ----------
    figure
        What is measured, in words that stay: `top-1`, `AUC`, `PSNR gain`.
    arm
        What was attacked.
    by
        Who attacked: `cosine`, `siamese head`, `linear decoder`, `mean image`.
    value, low, high
        With its 95% interval over the victims' patients; NaN where there is none.
    groups
        Patients that decide it.
    chance
        What guessing gives; None where there is no such value.
    """

    figure: str
    arm: Arm
    by: str
    value: float
    low: float
    high: float
    groups: int
    chance: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point of the curve over what an attacker has learned from.

    Attributes
    ----------
    images
        Of the attacker, whose features the attack was trained on.
    value, low, high
        Of the finding's first headline figure, by the attackers that the finding's `curve_by` names.
    """

    images: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one attack found.

    Attributes
    ----------
    attack
        `linkage`, `inversion`, `text`, `position`, `attributes` or `membership`.
    headline
        By the names that a policy's limits use (`linkage.top1`), the strongest attacker's figures on the release.
    measures
        All figures, controls and baselines among them.
    controls
        Whether the positive control succeeded apart from the negative one; without it the attack proves nothing.
    curve, curve_by
        Over the attacker's auxiliary images; and who attacked, where that is not whoever was the strongest.
    budget
        What the attacker was given: steps, images, seconds, in words.
    notes
        What a reader has to know, in sentences.
    charts
        Pictures of the evidence.
    sheet
        Originals beside reconstructions, as a data URL: it shows victims, and stays out of packages.
    """

    attack: str
    headline: Mapping[str, Measure]
    measures: tuple[Measure, ...]
    controls: bool
    curve: tuple[Point, ...] = ()
    curve_by: str = ""
    budget: str = ""
    notes: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = field(default=(), repr=False)
    sheet: str | None = field(default=None, repr=False)


def as_measure(figure: Figure, *, arm: Arm, by: str, chance: float | None) -> Measure:
    """A figure as what an attack measured."""
    return Measure(
        figure=figure.name,
        arm=arm,
        by=by,
        value=figure.value,
        low=figure.low,
        high=figure.high,
        groups=figure.groups,
        chance=chance,
    )


def strongest(measures: Sequence[Measure], figure: str, *, arms: Sequence[Arm] = ("release",)) -> Measure:
    """The highest of one figure on what leaves, or on other arms; one that is not determined where there is none."""
    none = Measure(figure=figure, arm=arms[0], by="nobody", value=math.nan, low=math.nan, high=math.nan, groups=0)
    own = [m for m in measures if m.figure == figure and m.arm in arms]
    return max(own, key=lambda m: -math.inf if math.isnan(m.value) else m.value, default=none)


def apart(measures: Sequence[Measure], figure: str) -> bool:
    """Whether the positive control succeeded: its interval of a figure is above the negative control's."""
    leaks, knows_nothing = (strongest(measures, figure, arms=a) for a in (("shallow", "planted"), ("random",)))
    return leaks.low > knows_nothing.high
