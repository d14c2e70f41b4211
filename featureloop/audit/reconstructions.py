"""Reconstructions against their originals: how near they are, whose they are, and side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featureloop.audit.findings import Arm, Measure, as_measure
from featureloop.audit.image_distance import PERCEPTUAL, SIDE, Perceptual, psnr, ssim
from featureloop.audit.linking import mated, search_of
from featureloop.audit.material import LEAST_GROUPS, Lab, Party, Release
from featureloop.audit.retrieval import measures_of
from featureloop.audit.takes import takes_of
from featureloop.core.intervals import Float64, figure_maker, mean_of
from featureloop.core.types import Float32, Frame
from featureloop.model.charts import picture_url

PSNR, GAIN, SIMILAR, LOOKS, LINKED = (
    "PSNR, dB",
    "PSNR gain, dB",
    "SSIM gain",
    f"less {PERCEPTUAL}",
    "reconstructions linked",
)
FOUND = f"{LINKED}, top-1"
ALIKE = 1e-3
"""What values that are all alike differ by, at most."""
LEAST_SPREAD = 1e-5
"""Deviation of an image's cosines below which it is as near to every reconstruction."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """What is known of both sides: pictures float32 (M, 3, 64, 64) in [0, 1] and records, one for one.

    Attributes
    ----------
    asked, pictures, groups, frames
        Of the victims: one draw of their records after the other (`Lab.their_draws`).
    draws
        How many of them.
    """

    known: Sequence[Release]
    known_pictures: Float32
    known_groups: NDArray[np.str_]
    asked: Sequence[Release]
    pictures: Float32
    groups: NDArray[np.str_]
    frames: Sequence[Frame]
    draws: int = 1

    def by_draw(self, pictures: Float32) -> list[Float32]:
        """Pictures of all asked records, those of each draw by themselves."""
        return np.split(pictures, self.draws)

    def of_another(self, *, seed: int) -> Case:
        """Another attacker's, who holds as many patients: drawn from this one's, so that some are there repeatedly.

        So it holds about 63% of them, and two of them at least.
        """
        names, rng = np.unique(self.known_groups), np.random.default_rng((seed, 67))
        drawn = names[:1]
        while len(np.unique(drawn)) < min(2, len(names)):
            drawn = rng.choice(names, len(names))
        at = np.concatenate([np.flatnonzero(self.known_groups == name) for name in drawn])
        known = [self.known[i] for i in at.tolist()]
        return replace(self, known=known, known_pictures=self.known_pictures[at], known_groups=self.known_groups[at])

    def first(self) -> Case:
        """With the first draw alone."""
        n = len(self.pictures) // self.draws
        asked = self.asked[:n], self.pictures[:n], self.groups[:n], self.frames[:n]
        return Case(self.known, self.known_pictures, self.known_groups, *asked)


def pictures_of(side: Party) -> Float32:
    """A side's frames as pictures, float32 (M, 3, 64, 64) in [0, 1]."""
    return np.asarray(side.pixels(SIDE).transpose(0, 3, 1, 2) / 255, np.float32, order="C")


class Judge:
    """Measures pictures of the victims against the best guess."""

    def __init__(self, case: Case, guess: Float32, *, seed: int) -> None:
        self._case, self._seed, self._looks = case, seed, Perceptual()
        self._psnr, self._ssim = psnr(guess, case.pictures), ssim(guess, case.pictures)
        self._true = self._looks.features(case.pictures)
        self._distance = self._looks.apart(guess, self._true)

    def gain(self, pictures: Float32) -> float:
        """The mean PSNR gain of pictures of all victims' records, or of the first draw's."""
        n = len(pictures)
        return float((psnr(pictures, self._case.pictures[:n]) - self._psnr[:n]).mean())

    def measures(self, pictures: Float32, at: NDArray[np.intp], *, arm: Arm, by: str) -> list[Measure]:
        """PSNR itself, and the three gains, of pictures of the records of these numbers."""
        true = self._case.pictures[at]
        own = psnr(pictures, true)
        values: dict[str, Float64] = {
            PSNR: own,
            GAIN: own - self._psnr[at],
            SIMILAR: ssim(pictures, true) - self._ssim[at],
            LOOKS: self._distance[at] - self._looks.apart(pictures, self._true[at]),
        }
        make = figure_maker(self._case.groups[at], seed=self._seed)
        found = [make(name, mean_of(v), most=np.inf) for name, v in values.items()]
        return [as_measure(f, arm=arm, by=by, chance=None if f.name == PSNR else 0.0) for f in found]


