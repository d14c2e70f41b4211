#!/usr/bin/env python3
"""What it costs a form to tell less: necks trained against adversaries, computed to tell less, or simply smaller.

    benchmarks/compare_adversaries.py [--package runs/polyps/P0] [--data ../shared/data/polyps] [--frames 480]
        [--erasures 10 1000] [--trained STRENGTH RATE HIDDEN BITS ...] [--only "computed, 8 bits" ...] [--cache FILE]

Under one package's tuned backbone, every neck begins from the same taps. Of each: Dice on the founding set's
calibration part and on the providing sequences of a new site, whose held-back ones are not looked at; bytes of
a frame's features; and what fresh attackers tell, that have learned on releases of the founding frames and
their changed versions and are asked about the new site's: where a vector stood (R2; the share of a frame's
vectors put back exactly, by assignment), and which frame is of the same sequence, by the cosine of
standardized moments and by a head that was trained for it. For top-1, the gallery holds one other frame of
every sequence; the area under the curve is over all pairs of frames.

Recognizers learn from 100 positions of each frame, which is quicker than a founding and leaves them about two
points below one: differences between rows count, not the rows themselves. One run each: nothing under half a
point of Dice is a difference.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare_necks import Part, read, taps_of
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import roc_auc_score
from torch import nn

from featureloop.core.intervals import figure_maker, mean_of
from featureloop.core.types import Bag, Float32, Task, UInt8
from featureloop.images.labelled import open_labelled, split
from featureloop.learner.assembly import counted_form, plain_form
from featureloop.learner.founding import CALIBRATION_SHARE
from featureloop.model.adversaries import Adversaries
from featureloop.model.fit import BagSet, FitSettings, fit_recognizer
from featureloop.model.forms import Form
from featureloop.model.founding_features import BASIS_CHANNELS, map_to_rows
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.lesson import ALONE, Draw, Lesson, Pace
from featureloop.model.loop import train
from featureloop.model.manifest import RecognizerSpec
from featureloop.model.neck import Transform, fit_transform
from featureloop.model.package import Package, load_package
from featureloop.model.private_neck import on_taps, starting_neck, train_neck
from featureloop.model.recognizers import build_recognizer
from featureloop.model.sensitivity import fisher_information
from featureloop.model.takes import Pairs, Takes, grid_places, told_of
from featureloop.model.tasks.segmentation import dice
from featureloop.sharing import codec
from featureloop.sharing.anonymize import canonical_order

Float64 = NDArray[np.float64]
VERSIONS, POSITIONS, BATCH, BITS = 3, 100, 16, 66.0
RECOGNIZER_STEPS, ATTACK_STEPS, ASSIGNED = 600, 1000, 120
GALLERIES = 20
STAGE_EPOCHS = 13.3
"""Makes 400 steps of the neck with 480 frames, as a founding on 800 has."""
TRAINED = [(a, 0.0, 0, bits) for bits in (BITS, 16.0) for a in (0.001, 0.5, 4.0, 16.0)] + [(4.0, 0.0, 64, 16.0)]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Taps of what is learned from, with `VERSIONS` takes of each frame; of the calibration part; of the new site."""

    founding: Part
    calibration: Part
    site: Part


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """A form to release in: `of` makes channels in [-1, 1] (N, C) of taps float32 (N, D).

    With noise of so many quantization steps, normal, before the quantization.
    """

    of: Callable[[Float32], Float32]
    levels: tuple[int, ...]
    noise: float = 0.0

    def symbols(self, values: NDArray[Any], rng: np.random.Generator) -> UInt8:
        """What is released of one frame's taps."""
        top = np.array(self.levels, np.float32) - np.float32(1)
        z = (self.of(values.astype(np.float32)) + 1) / 2 * top
        if self.noise:
            z = z + self.noise * rng.standard_normal(z.shape)
        return np.clip(np.rint(z), 0, top).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--package", type=Path, default=root / "runs" / "polyps" / "P0")
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "polyps")
    parser.add_argument("--frames", type=int, default=480, help="of the founding part; small numbers for a look")
    parser.add_argument(
        "--trained", type=float, nargs=4, action="append", metavar=("STRENGTH", "RATE", "HIDDEN", "BITS"), default=[]
    )
    parser.add_argument("--channels", type=int, nargs="*", default=[8, 16])
    parser.add_argument("--bits", type=float, nargs="*", default=[8.0, 16.0, 32.0])
    parser.add_argument("--noise", type=float, nargs="*", default=[1.0, 3.0], help="in quantization steps")
    parser.add_argument("--erasures", type=float, nargs="*", default=[10.0, 1000.0], help="of place and of identity")
    parser.add_argument("--steps-share", type=float, default=1.0, help="of all trainings; less for a look")
    parser.add_argument("--only", nargs="*", help="these forms")
    parser.add_argument("--cache", type=Path, help="keep the taps here")
    parser.add_argument("--out", type=Path, help="the figures as JSON")
    args = parser.parse_args()
    package = load_package(args.package)
    parts = cached_parts(package, args.data, args.frames, args.cache)
    args.trained = args.trained or TRAINED
    bench = Bench(package.manifest.recognizer, parts, args.steps_share)
    print("| form | channels | bytes | Dice, calibration part | Dice, new site | position R2 | put back | ", end="")
    print("linked by cosine: top-1, AUC | by a trained head: top-1, AUC |\n|---|---|---|---|---|---|---|---|---|")
    found = []
    for name, make in arms(bench, args).items():
        found.append(bench.row(name, make()))
        if args.out is not None:
            args.out.write_text(json.dumps(found, indent=1))


