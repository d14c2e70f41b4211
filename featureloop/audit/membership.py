"""Attack 6: was a frame in the recognizer's training? A likelihood ratio with shadow recognizers.

Each shadow learns by the project's own training from a random half of the candidates and of the attacker's frames, so
that every candidate has recognizers that knew it and such that did not (Carlini et al. 2022, arXiv:2112.03570, with
one variance for all candidates, as they advise for few shadows).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featureloop.audit.findings import Arm, Finding, Measure
from featureloop.audit.material import Lab
from featureloop.audit.members import Pool, founding_pool, own_pool, records_beside
from featureloop.audit.probes import area_of
from featureloop.audit.retrieval import as_measure
from featureloop.core.intervals import Float64, Statistic, figure_maker
from featureloop.core.types import Bool, Task
from featureloop.model.fit import FitSettings, fit_recognizer
from featureloop.model.lesson import Surroundings
from featureloop.model.recognizers import GlobalRecognizer, build_recognizer
from featureloop.model.runtime import Runtime

FALSE_POSITIVES = 1e-3
FINE = 1000
"""Outsiders below which the score that one in a thousand exceeds can't be read from them."""
TAIL = 3.09
"""Deviations that one in a thousand of a normal distribution exceeds."""
LEAST_SPREAD = 1e-3
CANARIES, CANARY_ROWS, CANARY_STEPS = 24, 64, 150
"""Of the positive control: bags with wrong labels that are learned by heart, rows of each, steps."""


@dataclass(frozen=True, slots=True)
class MembershipSettings:
    """What the attacker spends.

    Attributes
    ----------
    shadows
        Recognizers that it trains; of a pooled form, which cost little, twice as many.
    steps
        Of training each, on 16 bags; of a pooled form, four times as many.
    candidates
        Most members, and most outsiders, that are asked about; of a pooled form, four times as many.
    own
        Most of its own frames that the shadows learn from as well.
    """

    shadows: int = 8
    steps: int = 48
    candidates: int = 80
    own: int = 80

    def for_pooled(self) -> MembershipSettings:
        """More of everything."""
        return MembershipSettings(2 * self.shadows, 4 * self.steps, 4 * self.candidates, 4 * self.own)


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


def attack_membership(lab: Lab, settings: MembershipSettings | None = None, *, records: Path | None = None) -> Finding:
    """Tell members of the recognizer's training from frames that it never saw.

    Parameters
    ----------
    records
        The package's founding records; None looks for them beside the package.
    """
    given = settings or MembershipSettings()
    if lab.package.manifest.released.anonymizer == "pool":
        given = given.for_pooled()
    path = records or records_beside(lab.package)
    own = own_pool(lab, given.own)
    rng = np.random.default_rng((lab.seed, 89))
    asked = _drawn(founding_pool(lab.package, path), given.candidates, rng) if path else own
    pool = asked.joined(own) if path else own
    shadows = _trained_shadows(lab, pool, given, rng)
    among = Shadows(shadows.confidence[:, : len(asked)], shadows.knew[:, : len(asked)])
    measures = []
    if path:
        said = _confidence(_package_losses(lab, pool.only(np.arange(len(asked)))))
        for by, scores in {
            "likelihood ratio": among.ratio(said),
            "likelihood ratio, offline": among.excess(said),
            "loss alone": said,
        }.items():
            measures += _figures(scores, asked.members, asked.groups, arm="release", by=by, seed=lab.seed)
    measures += _in_turn(among, asked.groups, seed=lab.seed)
    controls = _controls(lab, asked, among, rng)
    by_arm = {m.arm: m for m in controls if m.figure == "AUC"}
    target = [m for m in measures if m.figure == "TPR at 1e-3 FPR" and (path is None or "in turn" not in m.by)]
    return Finding(
        attack="membership",
        headline={"membership.tpr": max(target, key=lambda m: m.value)},
        measures=(*measures, *controls),
        controls=by_arm["planted"].low > by_arm["random"].high,
        budget=(
            f"{given.shadows} shadow recognizers, {given.steps} steps of 16 bags each, from halves of {len(asked)} "
            f"candidates and {len(pool) - len(asked)} frames of its own"
        ),
        notes=_notes(asked, founded=path is not None, shadows=given.shadows),
    )


def _drawn(pool: Pool, most: int, rng: np.random.Generator) -> Pool:
    """At most so many members and so many outsiders."""
    sides = [rng.permutation(np.flatnonzero(pool.members == m))[:most] for m in (True, False)]
    return pool.only(np.concatenate(sides))


