"""Pictures by every attacker that draws all records at once: of what leaves, and of the two controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featureloop.audit.decoders import LinearDecoder, MapDecoder, SetDecoder, bags, decode, scale_of, train_decoder
from featureloop.audit.denoiser import Denoiser, MapCondition, SetCondition
from featureloop.audit.descriptors import Codebooks, describe
from featureloop.audit.diffusion import DiffusionSettings, drawn_by_diffusion
from featureloop.audit.inversion_settings import InversionSettings
from featureloop.audit.material import Lab, Party, Release
from featureloop.audit.reconstructions import Case
from featureloop.audit.restored import drawn_from_restored
from featureloop.audit.surrogate import imitate, pooled, rows_as_releases
from featureloop.core.types import Float32

CONTROL_SIDE = 16
"""Cells per side of the ordered maps that a network draws from."""


class Drawn(NamedTuple):
    """Pictures float32 (M, 3, 64, 64) of all asked records, by attacker; and what the diffusion model did, in words."""

    pictures: dict[str, Float32]
    diffused: str


def drawn_of_release(lab: Lab, case: Case, given: InversionSettings, *, seed: int) -> Drawn:
    """Pictures of what leaves, by an attacker's networks of this seed."""
    books = Codebooks(case.known, seed=seed, unit=lab.unit)
    known, asked = describe(case.known, books), describe(case.asked, books)
    linear = LinearDecoder(known, case.known_pictures, case.known_groups, seed=seed)
    name = linear.name
    out = {f"linear, {name}": linear(asked), f"nearest image, {name}": _nearest(known[name], asked[name], case)}
    form = lab.package.manifest.released.form
    if form.base != "pool" and form.mix == 1:
        out["network, rows put back"] = drawn_from_restored(lab, case, steps=given.control_steps, batch=given.batch)
    both = case.known, case.asked
    out["network"] = _networked(lab, *both, case.known_pictures, given, seed=seed, what="decoder of records")
    theirs = bags(case.asked, *scale_of(case.asked))
    stranger = imitate(theirs, case.known_pictures, steps=given.surrogate_steps, seed=seed, progress=lab.progress)
    rows = pooled(rows_as_releases(stranger, case.known_pictures), case.asked)
    draw = partial(_drawn_rows, rows)
    network = train_decoder(
        lambda: SetDecoder(theirs[0].shape[2]),
        draw,
        case.known_pictures,
        steps=given.steps,
        batch=given.batch,
        seed=seed,
        progress=lab.progress,
        what="decoder of the surrogate",
    )
    out["surrogate without the package"] = decode(network, theirs)
    found, said = _diffused(lab, case, *both, given.diffusion, what="diffusion of records")
    return Drawn(out | found, said)


def drawn_of_shallow(lab: Lab, case: Case, theirs: Party, given: InversionSettings) -> Drawn:
    """Pictures from ordered maps of the first layers, which must show the images."""
    sides = []
    for party, releases in ((lab.attacker, case.known), (theirs, case.asked)):
        frames = [party.frames[r.frames[0]] for r in releases]
        sides.append(_cells(lab.shallow(frames, what="maps of the control")))
    mean, spread = sides[0].mean((0, 2, 3), keepdims=True), sides[0].std((0, 2, 3), keepdims=True) + 1e-3
    known, asked = (torch.from_numpy(((x - mean) / spread).astype(np.float32)) for x in sides)

    def draw(_rng: np.random.Generator, at: NDArray[np.intp]) -> Tensor:
        return known[at]

    network = train_decoder(
        lambda: MapDecoder(known.shape[1]),
        draw,
        case.known_pictures,
        steps=given.control_steps,
        batch=given.batch,
        seed=lab.seed,
        progress=lab.progress,
        what="decoder of the control",
    )
    maps = [x[None] for x in asked]
    found, said = drawn_by_diffusion(
        lambda: Denoiser(MapCondition(known.shape[1])),
        draw,
        maps,
        case,
        given=given.diffusion.halved(),
        seed=lab.seed,
        progress=lab.progress,
        what="diffusion of the control",
    )
    return Drawn({"network": decode(network, maps), **found}, said)


def _cells(maps: Float32) -> Float32:
    """Ordered maps at the control's resolution, float32 (M, C, 16, 16)."""
    return np.asarray(torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(maps), CONTROL_SIDE).numpy())


def drawn_of_random(lab: Lab, case: Case, given: InversionSettings) -> Drawn:
    """Pictures from values that know nothing of their frame."""
    known, asked = (lab.random(releases, seed=60 + i) for i, releases in enumerate((case.known, case.asked)))
    books = Codebooks(known, seed=lab.seed, unit=lab.unit)
    described, others = describe(known, books), describe(asked, books)
    linear = LinearDecoder(described, case.known_pictures, case.known_groups, seed=lab.seed)
    fewer = replace(given, steps=given.control_steps)
    out = {
        f"linear, {linear.name}": linear(others),
        "network": _networked(lab, known, asked, case.known_pictures, fewer, seed=lab.seed, what="decoder of nothing"),
    }
    found, said = _diffused(lab, case, known, asked, given.diffusion.halved(), what="diffusion of nothing")
    return Drawn(out | found, said)


def _networked(
    lab: Lab,
    known: Sequence[Release],
    asked: Sequence[Release],
    pictures: Float32,
    given: InversionSettings,
    *,
    seed: int,
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
        seed=seed,
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


def _diffused(
    lab: Lab, case: Case, known: Sequence[Release], asked: Sequence[Release], given: DiffusionSettings, *, what: str
) -> tuple[dict[str, Float32], str]:
    """A diffusion model that draws from bags."""
    scale = scale_of(known)
    rows = bags(known, *scale)
    return drawn_by_diffusion(
        lambda: Denoiser(SetCondition(rows[0].shape[2])),
        partial(_drawn_rows, rows),
        bags(asked, *scale),
        case,
        given=given,
        seed=lab.seed,
        progress=lab.progress,
        what=what,
    )