def arms(bench: Bench, args: argparse.Namespace) -> dict[str, Callable[[], Arm]]:
    """The forms to compare, each made when its turn comes."""
    whole = bench.fit()
    out: dict[str, Callable[[], Arm]] = {"computed": lambda: linear(whole)}
    for bits in args.bits:
        out[f"computed, {bits:g} bits"] = lambda bits=bits: linear(bench.fit(bits=bits))
    for channels in args.channels:
        out[f"computed, {channels} channels"] = lambda channels=channels: linear(bench.fit(channels=channels))
    for noise in args.noise:
        out[f"computed, noise of {noise:g} steps"] = lambda noise=noise: replace(linear(whole), noise=noise)
    for bits in (BITS, *args.bits):
        out[f"centred, {bits:g} bits"] = lambda bits=bits: centred(bench.fit(bits=bits, centred=True))
    for gamma in args.erasures:
        out[f"computed, place erased by {gamma:g}"] = lambda gamma=gamma: linear(
            bench.fit(erase=bench.eraser(bench.place_share(), gamma))
        )
        out[f"computed, identity erased by {gamma:g}"] = lambda gamma=gamma: linear(
            bench.fit(erase=bench.eraser(bench.identity_share(), gamma))
        )
    for strength, rate, hidden, bits in args.trained:
        name = f"trained, strength {strength:g}, rate {rate:g}, {hidden:g} hidden, {bits:g} bits"
        out[name] = lambda a=strength, r=rate, h=int(hidden), b=bits: bench.trained(a, rate=r, hidden=h, bits=b)
    return {name: made for name, made in out.items() if not args.only or name in args.only}


def linear(transform: Transform) -> Arm:
    """A computed neck as a form."""
    weight, bias = transform.weight.T.copy(), transform.bias
    return Arm(lambda v: np.clip(v @ weight + bias, -1, 1), transform.levels)


def centred(transform: Transform) -> Arm:
    """A computed neck as a form, of taps less their frame's mean."""
    weight, bias = transform.weight.T.copy(), transform.bias
    return Arm(lambda v: np.clip((v - v.mean(0)) @ weight + bias, -1, 1), transform.levels)


