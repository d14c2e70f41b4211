"""Attack 6: was a frame in the recognizer's training? A likelihood ratio with shadow recognizers.

Attacked is the package's own recognizer where its founding records tell who was in its training, else recognizers that
the same training made of halves of the attacker's frames. The package's means of founding frames are asked, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featureloop.audit.findings import Arm, Finding, Measure, apart, as_measure
from featureloop.audit.material import Lab
from featureloop.audit.members import Pool, founding_pool, own_pool, pool_of, records_beside
from featureloop.audit.probes import area_of
from featureloop.audit.shadows import Shadows, confidence_of, fitted, losses_of, package_losses, trained_shadows
from featureloop.core.intervals import Float64, Statistic, figure_maker
from featureloop.core.types import Bool
from featureloop.model.reference import outlying

FALSE_POSITIVES = 1e-3
FINE = 1000
"""Outsiders below which the score that one in a thousand exceeds can't be read from them."""
MEMBERS_EACH = 3
"""Members that are asked about for each outsider, where outsiders were given. Of 280 members three are more than a
hundredth; of as many of either the three highest are members one time in eight where nothing is told at all."""
TAIL = 3.09
"""Deviations that one in a thousand of a normal distribution exceeds."""
MEANS = "nearness to the package's means of founding frames"
CANARIES, CANARY_ROWS = 16, 64
"""Of the positive control: bags with wrong labels that are learned by heart, and rows of each."""
CANARY_STEPS, POOLED_CANARY_STEPS = 400, 2000


