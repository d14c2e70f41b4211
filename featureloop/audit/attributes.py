"""Attack 5: what features tell of site, sex, age or scanner, above what the recognition alone tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from featureloop.audit.descriptors import Codebooks, describe
from featureloop.audit.findings import Arm, Finding, Measure, apart, as_measure
from featureloop.audit.material import Lab, Party, Release
from featureloop.audit.probes import area_of, held_out_scores
from featureloop.core.intervals import Float64, Statistic, figure_maker
from featureloop.core.types import Float32

SITE = "site"
LEAST_PATIENTS = 4
"""Patients that a value needs for a probe to be judged on it."""
NUMBERS = 6
"""Different numbers from which on values are cut at their median."""
SHIFT = 0.5
"""Of all values of half of the patients in the positive control, in deviations."""


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Records of which an attribute is known.

    Attributes
    ----------
    name
        Of the attribute.
    values
        The different ones, in order.
    chosen
        intp (K,), records, counted over the attacker's and then the victims'.
    labels
        intp (K,), numbers of values.
    judged
        bool (K,), those that the probe is judged on: the victims', or of the site all.
    """

    name: str
    values: tuple[str, ...]
    chosen: NDArray[np.intp]
    labels: NDArray[np.intp]
    judged: NDArray[np.bool_]


def attack_attributes(lab: Lab) -> Finding:
    """Probe the site, which is always known, and every attribute that is known of the victims' images.

    A probe learns from the attacker's images of which the attribute is known and from other victims, patient-disjoint.
    """
    records = [*lab.mine, *lab.theirs]
    firsts = [lab.attacker.groups[r.frames[0]] for r in lab.mine] + [
        lab.victims.groups[r.frames[0]] for r in lab.theirs
    ]
    groups = np.array(firsts)
    books = Codebooks(lab.mine, seed=lab.seed, unit=lab.unit)
    features, told = features_of(records, books), recognition_of(records)
    measures: list[Measure] = []
    headline: dict[str, Measure] = {}
    found, left_out = _labelled(lab, groups)
    for n, item in enumerate(found):
        own = _probe(lab, item, features, told, groups)
        measures += own
        best = max((m for m in own if m.arm == "release" and m.figure == f"{item.name} AUC"), key=lambda m: m.value)
        headline[f"attributes.{item.name}_auc"] = best
        lab.progress("attributes", n + 1, len(found))
    controls = _controls(lab, books)
    notes = [
        "The site is whose images these are, the attacker's or the victims': whatever differs between the two "
        "hospitals tells it, their endoscopes and their choice of images as well.",
        *(f"'{name}' was left out: {why}." for name, why in left_out),
    ]
    return Finding(
        attack="attributes",
        headline=headline,
        measures=(*measures, *controls),
        controls=apart(controls, "AUC"),
        budget=f"{len(records)} records, five-fold by patient",
        notes=tuple(notes),
    )


def features_of(records: Sequence[Release], books: Codebooks) -> Float32:
    """All descriptors of records, float32 (M, D)."""
    return np.concatenate(list(describe(records, books).values()), axis=1)


def recognition_of(records: Sequence[Release]) -> Float32:
    """What the recognition alone says, float32 (M, 2 T)."""
    return np.stack([np.concatenate([r.rows.mean(0), r.rows.std(0)]) for r in records]).astype(np.float32)


def _labelled(lab: Lab, groups: NDArray[np.str_]) -> tuple[list[Labelled], list[tuple[str, str]]]:
    """The site and all attributes that can be probed; and those that can't, with why."""
    own = np.arange(len(lab.mine) + len(lab.theirs))
    victims = own >= len(lab.mine)
    found = [Labelled(SITE, ("attacker", "victims"), own, victims.astype(np.intp), np.ones(len(own), bool))]
    left_out: list[tuple[str, str]] = []
    said = [*_said(lab.mine, lab.attacker), *_said(lab.theirs, lab.victims)]
    for name in sorted({k for s in said for k in s} - {SITE}):
        chosen = np.array([i for i in own if name in said[i]], np.intp)
        values, labels = _classes([said[i][name] for i in chosen])
        judged = victims[chosen]
        counts = [len(np.unique(groups[chosen[judged & (labels == k)]])) for k in range(len(values))]
        enough = np.array([c >= LEAST_PATIENTS for c in counts])
        if enough.sum() < 2:
            left_out.append((name, f"fewer than two values are known of at least {LEAST_PATIENTS} victims each"))
            continue
        keep, number = enough[labels], np.cumsum(enough) - 1
        kept = tuple(v for v, e in zip(values, enough, strict=True) if e)
        found.append(Labelled(name, kept, chosen[keep], number[labels[keep]], judged[keep]))
    return found, left_out