class Bench:
    """The taps, what recognition asks of them, and the measurements of a form."""

    def __init__(self, spec: RecognizerSpec, parts: Parts, share: float) -> None:
        self.spec, self.parts, self.share = spec, parts, share
        rng = np.random.default_rng(1)
        n = parts.founding.values.shape[1]
        self.at = np.stack([rng.permutation(n)[:POSITIONS] for _ in range(len(parts.founding.values))])
        self.places = grid_places(int(n**0.5))
        drawn = [v[a[:40]] for v, a in zip(parts.founding.values, self.at, strict=True)]
        self.rows = np.concatenate(drawn).astype(np.float32)
        self.row_places = self.places[self.at[:, :40]].reshape(-1, 3)
        self.mean, self.spread = self.rows.mean(0), self.rows.std(0) + np.float32(1e-3)
        self.information = self._information()

    def fit(
        self, *, bits: float = BITS, channels: int = 160, centred: bool = False, erase: Float64 | None = None
    ) -> Transform:
        """A computed neck; `erase` (D, D) is applied to the taps first."""
        rows = self.rows
        if centred:
            means = self.parts.founding.values.mean(axis=1, dtype=np.float32)
            rows = rows - np.repeat(means, 40, axis=0)
        if erase is not None:
            rows = (rows @ erase).astype(np.float32)
        made = fit_transform(rows, bits_per_vector=bits, max_channels=channels, information=self.information)
        if erase is None:
            return made
        return replace(made, weight=(made.weight @ erase.T).astype(np.float32))

    def place_share(self) -> Float64:
        """Scatter of the taps that a quadratic function of the place explains, (D, D)."""
        p = self.row_places.astype(np.float64)
        features = np.concatenate([p, p[:, :2] ** 2, p[:, :1] * p[:, 1:2]], axis=1)
        features -= features.mean(0)
        x = (self.rows - self.mean).astype(np.float64)
        fitted = features @ np.linalg.lstsq(features, x, rcond=None)[0]
        return np.asarray(fitted.T @ fitted / len(x))

    def identity_share(self) -> Float64:
        """Scatter of the frames' means over their takes, (D, D)."""
        means = self.parts.founding.values.mean(axis=1, dtype=np.float64)
        means = means.reshape(-1, VERSIONS, means.shape[1]).mean(1) - self.mean
        return np.asarray(means.T @ means / len(means))

    def eraser(self, nuisance: Float64, gamma: float) -> Float64:
        """What shrinks each direction of the taps by a nuisance's share of its variance, (D, D), from the right.

        With gamma to infinity it removes the directions that correlate with the nuisance, as Belrose et al. 2023
        (arXiv:2306.03819) do, in the metric of the taps' covariance.
        """
        x = (self.rows - self.mean).astype(np.float64)
        covariance = x.T @ x / len(x)
        values, axes = np.linalg.eigh(covariance + 1e-4 * np.diag(self.spread.astype(np.float64) ** 2))
        root, inverse = (axes * values**0.5) @ axes.T, (axes * values**-0.5) @ axes.T
        shares, directions = np.linalg.eigh(inverse @ nuisance @ inverse)
        shrink = (directions * (1 + gamma * np.clip(shares, 0, 1)) ** -0.5) @ directions.T
        return np.asarray(inverse @ shrink @ root)

    def trained(self, strength: float, *, rate: float, hidden: int, bits: float) -> Arm:
        """A neck that is trained against adversaries, from the computed one of so many bits."""
        computed = self.fit(bits=bits)
        basis = fit_transform(
            self.rows, bits_per_vector=np.inf, max_channels=BASIS_CHANNELS, information=self.information
        )
        start = starting_neck(computed, basis, hidden=hidden, seed=1)
        settings = FoundingSettings(
            adversary=strength,
            adversary_rate=rate,
            adversary_hidden=hidden,
            adversary_epochs=STAGE_EPOCHS * self.share,
            bits_per_vector=bits,
            release="set",
        )
        weight, bias = basis.weight.T.copy(), basis.bias
        takes = self._takes(lambda v: v.astype(np.float32) @ weight + bias)
        started = time.perf_counter()
        made = train_neck(
            start, computed.levels, takes, self.spec, task=Task.SEGMENTATION,
            shares=np.full(takes.frames, 1 / takes.frames), settings=settings, around=ALONE,
        )  # fmt: skip
        neck, spent = on_taps(made.neck, basis).eval(), time.perf_counter() - started

        def of(v: Float32) -> Float32:
            with torch.no_grad():
                return neck(torch.from_numpy(np.ascontiguousarray(v.T))[None, ..., None])[0, :, :, 0].T.numpy()

        print(f"trained in {spent:.0f} s, from {len(computed.levels)} channels", file=sys.stderr)
        return Arm(of, made.levels)

    def row(self, name: str, arm: Arm) -> dict[str, float | str]:
        """Measure a form, and print it."""
        rng, p = np.random.default_rng(2), self.parts
        top = np.array(arm.levels, np.float32) - np.float32(1)
        whole = [arm.symbols(v, rng) for v in p.founding.values]
        released = [symbols[a] for symbols, a in zip(whole, self.at, strict=True)]
        calibration, site = ([arm.symbols(v, rng) for v in part.values] for part in (p.calibration, p.site))
        recognizer = self._recognizer(np.stack(released), top)
        own, new = (qualities(recognizer, s, q, top) for s, q in ((calibration, p.calibration), (site, p.site)))
        form = plain_form(Form("set"), arm.levels, (), flags=16)
        form = counted_form(form, bags_of(whole[::VERSIONS], p.founding.targets[::VERSIONS]), [])
        sizes = [len(codec.encode_features(b.symbols, form)) for b in bags_of(site, p.site.targets)]
        values = np.stack(released).astype(np.float32) / top * 2 - 1
        heads = self._attackers(values)
        leak = self._leak(heads, values, np.stack(site).astype(np.float32) / top * 2 - 1)
        make = figure_maker(p.site.groups, seed=1)
        quality = make("", mean_of(new))
        told = {
            "form": name, "channels": len(arm.levels), "bytes": float(np.mean(sizes)), "own": float(own.mean()),
            "site": quality.value, "site low": quality.low, "site high": quality.high, **leak,
        }  # fmt: skip
        print(
            f"| {name} | {len(arm.levels)} | {np.mean(sizes):.0f} | {own.mean():.3f} | {quality.value:.3f} | "
            f"{leak['R2']:.3f} | {leak['exact']:.3f} | {leak['cosine top-1']:.2f}, {leak['cosine AUC']:.3f} | "
            f"{leak['head top-1']:.2f}, {leak['head AUC']:.3f} |",
            flush=True,
        )
        return told

    def _information(self) -> Float64:
        """Of a recognizer of the taps, learned as founding's own is."""
        values = np.stack([v[a] for v, a in zip(self.parts.founding.values, self.at, strict=True)])
        head = self._fitted(values, 1 / self.spread, -self.mean / self.spread)
        rng = np.random.default_rng(1)
        mean, spread = torch.from_numpy(self.mean), torch.from_numpy(self.spread)
        frames = rng.permutation(len(values))[: min(400, len(values)) // BATCH * BATCH].reshape(-1, BATCH)
        return fisher_information(
            lambda joined: head((map_to_rows(joined) - mean) / spread),
            (values[at].astype(np.float32).transpose(0, 2, 1)[..., None] for at in frames),
            task=Task.SEGMENTATION,
            seed=1,
        )

    def _recognizer(self, symbols: UInt8, top: Float32) -> nn.Module:
        return self._fitted(symbols, np.float32(2) / top, -np.ones_like(top))

    def _fitted(self, values: NDArray[Any], scale: Float32, offset: Float32) -> nn.Module:
        targets = np.stack([t[a] for t, a in zip(self.parts.founding.targets, self.at, strict=True)])
        shares, ones = np.full(len(values), 1 / len(values)), np.ones(len(values), np.float32)
        torch.manual_seed(1)
        network = build_recognizer(self.spec, channels=len(scale))
        steps = RECOGNIZER_STEPS * self.share
        fit_recognizer(
            network, BagSet(values, targets, shares, ones, scale, offset), task=Task.SEGMENTATION,
            settings=FitSettings(epochs=steps * BATCH / len(values), batch=BATCH, average=0.98),
        )  # fmt: skip
        return network

    def _takes(self, of: Callable[[NDArray[Any]], Float32]) -> Takes:
        """The founding frames' takes, of what `of` makes of taps (R, D)."""
        f = self.parts.founding
        values = np.stack([of(v[a]).T.astype(np.float16) for v, a in zip(f.values, self.at, strict=True)])
        targets = np.stack([t[a] for t, a in zip(f.targets, self.at, strict=True)])
        groups = np.unique(f.groups, return_inverse=True)[1].astype(np.float32)
        return Takes(values, targets, self.places[self.at], groups, VERSIONS)

    def _attackers(self, values: Float32) -> Adversaries:
        """Fresh heads, trained on what the founding frames release, (M, R, C)."""
        takes = replace(self._takes(lambda v: v[:, :1]), values=values.transpose(0, 2, 1))
        torch.manual_seed(2)
        heads = Adversaries(values.shape[2], rows=True)
        draw, pairs = Draw(np.full(takes.frames, 1 / takes.frames), size=BATCH, seed=2), Pairs(takes)
        lesson = Lesson(
            "attackers", heads, [(heads, 2e-3)],
            lambda step: takes.batch(pairs(draw(step), draw.random(step))),
            lambda x, y: heads(x.transpose(1, 2), *told_of(y)).loss(),
        )  # fmt: skip
        train(lesson, pace=Pace(round(ATTACK_STEPS * self.share), 0.98, 2), around=ALONE)
        return heads

    def _leak(self, heads: Adversaries, own: Float32, site: Float32) -> dict[str, float]:
        """What the attackers tell of the new site's releases (M, N, C)."""
        with torch.no_grad():
            left = torch.from_numpy(site)
            guessed, embedded = heads.get_submodule("position")(left).numpy(), heads.linkage(left).numpy()
        errors = np.square(guessed - self.places).mean((0, 1)) / self.places.var(0)
        some = np.linspace(0, len(site) - 1, min(ASSIGNED, len(site))).round().astype(int)
        exact = [put_back(guessed[i], self.places) for i in some]
        groups = self.parts.site.groups
        known = moments(own[::VERSIONS])
        mean, deviation = known.mean(0), known.std(0) + 1e-4
        plain = (moments(site) - mean) / deviation
        out = {"R2": float(1 - errors.mean()), "exact": float(np.mean(exact))}
        for by, vectors in (("cosine", plain), ("head", embedded)):
            unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            out |= {f"{by} {k}": v for k, v in linked(unit @ unit.T, groups).items()}
        return out


def bags_of(symbols: Sequence[UInt8], targets: UInt8) -> list[Bag]:
    """Frames as they leave: in canonical order."""
    return [canonical_order(Bag(s, t)) for s, t in zip(symbols, targets, strict=True)]


def qualities(network: nn.Module, symbols: Sequence[UInt8], part: Part, top: Float32) -> Float64:
    """Dice of each frame from what is released of it."""
    with torch.no_grad():
        found = [network(torch.from_numpy(s[None].astype(np.float32) / top * 2 - 1))[0].numpy() for s in symbols]
    return np.array([dice((z >= 0).astype(np.uint8), t) for z, t in zip(found, part.targets, strict=True)])


def moments(values: Float32) -> Float32:
    """Mean and deviation of each channel over a frame, (M, N, C) to (M, 2 C)."""
    return np.concatenate([values.mean(1), values.std(1)], axis=1)


def put_back(guessed: Float32, places: Float32) -> float:
    """Share of a frame's vectors that stand where they stood, when each gets a place of its own."""
    cost = ((guessed[:, None] - places[None]) ** 2).sum(-1)
    return float((linear_sum_assignment(cost)[1] == np.arange(len(places))).mean())


def linked(near: Float32, groups: NDArray[np.str_]) -> dict[str, float]:
    """Top-1 among one other frame of every group, over several draws, and the area under the curve over all pairs."""
    same, pair = groups[:, None] == groups, np.triu(np.ones(near.shape, bool), 1)
    rng, names, hits = np.random.default_rng(3), np.unique(groups), []
    for _ in range(GALLERIES):
        for i in range(len(groups)):
            others = [np.flatnonzero((groups == g) & (np.arange(len(groups)) != i)) for g in names]
            gallery = np.array([rng.choice(o) for o in others if len(o)])
            hits.append(groups[gallery[near[i, gallery].argmax()]] == groups[i])
    return {"top-1": float(np.mean(hits)), "AUC": float(roc_auc_score(same[pair], near[pair]))}


def cached_parts(package: Package, data: Path, frames: int, cache: Path | None) -> Parts:
    """The taps of all parts, from the cache where it holds them."""
    names = [
        f"{part}-{what}" for part in ("founding", "calibration", "site") for what in ("values", "targets", "groups")
    ]
    if cache is not None and cache.exists():
        with np.load(cache) as found:
            each = [found[name] for name in names]
        return Parts(*(Part(*each[i : i + 3]) for i in (0, 3, 6)))
    kvasir, clinic = open_labelled(data / "kvasir-seg"), open_labelled(data / "cvc-clinicdb")
    rest, _ = split(kvasir.items, hold_out=0.2, seed=1)
    founding, calibration = split(rest, hold_out=CALIBRATION_SHARE, seed=1)
    site, _ = split(clinic.items, hold_out=1 / 3, seed=1)
    taps = taps_of(package)
    parts = Parts(
        read(package, kvasir, founding[:frames], taps, versions=VERSIONS - 1),
        read(package, kvasir, calibration, taps, versions=0),
        read(package, clinic, site, taps, versions=0),
    )
    if cache is not None:
        each = [a for p in (parts.founding, parts.calibration, parts.site) for a in (p.values, p.targets, p.groups)]
        np.savez(cache, **dict(zip(names, each, strict=True)))
    return parts


if __name__ == "__main__":
    main()