@dataclass(frozen=True, slots=True)
class MembershipSettings:
    """What the attacker spends.

    Attributes
    ----------
    shadows
        Recognizers that it trains; of a pooled form, which cost little, twice as many.
    steps
        Of training each, on 16 bags, and in proportion more where more are asked about; of a pooled form, four times as
        many, and as many passes as a founding has.
    candidates
        Most of the founding's members and outsiders that are asked about, of a pooled form 25 times as many; where
        outsiders are given besides, all of them are, and `MEMBERS_EACH` times as many members, where there are.
    own
        Most of its own frames that the shadows learn from as well, without those that are asked about; of a pooled
        form, four times as many.
    """

    shadows: int = 8
    steps: int = 48
    candidates: int = 80
    own: int = 80

    def for_pooled(self) -> MembershipSettings:
        """More of everything."""
        return MembershipSettings(2 * self.shadows, 4 * self.steps, 25 * self.candidates, 4 * self.own)

    def passes(self, frames: int) -> int:
        """Steps of a pooled form that are a founding's 16 passes over half of so many frames."""
        return max(self.steps, frames // 2)

    def in_proportion(self, asked: int) -> int:
        """Steps of a set: more where more are asked about than `candidates` of either side."""
        return max(self.steps, round(self.steps * asked / (2 * self.candidates)))


def attack_membership(lab: Lab, settings: MembershipSettings | None = None, *, records: Path | None = None) -> Finding:
    """Tell members of the recognizer's training from frames that it never saw.

    Parameters
    ----------
    records
        The package's founding records; None looks for them beside the package.
    """
    given, pooled = settings or MembershipSettings(), bool(lab.package.manifest.released.statistics)
    if pooled:
        given = given.for_pooled()
    path = records or records_beside(lab.package)
    own = own_pool(lab, given.own)
    rng = np.random.default_rng((lab.seed, 89))
    asked = _asked(lab, path, given, rng) if path else own
    own = own.unlike(asked) if path else own  # Else shadows that are said not to know a candidate would.
    pool = asked.joined(own) if path else own
    steps = given.passes(len(pool)) if pooled else given.in_proportion(len(asked))
    shadows = trained_shadows(lab, pool, count=given.shadows, steps=steps, rng=rng)
    among = Shadows(shadows.confidence[:, : len(asked)], shadows.knew[:, : len(asked)])
    measures = []
    if path:
        said = confidence_of(package_losses(lab, pool.only(np.arange(len(asked)))))
        for by, scores in {
            "likelihood ratio": among.ratio(said),
            "likelihood ratio, offline": among.excess(said),
            "loss alone": said,
        }.items():
            measures += _figures(scores, asked.members, asked.groups, arm="release", by=by, seed=lab.seed)
        reference, released = lab.package.manifest.calibration.reference, lab.package.manifest.released
        if reference is not None:
            near = -np.array([outlying(v, reference, released) for v in asked.values])
            measures += _figures(near, asked.members, asked.groups, arm="release", by=MEANS, seed=lab.seed)
    measures += _in_turn(among, asked.groups, seed=lab.seed)
    controls = _controls(lab, asked, among, rng)
    target = [m for m in measures if m.figure == "TPR at 1e-3 FPR" and (path is None or "in turn" not in m.by)]
    return Finding(
        attack="membership",
        headline={"membership.tpr": max(target, key=lambda m: m.value)},
        measures=(*measures, *controls),
        controls=apart(controls, "AUC"),
        budget=(
            f"{given.shadows} shadow recognizers, {steps} steps of 16 bags each, from halves of {len(asked)} "
            f"candidates and {len(pool) - len(asked)} frames of its own"
        ),
        notes=_notes(asked, founded=path is not None, shadows=given.shadows),
    )


def _asked(lab: Lab, records: Path, given: MembershipSettings, rng: np.random.Generator) -> Pool:
    """The founding records, and the outsiders that were given besides, unless they are founding frames."""
    others = None if lab.outsiders is None else pool_of(lab, lab.outsiders)
    most = given.candidates if others is None else MEMBERS_EACH * (given.candidates + len(others))
    pool = founding_pool(lab.package, records, members=most, others=given.candidates, rng=rng)
    pool = pool if others is None else pool.joined(others.unlike(pool))
    return pool.only(np.concatenate([rng.permutation(np.flatnonzero(pool.members == m)) for m in (True, False)]))


def _in_turn(shadows: Shadows, groups: NDArray[np.str_], *, seed: int) -> list[Measure]:
    """Every shadow attacked by the others: recognizers of the same training, with many more outsiders."""
    count = len(shadows.knew)
    scores = np.concatenate([shadows.without(i).ratio(shadows.confidence[i]) for i in range(count)])
    return _figures(
        scores, shadows.knew.ravel(), np.tile(groups, count), arm="release", by="shadows in turn", seed=seed
    )


def _figures(
    scores: Float64, members: Bool, groups: NDArray[np.str_], *, arm: Arm, by: str, seed: int
) -> list[Measure]:
    make, needs = figure_maker(groups, seed=seed), (members, ~members)
    area = make("AUC", area_of(np.stack([-scores, scores], axis=1), members.astype(np.intp)), needs=needs)
    found = make("TPR at 1e-3 FPR", found_at(scores, members), needs=needs)
    above = make("TPR above every outsider", above_all(scores, members), needs=needs)
    return [
        as_measure(above, arm=arm, by=by, chance=1 / (1 + int((~members).sum()))),
        as_measure(found, arm=arm, by=by, chance=FALSE_POSITIVES),
        as_measure(area, arm=arm, by=by, chance=0.5),
    ]


def found_at(scores: Float64, members: Bool) -> Statistic:
    """Share of the members whose score is above what one outsider in a thousand exceeds.

    Of fewer than `FINE` outsiders that is estimated: their median and so many of the deviations above it as a normal
    tail has, since the highest of eighty would let one member in eighty through where nothing leaks. But never less
    than the highest: an estimate that one of fewer than a thousand exceeds is refuted, their tail is no normal one.
    """
    fine = int((~members).sum()) >= FINE

    def statistic(at: NDArray[np.intp]) -> float:
        inside, outside = scores[at][members[at]], np.sort(scores[at][~members[at]])[::-1]
        if not len(inside) or not len(outside):
            return float("nan")
        return float((inside > (outside[int(FALSE_POSITIVES * len(outside))] if fine else _tail(outside))).mean())

    return statistic


def above_all(scores: Float64, members: Bool) -> Statistic:
    """Share of the members whose score is above every outsider's."""

    def statistic(at: NDArray[np.intp]) -> float:
        inside, outside = scores[at][members[at]], scores[at][~members[at]]
        return float((inside > outside.max()).mean()) if len(inside) and len(outside) else float("nan")

    return statistic


def _tail(scores: Float64) -> float:
    middle = float(np.median(scores))
    upper = scores[scores >= middle] - middle
    return max(float(scores.max()), middle + TAIL * float(np.sqrt((upper**2).mean())))


def _controls(lab: Lab, asked: Pool, shadows: Shadows, rng: np.random.Generator) -> list[Measure]:
    """A recognizer that learned wrong labels by heart must tell whose; one that saw none of the frames must not."""
    some = asked.shortened(min(CANARY_ROWS, asked.values.shape[1]))
    wrong = replace(some, targets=some.targets[rng.permutation(len(some))], groups=np.arange(len(some)).astype(str))
    half = rng.permutation(len(wrong)) < min(CANARIES, len(wrong) // 2)
    steps = CANARY_STEPS if some.values.shape[1] > 1 else POOLED_CANARY_STEPS
    canaries = wrong.only(np.flatnonzero(half))
    made = fitted(lab, canaries, steps=steps, seed=97, name="overfitted control", average=0.5, noise=0.0)
    told = confidence_of(losses_of(lab, made, wrong))
    planted = _figures(told, half, wrong.groups, arm="planted", by="learned by heart", seed=lab.seed)
    # Of each shadow those that it never saw, half of them called members.
    unseen = ~shadows.knew
    scores = np.stack([shadows.without(i).ratio(said) for i, said in enumerate(shadows.confidence)])
    drawn = rng.random(unseen.shape) < 0.5
    groups = np.tile(asked.groups, (len(unseen), 1))
    random = _figures(
        scores[unseen], drawn[unseen], groups[unseen], arm="random", by="frames that it never saw", seed=lab.seed
    )
    return [*planted, *random]


def _notes(asked: Pool, *, founded: bool, shadows: int) -> tuple[str, ...]:
    outsiders = int((~asked.members).sum())
    said = []
    if founded:
        said.append(
            f"Attacked was the package's own recognizer: {int(asked.members.sum())} founding records are its members, "
            f"{outsiders} held or given ones are not."
        )
        if outsiders < FINE:
            said.append(
                f"With {outsiders} outsiders, fewer than {FINE}, the score that 0.1% of them exceed is estimated by a "
                "normal tail, or is the highest of them where that is more, and the figure is coarse; the share of "
                "members above every outsider stands beside it."
            )
    else:
        said.append(
            "No founding records lie beside the package, so its own recognizer could not be attacked: recognizers "
            "that the same training made of halves of the attacker's frames were, each by the others."
        )
    said.append(
        f"'Shadows in turn' are {shadows} recognizers of the same training on fewer frames, each attacked by the "
        "others: fewer frames are remembered better, so the figure is high for a recognizer of many."
    )
    return tuple(said)