def _said(records: Sequence[Release], whole: Party) -> list[Mapping[str, str]]:
    """What is known of each record's frame; nothing of one that several frames share."""
    return [whole.said(r.frames[0]) if len(r.frames) == 1 else {} for r in records]


def _classes(values: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """Values as classes; many different numbers are cut at their median."""
    try:
        numbers = np.array([float(v) for v in values])
    except ValueError:
        numbers = np.zeros(0)
    if len(np.unique(numbers)) >= NUMBERS:
        middle = float(np.median(numbers))
        return (f"at most {middle:g}", f"above {middle:g}"), (numbers > middle).astype(np.intp)
    names, labels = np.unique(np.array(values), return_inverse=True)
    return tuple(str(n) for n in names), labels.astype(np.intp)


def _probe(lab: Lab, item: Labelled, features: Float32, told: Float32, groups: NDArray[np.str_]) -> list[Measure]:
    """Probes of features and of the recognition alone, on the same folds."""
    own = groups[item.chosen]
    scored = {
        (name, by): held_out_scores(x[item.chosen], item.labels, own, judged=item.judged, by=by, seed=lab.seed)
        for name, x in (("features", features), ("recognition", told))
        for by in ("linear", "perceptron")
    }
    judged = item.judged
    classes, of = item.labels[judged], own[judged]
    make = figure_maker(of, seed=lab.seed)
    needs = [classes == k for k in range(len(item.values))]
    areas = {key: make(f"{item.name} AUC", area_of(s[judged], classes), needs=needs) for key, s in scored.items()}
    alone = max(("linear", "perceptron"), key=lambda by: areas["recognition", by].value)
    base = area_of(scored["recognition", alone][judged], classes)

    def above(area: Statistic) -> Statistic:
        return lambda at: area(at) - base(at)

    out = [as_measure(areas["recognition", alone], arm="baseline", by="recognition alone", chance=0.5)]
    for by in ("linear", "perceptron"):
        area = area_of(scored["features", by][judged], classes)
        out.append(as_measure(areas["features", by], arm="release", by=by, chance=0.5))
        gain = make(f"{item.name} AUC above recognition alone", above(area), needs=needs)
        out.append(as_measure(gain, arm="release", by=by, chance=0.0))
    return out


def _controls(lab: Lab, books: Codebooks) -> list[Measure]:
    """Half of the attacker's patients with higher values must be told from the others; values of no frame must not."""
    names = np.random.default_rng((lab.seed, 79)).permutation(np.unique(lab.attacker.groups))
    groups = np.array([lab.attacker.groups[r.frames[0]] for r in lab.mine])
    marked = np.isin(groups, names[: len(names) // 2])
    spread = np.concatenate([r.values for r in lab.mine]).std(axis=0)
    planted = [replace(r, values=r.values + SHIFT * spread) if m else r for r, m in zip(lab.mine, marked, strict=True)]
    labels = marked.astype(np.intp)
    out = []
    arms: tuple[tuple[Arm, str, Sequence[Release]], ...] = (
        ("planted", "values shifted", planted),
        ("random", "linear", lab.random(lab.mine, seed=83)),
    )
    for arm, by, of in arms:
        x = features_of(of, books)
        every = np.ones(len(x), bool)
        scores: Float64 = held_out_scores(x, labels, groups, judged=every, by="linear", seed=lab.seed)
        figure = figure_maker(groups, seed=lab.seed)("AUC", area_of(scores, labels), needs=[labels == 0, labels == 1])
        out.append(as_measure(figure, arm=arm, by=by, chance=0.5))
    return out