def linked(lab: Lab, case: Case, drawn: Sequence[Float32], arm: Arm, by: str) -> list[Measure]:
    """How often a reconstruction's nearest image, among other images of the victims, is of the same patient.

    Nearest by cosine, and by how much more alike it is to that image than the other reconstructions are.

    Where patients have one image each, the image itself stands among other takes.

    Parameters
    ----------
    drawn
        Pictures of the records of one draw, (M, 3, 64, 64) each, by the same way: of every draw, or by every attacker.
        The figures are the means over them.
    """
    one = case.first()
    single = len(mated(one.groups)) < LEAST_GROUPS
    gallery = one.pictures
    if single:
        gallery = pictures_of(Party(tuple(takes_of(one.frames, seed=(lab.seed, 61))), one.groups))
    looks = Perceptual()
    others = _unit(looks, gallery)
    whose = [{g} for g in one.groups.tolist()]
    search = search_of(whose, whose if single else None)
    cosines = [(_unit(looks, p) @ others.T).astype(np.float32) for p in drawn]
    ways = {by: cosines, f"{by}, Z-normed": [standardized(c) for c in cosines]}
    found = [m for way, each in ways.items() for m in measures_of(each, search, arm=arm, by=way, seed=lab.seed)]
    return [replace(m, figure=f"{LINKED}, {m.figure}") for m in found if m.figure in {"top-1", "AUC"}]


def standardized(cosines: Float32) -> Float32:
    """Cosines (Q, R) in each image's own deviations over all reconstructions (the Z-norm of Auckenthaler et al. 2000).

    What little a reconstruction shows is nearest to the same few images for many of them (hubs: Radovanović et al.
    2010); which patients those are of says nothing of whose records they are drawn from.
    """
    away = cosines - cosines.mean(0)
    spread = away.std(0)
    return np.asarray(np.where(spread > LEAST_SPREAD, away / np.maximum(spread, LEAST_SPREAD), 0), np.float32)


def _unit(looks: Perceptual, pictures: Float32) -> Float32:
    """One vector of unit length for each picture: structure at stride 8, and colours at 8 x 8; 0 where all are alike.

    Of pictures that are all the same one nothing is left but rounding, which must not point at anybody.
    """
    m = len(pictures)
    small = pictures.reshape(m, 3, 8, SIDE // 8, 8, SIDE // 8).mean((3, 5)).reshape(m, -1)
    seen = looks.features(pictures).reshape(m, -1)
    parts = [(x - x.mean(0)) / max(float(x.std()), ALIKE) / x.shape[1] ** 0.5 for x in (small, seen)]
    joined = np.concatenate(parts, axis=1)
    length = np.linalg.norm(joined, axis=1, keepdims=True)
    return np.asarray(np.where(length > ALIKE, joined / np.maximum(length, ALIKE), 0), np.float32)


def sheet_of(case: Case, drawn: Mapping[str, Float32], guess: Float32, judge: Judge, *, most: int) -> str:
    """Original, strongest reconstruction, guess and nearest image of a few victims, a row each, as a data URL."""
    best = max((by for by in drawn if not by.startswith("nearest")), key=lambda by: judge.gain(drawn[by]))
    near = next(p for by, p in drawn.items() if by.startswith("nearest"))
    count = len(case.first().pictures)
    at = np.linspace(0, count - 1, min(most, count)).round().astype(int)
    rows = [np.concatenate([p[i].transpose(1, 2, 0) for p in (case.pictures, drawn[best], guess, near)], 1) for i in at]
    pixels = (np.concatenate(rows) * 255).round().astype(np.uint8)
    return picture_url(Image.fromarray(pixels).resize((2 * pixels.shape[1], 2 * pixels.shape[0])))
