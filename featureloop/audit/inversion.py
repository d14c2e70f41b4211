"""Attack 2, inversion: what image can be drawn of what leaves, and whose it is.

Four attackers learn on images of other patients: ridge regression from descriptors, a network that draws, a search
along the extractor's own gradient, and a surrogate of an attacker who has no package. Each is measured by what it adds
to the best guess that needs no features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featureloop.audit.decoders import (
    BATCH,
    LinearDecoder,
    MapDecoder,
    SetDecoder,
    bags,
    decode,
    scale_of,
    train_decoder,
)
from featureloop.audit.descriptors import Codebooks, describe
from featureloop.audit.findings import Arm, Finding, Measure, Point, apart, strongest
from featureloop.audit.image_distance import SIDE, psnr
from featureloop.audit.material import LEAST_GROUPS, Lab, Party, Release
from featureloop.audit.reconstructions import FOUND, GAIN, Case, Judge, linked, pictures_of, sheet_of
from featureloop.audit.restored import drawn_from_restored
from featureloop.audit.searched import Searched, searched_pictures
from featureloop.audit.surrogate import imitate, pooled, rows_as_releases
from featureloop.audit.whitebox import Search
from featureloop.core.errors import PackageError
from featureloop.core.types import Float32

CONTROL_SIDE = 16
"""Cells per side of the ordered maps that a network draws from."""
NEIGHBOURS = 20
"""Of the attacker's images with the most similar recognition, whose mean is the label's guess."""


@dataclass(frozen=True, slots=True)
class InversionSettings:
    """What the attacker spends.

    Attributes
    ----------
    victims
        Most records that are drawn.
    steps, control_steps, surrogate_steps
        Of training a network that draws, the same on the controls, and of the surrogate.
    batch
        Images of a step.
    searched
        Records that are searched for along the gradient.
    search
        How.
    sheet
        Victims that are shown on the sheet.
    curve
        Shares of the attacker's patients, for the curve.
    """

    victims: int = 150
    steps: int = 500
    control_steps: int = 250
    surrogate_steps: int = 250
    batch: int = BATCH
    searched: int = 6
    search: Search = field(default_factory=Search)
    sheet: int = 8
    curve: tuple[float, ...] = (0.25, 0.5)


def attack_inversion(lab: Lab, settings: InversionSettings | None = None) -> Finding:
    """Draw the victims' images from what leaves and from the controls, and search for whose they are."""
    given = settings or InversionSettings()
    case, theirs = _case(lab, given)
    drawn = _release_arm(lab, case, given)
    notes = ["Diffusion models, which need a GPU, were not run: where they know such images, they draw sharper ones."]
    searched: Searched = {}
    try:
        searched = searched_pictures(lab, case, theirs, drawn["network"], count=given.searched, search=given.search)
    except PackageError as error:
        notes.append(f"The search along the gradient was not run: {error}.")
    shallow = _shallow_arm(lab, case, theirs, given)
    blind = _random_arm(lab, case, given)
    guesses = _guesses(case)
    measures: list[Measure] = []
    best = max(guesses, key=lambda by: float(psnr(guesses[by], case.pictures).mean()))
    judge = Judge(case, guesses[best], seed=lab.seed)
    every = np.arange(len(case.pictures))
    arms: list[tuple[Arm, Mapping[str, tuple[Float32, NDArray[np.intp]]]]] = [
        ("release", {**{by: (p, every) for by, p in drawn.items()}, **_along(searched, "release")}),
        ("shallow", {**{by: (p, every) for by, p in shallow.items()}, **_along(searched, "shallow")}),
        ("random", {by: (p, every) for by, p in blind.items()}),
        ("baseline", {by: (p, every) for by, p in guesses.items()}),
    ]
    for arm, found in arms:
        for by, (pictures, at) in found.items():
            measures += judge.measures(pictures, at, arm=arm, by=by)
    found_again = [linked(lab, case, pictures, "release", by) for by, pictures in drawn.items()]
    found_again.append(linked(lab, case, max(shallow.values(), key=judge.gain), "shallow", "the strongest decoder"))
    found_again.append(linked(lab, case, guesses[best], "baseline", best))
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
            f"{len(case.known)} images of the attacker; {len(case.asked)} records drawn at {SIDE} x {SIDE} pixels; "
            f"{given.steps} steps of {given.batch} images; {given.searched} records searched for, in "
            f"{given.search.steps} steps each."
        ),
        notes=tuple(notes),
        sheet=sheet_of(case, drawn, guesses[best], judge, most=given.sheet),
    )


def _case(lab: Lab, given: InversionSettings) -> tuple[Case, Party]:
    """Records of one frame each or of several, with the first one's picture; victims thinned evenly."""
    at = np.unique(np.linspace(0, len(lab.victims) - 1, min(given.victims, len(lab.victims))).round().astype(int))
    theirs = lab.victims.only(at)
    asked = lab.release(theirs.frames, what="the victims' records")
    mine = lab.mine
    first, others = ([r.frames[0] for r in releases] for releases in (mine, asked))
    case = Case(
        mine,
        pictures_of(lab.attacker)[first],
        lab.attacker.groups[first],
        asked,
        pictures_of(theirs)[others],
        theirs.groups[others],
        [theirs.frames[i] for i in others],
    )
    return case, theirs


