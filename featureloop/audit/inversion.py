"""Attack 2, inversion: what image can be drawn of what leaves, and whose it is.

Attackers learn on images of other patients: ridge regression from descriptors, a network that draws, a search along the
extractor's own gradient, a surrogate of an attacker who has no package, and, where there is a GPU or it is asked for, a
diffusion model. Each is measured by what it adds to the best guess that needs no features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from featureloop.audit.decoders import LinearDecoder
from featureloop.audit.descriptors import Codebooks, describe
from featureloop.audit.diffusion import STEPS_ON_A_GPU
from featureloop.audit.drawn import Drawn, drawn_of_random, drawn_of_release, drawn_of_shallow
from featureloop.audit.findings import Arm, Finding, Measure, Point, apart, strongest
from featureloop.audit.image_distance import SIDE, psnr
from featureloop.audit.inversion_settings import InversionSettings
from featureloop.audit.material import LEAST_GROUPS, Lab, Party
from featureloop.audit.reconstructions import FOUND, GAIN, Case, Judge, linked, pictures_of, sheet_of
from featureloop.audit.searched import Searched, searched_pictures
from featureloop.core.errors import PackageError
from featureloop.core.types import Float32

NEIGHBOURS = 20
"""Of the attacker's images with the most similar recognition, whose mean is the label's guess."""


def attack_inversion(lab: Lab, settings: InversionSettings | None = None) -> Finding:
    """Draw the victims' images from what leaves and from the controls, and search for whose they are."""
    given = settings or InversionSettings()
    case, theirs = _case(lab, given)
    release = drawn_of_release(lab, case, given, seed=lab.seed)
    drawn, notes = release.pictures, []
    searched: Searched = {}
    try:
        searched = searched_pictures(lab, case, theirs, drawn["network"], count=given.searched, search=given.search)
    except PackageError as error:
        notes.append(f"The search along the gradient was not run: {error}.")
    one = case.first()
    control, blind = drawn_of_shallow(lab, one, theirs, given), drawn_of_random(lab, one, given).pictures
    shallow = control.pictures
    notes.append(_of_diffusion(given, release, control))
    guesses = _guesses(case)
    measures: list[Measure] = []
    best = max(guesses, key=lambda by: float(psnr(guesses[by], case.pictures).mean()))
    judge = Judge(case, guesses[best], seed=lab.seed)
    every, first = np.arange(len(case.pictures)), np.arange(len(one.pictures))
    arms: list[tuple[Arm, Mapping[str, tuple[Float32, NDArray[np.intp]]]]] = [
        ("release", {**{by: (p, every) for by, p in drawn.items()}, **_along(searched, "release")}),
        ("shallow", {**{by: (p, first) for by, p in shallow.items()}, **_along(searched, "shallow")}),
        ("random", {by: (p, first) for by, p in blind.items()}),
        ("baseline", {by: (p, every) for by, p in guesses.items()}),
    ]
    for arm, found in arms:
        for by, (pictures, at) in found.items():
            measures += judge.measures(pictures, at, arm=arm, by=by)
    every_one = _of_all_attackers(lab, case, given, drawn)
    found_again = [m for by, each in every_one.items() for m in linked(lab, case, each, "release", by)]
    notes += _of_the_first(lab, case, every_one)
    found_again += linked(lab, one, [max(shallow.values(), key=judge.gain)], "shallow", "the strongest decoder")
    found_again += linked(lab, case, case.by_draw(guesses[best]), "baseline", best)
    notes.append(f"The best guess without features is the {best}; gains are over it, record by record.")
    return Finding(
        attack="inversion",
        headline={
            "inversion.gain_db": strongest(measures, GAIN),
            "inversion.linkage_top1": strongest(found_again, FOUND),
        },
        measures=(*measures, *found_again),
        controls=apart(measures, GAIN),
        curve=_curve(lab, case, judge, given),
        curve_by="ridge regression alone",
        budget=(
            f"{len(case.known)} images of the attacker; {len(one.asked)} records drawn at {SIDE} x {SIDE} pixels"
            + (f", of {case.draws} draws of what leaves; " if case.draws > 1 else "; ")
            + (f"searched for by {given.attackers} attackers; " if _several(lab, case) else "")
            + f"{given.steps} steps of {given.batch} images; {given.searched} records searched for, in "
            f"{given.search.steps} steps each."
        ),
        notes=tuple(notes),
        sheet=sheet_of(case, drawn, guesses[best], judge, most=given.sheet),
    )