def _trained_shadows(lab: Lab, pool: Pool, given: MembershipSettings, rng: np.random.Generator) -> Shadows:
    """Train in pairs on a random half and on the other one, so that every candidate is in half of them."""
    knew, confidence = [], []
    for pair in range(-(-given.shadows // 2)):
        half = rng.permutation(len(pool)) < len(pool) // 2
        for i, chosen in enumerate((half, ~half)):
            made = _fitted(
                lab, pool.only(np.flatnonzero(chosen)), steps=given.steps, seed=2 * pair + i, name="shadow recognizers"
            )
            knew.append(chosen)
            confidence.append(_confidence(_losses(lab, made, pool)))
    return Shadows(np.stack(confidence), np.stack(knew))


def _fitted(lab: Lab, pool: Pool, *, steps: int, seed: int, name: str, average: float = 0.9) -> nn.Module:
    """A recognizer like the package's, trained by the project's own training."""
    manifest = lab.package.manifest
    torch.manual_seed(1000 * lab.seed + seed)
    made = build_recognizer(manifest.recognizer, channels=pool.values.shape[2])
    if isinstance(made, GlobalRecognizer):
        made.standardize_by(torch.from_numpy(pool.values))
    batch = min(16, len(pool))
    fit = FitSettings(
        epochs=steps * batch / len(pool), batch=batch, learning_rate=2e-3, average=average, seed=seed, name=name
    )
    around = Surroundings(progress=lab.progress)
    fit_recognizer(made, pool.bags(), task=Task(manifest.task), settings=fit, around=around)
    return made


def _losses(lab: Lab, made: nn.Module, pool: Pool) -> Float64:
    """A recognizer's loss of every bag, float64 (M,)."""
    parts = np.array_split(np.arange(len(pool)), -(-len(pool) // 16))
    with torch.no_grad():
        return np.concatenate([_loss(lab, made(torch.from_numpy(pool.values[at])), pool, at) for at in parts])


def _package_losses(lab: Lab, pool: Pool) -> Float64:
    """The package's own recognizer's."""
    runtime = Runtime(lab.package)
    out = []
    for i in range(len(pool)):
        logits = torch.from_numpy(runtime.logits(pool.values[i]))[None]
        out.append(_loss(lab, logits, pool, np.array([i])))
    return np.concatenate(out)


def _loss(lab: Lab, logits: torch.Tensor, pool: Pool, at: NDArray[np.intp]) -> Float64:
    from featureloop.model.losses import recognition_loss

    targets = torch.from_numpy(pool.targets[at].astype(np.float32))
    with torch.no_grad():
        found = recognition_loss(logits.float(), targets, task=Task(lab.package.manifest.task))
    return np.asarray(found.numpy(), np.float64)


def _confidence(losses: Float64) -> Float64:
    """Log-odds of being right, standardized over the bags: recognizers differ in how sure they are of all."""
    x = np.clip(losses, 1e-7, 50.0)
    odds = -x - np.log(-np.expm1(-x))
    return np.asarray((odds - odds.mean()) / (odds.std() + 1e-9), np.float64)


def _log_density(x: Float64, mean: Float64, spread: float) -> Float64:
    return np.asarray(-0.5 * ((x - mean) / spread) ** 2 - math.log(spread), np.float64)


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
    tail has. The highest of eighty would let one member in eighty through where nothing leaks.
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
    return middle + TAIL * float(np.sqrt((upper**2).mean()))


def _controls(lab: Lab, asked: Pool, shadows: Shadows, rng: np.random.Generator) -> list[Measure]:
    """A recognizer that learned wrong labels by heart must tell whose; one that saw none of the frames must not."""
    rows = min(CANARY_ROWS, asked.values.shape[1])
    some = asked.only(rng.permutation(len(asked))[: 2 * CANARIES]).shortened(rows)
    wrong = replace(some, targets=some.targets[rng.permutation(len(some))], groups=np.arange(len(some)).astype(str))
    half = np.arange(len(wrong)) < len(wrong) // 2
    made = _fitted(
        lab, wrong.only(np.flatnonzero(half)), steps=CANARY_STEPS, seed=97, name="overfitted control", average=0.5
    )
    planted = _figures(
        -_losses(lab, made, wrong), half, wrong.groups, arm="planted", by="learned by heart", seed=lab.seed
    )
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
            f"{outsiders} held ones are not."
        )
        if outsiders < FINE:
            said.append(
                f"With {outsiders} outsiders, fewer than {FINE}, the score that 0.1% of them exceed is estimated by a "
                "normal tail, and the figure is coarse; the share of members above every outsider stands beside it."
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