def _release_arm(lab: Lab, case: Case, given: InversionSettings) -> dict[str, Float32]:
    """Pictures of all asked records, by every attacker that draws them at once."""
    books = Codebooks(case.known, seed=lab.seed, unit=lab.unit)
    known, asked = describe(case.known, books), describe(case.asked, books)
    linear = LinearDecoder(known, case.known_pictures, case.known_groups, seed=lab.seed)
    name = linear.name
    out = {f"linear, {name}": linear(asked), f"nearest image, {name}": _nearest(known[name], asked[name], case)}
    form = lab.package.manifest.released.form
    if form.base != "pool" and form.mix == 1:
        out["network, rows put back"] = drawn_from_restored(lab, case, steps=given.control_steps, batch=given.batch)
    out["network"] = _networked(lab, case.known, case.asked, case.known_pictures, given, what="decoder of records")
    theirs = bags(case.asked, *scale_of(case.asked))
    stranger = imitate(theirs, case.known_pictures, steps=given.surrogate_steps, seed=lab.seed, progress=lab.progress)
    rows = pooled(rows_as_releases(stranger, case.known_pictures), case.asked)
    draw = partial(_drawn_rows, rows)
    network = train_decoder(
        lambda: SetDecoder(theirs[0].shape[2]),
        draw,
        case.known_pictures,
        steps=given.steps,
        batch=given.batch,
        seed=lab.seed,
        progress=lab.progress,
        what="decoder of the surrogate",
    )
    out["surrogate without the package"] = decode(network, theirs)
    return out


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


def _networked(
    lab: Lab,
    known: Sequence[Release],
    asked: Sequence[Release],
    pictures: Float32,
    given: InversionSettings,
    *,
    what: str,
) -> Float32:
    """A network that draws from bags."""
    scale = scale_of(known)
    rows = bags(known, *scale)
    network = train_decoder(
        lambda: SetDecoder(rows[0].shape[2]),
        partial(_drawn_rows, rows),
        pictures,
        steps=given.steps,
        batch=given.batch,
        seed=lab.seed,
        progress=lab.progress,
        what=what,
    )
    return decode(network, bags(asked, *scale))


def _drawn_rows(rows: Sequence[Tensor], rng: np.random.Generator, at: NDArray[np.intp]) -> Tensor:
    """Bags of these numbers, their rows in another order each time."""
    chosen = [rows[i][0] for i in at]
    return torch.stack([x[torch.from_numpy(rng.permutation(len(x)))] for x in chosen])


def _nearest(known: Float32, asked: Float32, case: Case) -> Float32:
    """The attacker's image whose record is nearest."""
    mean, spread = known.mean(0), known.std(0) + 1e-6
    a, b = (((x - mean) / spread).astype(np.float32) for x in (known, asked))
    distance = (b**2).sum(1)[:, None] - 2 * b @ a.T + (a**2).sum(1)
    return np.asarray(case.known_pictures[distance.argmin(1)], np.float32)


def _guesses(case: Case) -> dict[str, Float32]:
    """What can be drawn without features: the mean image, and that of the images with the most similar recognition."""
    mean = np.broadcast_to(case.known_pictures.mean(0), case.pictures.shape).astype(np.float32)
    known, asked = (np.stack([r.rows.mean(0) for r in releases]) for releases in (case.known, case.asked))
    distance = ((asked[:, None] - known[None]) ** 2).sum(2)
    near = distance.argsort(1, kind="stable")[:, : min(NEIGHBOURS, len(known))]
    return {"mean image": mean, "mean image of the label": case.known_pictures[near].mean(1).astype(np.float32)}


def _along(searched: Searched, arm: Arm) -> Mapping[str, tuple[Float32, NDArray[np.intp]]]:
    return {"white-box search": searched[arm]} if arm in searched else {}


def _shallow_arm(lab: Lab, case: Case, theirs: Party, given: InversionSettings) -> dict[str, Float32]:
    """Pictures from ordered maps of the first layers, which must show the images."""
    sides = []
    for party, releases in ((lab.attacker, case.known), (theirs, case.asked)):
        frames = [party.frames[r.frames[0]] for r in releases]
        sides.append(_cells(lab.shallow(frames, what="maps of the control")))
    mean, spread = sides[0].mean((0, 2, 3), keepdims=True), sides[0].std((0, 2, 3), keepdims=True) + 1e-3
    known, asked = (torch.from_numpy(((x - mean) / spread).astype(np.float32)) for x in sides)
    network = train_decoder(
        lambda: MapDecoder(known.shape[1]),
        lambda _rng, at: known[at],
        case.known_pictures,
        steps=given.control_steps,
        batch=given.batch,
        seed=lab.seed,
        progress=lab.progress,
        what="decoder of the control",
    )
    return {"network": decode(network, [x[None] for x in asked])}


def _cells(maps: Float32) -> Float32:
    """Ordered maps at the control's resolution, float32 (M, C, 16, 16)."""
    return np.asarray(torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(maps), CONTROL_SIDE).numpy())


def _random_arm(lab: Lab, case: Case, given: InversionSettings) -> dict[str, Float32]:
    """Pictures from values that know nothing of their frame."""
    known, asked = (lab.random(releases, seed=60 + i) for i, releases in enumerate((case.known, case.asked)))
    books = Codebooks(known, seed=lab.seed, unit=lab.unit)
    described, others = describe(known, books), describe(asked, books)
    linear = LinearDecoder(described, case.known_pictures, case.known_groups, seed=lab.seed)
    return {
        f"linear, {linear.name}": linear(others),
        "network": _networked(
            lab, known, asked, case.known_pictures, replace(given, steps=given.control_steps), what="decoder of nothing"
        ),
    }