def _of_all_attackers(
    lab: Lab, case: Case, given: InversionSettings, drawn: Mapping[str, Float32]
) -> dict[str, list[Float32]]:
    """Pictures to search for by each way: of every draw of what leaves, or of pooled vectors by several attackers.

    What leaves of a frame in few bits is the same of many frames. They have one picture and one nearest image, which
    is of this patient or that one by an attacker's own chance; so what one attacker finds says little.
    """
    if not _several(lab, case):
        return {by: case.by_draw(pictures) for by, pictures in drawn.items()}
    out = {by: [pictures] for by, pictures in drawn.items()}
    alone = replace(given, diffusion=replace(given.diffusion, steps=0))
    for seed in np.random.default_rng((lab.seed, 65)).integers(2**31, size=given.attackers - 1).tolist():
        for by, pictures in drawn_of_release(lab, case.of_another(seed=seed), alone, seed=seed).pictures.items():
            out[by].append(pictures)
    return out


def _of_the_first(lab: Lab, case: Case, drawn: Mapping[str, Sequence[Float32]]) -> list[str]:
    """What one attacker alone finds, where several search."""
    if not _several(lab, case):
        return []
    alone = strongest([m for by, each in drawn.items() for m in linked(lab, case, each[:1], "release", by)], FOUND)
    return [
        "How often reconstructions are linked is the mean over several attackers, the others with patients drawn anew "
        f"from the first one's; the first alone, who holds all of them, links {alone.value:.3f} ({alone.low:.3f} to "
        f"{alone.high:.3f}) by its strongest way, {alone.by}. The intervals are over victims, not over attackers."
    ]


def _several(lab: Lab, case: Case) -> bool:
    """Whether vectors are pooled, and chance decides nothing of what leaves."""
    return case.draws == 1 and bool(lab.package.manifest.released.statistics)


def _of_diffusion(given: InversionSettings, release: Drawn, control: Drawn) -> str:
    """Whether a diffusion model drew, and what it spent."""
    if release.diffused:
        said = f"A diffusion model was trained: on what leaves, {release.diffused}; on the map, {control.diffused}."
        few = f" A GPU gets {STEPS_ON_A_GPU} steps; fewer say little about what those would find."
        return said + (few if given.diffusion.steps < STEPS_ON_A_GPU else "")
    why = "as was asked" if torch.cuda.is_available() else "since there is no GPU and no steps were asked for"
    return f"Diffusion models were not run, {why}: where they know such images, they draw sharper ones."


def _case(lab: Lab, given: InversionSettings) -> tuple[Case, Party]:
    """Records of one frame each or of several, with the first one's picture; victims thinned evenly."""
    if given.victims is None or given.victims >= len(lab.victims):
        theirs, draws = lab.victims, lab.their_draws
    else:
        theirs = lab.victims.only(np.linspace(0, len(lab.victims) - 1, given.victims).round().astype(int))
        draws = lab.releases(theirs.frames, what="the victims' records", draws=lab.draws)
    mine, asked = lab.mine, [r for records in draws for r in records]
    first, others = ([r.frames[0] for r in releases] for releases in (mine, asked))
    case = Case(
        mine,
        pictures_of(lab.attacker)[first],
        lab.attacker.groups[first],
        asked,
        pictures_of(theirs)[others],
        theirs.groups[others],
        [theirs.frames[i] for i in others],
        len(draws),
    )
    return case, theirs


def _curve(lab: Lab, case: Case, judge: Judge, given: InversionSettings) -> tuple[Point, ...]:
    """What ridge regression gains where the attacker had fewer patients, and with all: networks would take too long."""
    names = np.random.default_rng((lab.seed, 63)).permutation(np.unique(case.known_groups))
    points = []
    for share in (*given.curve, 1.0):
        part = np.flatnonzero(np.isin(case.known_groups, names[: max(LEAST_GROUPS, round(share * len(names)))]))
        known = [case.known[i] for i in part.tolist()]
        books = Codebooks(known, seed=lab.seed, unit=lab.unit)
        pictures, groups = case.known_pictures[part], case.known_groups[part]
        linear = LinearDecoder(describe(known, books), pictures, groups, seed=lab.seed)
        found = linear(describe(case.asked, books))
        every = np.arange(len(found))
        gain = next(m for m in judge.measures(found, every, arm="release", by="") if m.figure == GAIN)
        points.append(Point(images=len(part), value=gain.value, low=gain.low, high=gain.high))
    return tuple(points)


def _guesses(case: Case) -> dict[str, Float32]:
    """What can be drawn without features: the mean image, and that of the images with the most similar recognition."""
    mean = np.broadcast_to(case.known_pictures.mean(0), case.pictures.shape).astype(np.float32)
    known, asked = (np.stack([r.rows.mean(0) for r in releases]) for releases in (case.known, case.asked))
    distance = ((asked[:, None] - known[None]) ** 2).sum(2)
    near = distance.argsort(1, kind="stable")[:, : min(NEIGHBOURS, len(known))]
    return {"mean image": mean, "mean image of the label": case.known_pictures[near].mean(1).astype(np.float32)}


def _along(searched: Searched, arm: Arm) -> Mapping[str, tuple[Float32, NDArray[np.intp]]]:
    return {"white-box search": searched[arm]} if arm in searched else {}
