#!/usr/bin/env python3
"""What a released position vector tells of where it stood, by what stands beyond the borders of the extractor's maps.

    benchmarks/probe_position.py [--data ../shared/data/polyps/kvasir-seg] [--seeds 1 2] [--paddings "zeros" ...]
        [--work runs/position]
    benchmarks/probe_position.py --package runs/polyps/P0
    benchmarks/probe_position.py --times

One reduced founding training for every kind of padding and seed, alike in all else. Then probes (ridge regression and a
multilayer perceptron) learn to tell from one quantized vector alone where it stood, (x, y), and how far from the
nearest border, on images of one site, and are tested on others. `whole` images are what an attacker would have: content
stands where it stands, the endoscope's black border at the border. `rolled` images are moved around a torus by a random
distance each, so that content says nothing of the place and what is left is the padding's doing. R2 is 1 for a probe
that knows the place, 0 for one that always says the middle. Dice is over sub-cells, on the founding set's calibration
part; a held-out part is not looked at. Last, the extractors' times in ONNX Runtime, in turns. Differences
are from the padding that is named first, on the same images.

With --package, that package is probed alone; with --times, only the times are taken.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featureloop.core.intervals import Figure, figure_maker, mean_of
from featureloop.core.types import Float32, Frame, Task, UInt8
from featureloop.images.labelled import open_labelled, split
from featureloop.learner.founding import CALIBRATION_SHARE
from featureloop.model.backbone import Padding
from featureloop.model.backbones import efficientnet_lite0
from featureloop.model.founding import Networks, train_networks
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.manifest import Preprocessing
from featureloop.model.package import EXTRACTOR, load_package
from featureloop.model.preprocess import mask_to_targets, resize_frame, to_input
from featureloop.model.runtime import open_session
from featureloop.model.tasks.segmentation import dice

Float64 = NDArray[np.float64]
VARIANTS: dict[str, tuple[Padding, Padding]] = {
    "zeros": ("zeros", "zeros"),
    "edge, late stages": ("zeros", "replicate"),
    "edge, all stages": ("replicate", "replicate"),
    "mirror, all stages": ("reflect", "reflect"),
}
"""What stands beyond the borders in the early stages and in the late ones."""
FOUNDING_FRAMES = 300
SIZE, TIMED_SIZE, TIMED_ROUNDS, THREADS = 224, 320, 200, 2
EPOCHS, RECOGNIZER_EPOCHS, AUGMENTATIONS = 11.0, 14.0, 2
PROBED = 0.4
"""Share of the probe's images that it is tested on."""
HIDDEN, PROBE_EPOCHS, PROBE_BATCH, RIDGE = 128, 12, 1024, 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """Squared errors of a probe and of always saying the middle, per test image: float64 (M, 3) for x, y, border."""

    errors: Float64
    spread: Float64

    def r2(self, at: NDArray[np.intp], columns: Sequence[int]) -> float:
        """R2 over some images, of these columns together."""
        own = np.ix_(at, columns)
        return float(1 - self.errors[own].sum() / self.spread[own].sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "polyps" / "kvasir-seg")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--paddings", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), help="zeros first")
    parser.add_argument("--work", type=Path, default=root / "runs" / "position")
    parser.add_argument("--package", type=Path)
    parser.add_argument("--times", action="store_true")
    args = parser.parse_args()
    if args.times:
        print_times()
        return
    founding, calibration, probed = read(args.data)
    print("| padding | seed | images | control | R2 of the place: ridge | perceptron | R2 of the border's distance |")
    print("|---|---|---|---|---|---|---|")
    if args.package is not None:
        manifest = load_package(args.package).manifest
        session = open_session(args.package / EXTRACTOR)
        for kind in ("whole", "rolled"):
            vectors = released(session, probed, manifest.preprocessing.size, manifest.released.levels, kind=kind)
            print_row("as it is", 1, kind, "", *probe(vectors, seed=1))
        return
    args.work.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        first: dict[str, tuple[Told, ...]] = {}
        dices: dict[str, Float64] = {}
        for name in args.paddings:
            early, late = VARIANTS[name]
            networks, seconds = found(founding, early, late, seed=seed)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / EXTRACTOR
                networks.backbone.write_extractor(networks.neck, path, size=SIZE)
                session = open_session(path)
            dices[name] = recognition(session, networks, calibration)
            for kind in ("whole", "rolled"):
                vectors = released(session, probed, SIZE, networks.levels, kind=kind)
                told = probe(vectors, seed=seed)
                first.setdefault(kind, told)
                print_row(name, seed, kind, "", *told, against=first[kind])
                if name == "zeros" and kind == "whole":
                    controls(vectors, seed)
            spent = f"{len(networks.levels)} channels, {networks.bits_per_vector:.0f} bits, {seconds:.0f} s"
            print(f"{name}, seed {seed}: Dice {dice_text(dices[name], dices[args.paddings[0]])}; {spent}", flush=True)
        (args.work / f"dice-{seed}.json").write_text(json.dumps({k: v.tolist() for k, v in dices.items()}))
    print_times()


def read(data: Path) -> tuple[list[Frame], list[Frame], list[Frame]]:
    """Frames to found on, to measure Dice on, and to probe; the fifth that is held out stays out."""
    folder = open_labelled(data, task=Task.SEGMENTATION)
    rest, _ = split(folder.items, hold_out=0.2, seed=1)
    learned, calibration = split(rest, hold_out=CALIBRATION_SHARE, seed=1)
    order = np.random.default_rng(0).permutation(len(learned))
    parts = [learned[i] for i in order[:FOUNDING_FRAMES]], calibration, [learned[i] for i in order[FOUNDING_FRAMES:]]
    founding, held, probed = ([f for f in folder.frames(part) if isinstance(f, Frame)] for part in parts)
    return founding, held, probed


def found(frames: Sequence[Frame], early: Padding, late: Padding, *, seed: int) -> tuple[Networks, float]:
    """A reduced founding training, and its seconds."""
    settings = FoundingSettings(
        size=SIZE,
        epochs=EPOCHS,
        recognizer_epochs=RECOGNIZER_EPOCHS,
        augmentations=AUGMENTATIONS,
        seed=seed,
        release="set",
    )
    started = time.perf_counter()
    backbone = efficientnet_lite0(early_padding=early, late_padding=late)
    networks = train_networks(frames, task=Task.SEGMENTATION, classes=1, settings=settings, backbone=backbone)
    return networks, time.perf_counter() - started


def released(session: Any, frames: Sequence[Frame], size: int, levels: Sequence[int], *, kind: str) -> Float32:
    """What would leave of every frame, dequantized: float32 (M, N, C), in the map's order."""
    rng = np.random.default_rng(7)
    top = np.array(levels, np.float32) - np.float32(1)
    out = []
    for frame in frames:
        pixels = resize_frame(frame.pixels, size)
        if kind == "rolled":
            pixels = np.roll(pixels, tuple(rng.integers(0, size, 2)), axis=(0, 1))
        out.append(quantized(session, pixels, size, top))
    return np.stack(out)


def quantized(session: Any, pixels: UInt8, size: int, top: Float32) -> Float32:
    """One frame's position vectors as they would be dequantized, float32 (N, C)."""
    z = session.run(None, {session.get_inputs()[0].name: to_input(pixels, Preprocessing(size))})[0][0]
    vectors = z.reshape(len(z), -1).T
    return np.asarray(np.rint((vectors + 1) / 2 * top) / top * 2 - 1, np.float32)


def recognition(session: Any, networks: Networks, frames: Sequence[Frame]) -> Float64:
    """Dice over the sub-cells of every frame, float64 (M,)."""
    top = np.array(networks.levels, np.float32) - np.float32(1)
    values = []
    for frame in frames:
        assert frame.truth is not None and frame.truth.mask is not None  # noqa: PT018, S101 - a labelled folder's
        with torch.no_grad():
            logits = networks.recognizer(torch.from_numpy(quantized(session, frame.pixels, SIZE, top))[None])[0]
        truth = mask_to_targets(frame.truth.mask, networks.features.grid)
        values.append(dice((logits.numpy() >= 0).astype(np.uint8), truth))
    return np.array(values)


def places(n: int) -> Float32:
    """Where the N positions of a map stand: x, y and the distance to the nearest border, float32 (N, 3), in [0, 1]."""
    side = round(n**0.5)
    y, x = (np.mgrid[:side, :side].reshape(2, -1) + 0.5) / side
    return np.stack([x, y, np.minimum.reduce([x, 1 - x, y, 1 - y])], axis=1).astype(np.float32)


def probe(vectors: Float32, *, seed: int) -> tuple[Told, Told]:
    """What a ridge regression and a perceptron tell of the test images' places, from vectors float32 (M, N, C)."""
    m, n, c = vectors.shape
    order = np.random.default_rng(11).permutation(m)
    test, train = order[: round(PROBED * m)], order[round(PROBED * m) :]
    place = places(n)
    mean, spread = vectors[train].mean((0, 1)), vectors[train].std((0, 1)) + np.float32(1e-3)
    x = ((vectors - mean) / spread).astype(np.float32)
    middle, wide = place.mean(0), place.std(0)
    y = (place - middle) / wide
    rows, targets = x[train].reshape(-1, c), np.tile(y, (len(train), 1))
    weights = np.linalg.solve(rows.T @ rows + RIDGE * np.eye(c, dtype=np.float32), rows.T @ targets)
    network = perceptron(rows, targets, seed)
    told = []
    for say in (lambda v: v @ weights, network):
        errors = np.stack([((say(v) - y).astype(np.float64) ** 2).sum(0) for v in x[test]])
        told.append(Told(errors, np.tile((y.astype(np.float64) ** 2).sum(0), (len(test), 1))))
    return told[0], told[1]


def perceptron(rows: Float32, targets: Float32, seed: int) -> Any:
    """Two hidden layers, trained by Adam with a cosine schedule: rows (R, C) to targets (R, 3)."""
    torch.manual_seed(seed)
    layers = nn.Linear(rows.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 3)
    network = nn.Sequential(*layers)
    x, y = torch.from_numpy(rows), torch.from_numpy(targets)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-3)
    steps = PROBE_EPOCHS * (len(x) // PROBE_BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(PROBE_EPOCHS):
        for at in torch.randperm(len(x))[: len(x) // PROBE_BATCH * PROBE_BATCH].split(PROBE_BATCH):
            loss = nn.functional.mse_loss(network(x[at]), y[at])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()

    def say(v: Float32) -> Any:
        with torch.no_grad():
            return network(torch.from_numpy(v)).numpy()

    return say


def controls(vectors: Float32, seed: int) -> None:
    """Values that can't tell, and values that tell outright."""
    noise = np.random.default_rng(3).standard_normal(vectors.shape).astype(np.float32)
    print_row("zeros", seed, "whole", "noise for vectors", *probe(noise, seed=seed))
    place = np.broadcast_to(places(vectors.shape[1])[:, :2], (*vectors.shape[:2], 2))
    with_place = np.concatenate([vectors, place], axis=2)
    print_row("zeros", seed, "whole", "x and y added", *probe(with_place, seed=seed))


def print_row(  # noqa: PLR0917 - a row's columns
    name: str, seed: int, kind: str, control: str, ridge: Told, network: Told, *, against: Sequence[Told] | None = None
) -> None:
    """One row, with intervals over images; the perceptron's with the difference from the first variant too."""

    def text(told: Told, columns: Sequence[int], other: Told | None) -> str:
        make = figure_maker(np.arange(len(told.errors)).astype(str), seed=1)
        found = interval(make("", lambda at: told.r2(at, columns)))
        if other is None or other is told:
            return found
        changed = make("", lambda at: told.r2(at, columns) - other.r2(at, columns))
        return f"{found}, {interval(changed, sign='+')}"

    other = None if against is None else against[1]
    cells = (text(ridge, (0, 1), None), text(network, (0, 1), other), text(network, (2,), other))
    print(f"| {name} | {seed} | {kind} | {control} | {' | '.join(cells)} |", flush=True)


def interval(figure: Figure, *, sign: str = "") -> str:
    """A figure with its 95% interval."""
    return f"{figure.value:{sign}.3f} ({figure.low:{sign}.3f} to {figure.high:{sign}.3f})"


def dice_text(own: Float64, zeros: Float64) -> str:
    """The mean Dice, and its difference from that of zeros on the same frames."""
    make = figure_maker(np.arange(len(own)).astype(str), seed=1)
    return f"{interval(make('', mean_of(own)))}, {interval(make('', mean_of(own - zeros)), sign='+')}"


def print_times() -> None:
    """Median milliseconds of each extractor, one frame after the other, the variants in turns."""
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for name, (early, late) in VARIANTS.items():
            backbone, path = efficientnet_lite0(early_padding=early, late_padding=late), Path(folder) / f"{name}.onnx"
            backbone.write_extractor(nn.Conv2d(backbone.channels, 64, 1), path, size=TIMED_SIZE)
            sessions[name] = open_session(path, threads=THREADS)
    image = np.random.default_rng(1).uniform(-1, 1, (1, 3, TIMED_SIZE, TIMED_SIZE)).astype(np.float32)
    spent: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(TIMED_ROUNDS):
        for name, session in sessions.items():
            started = time.perf_counter()
            session.run(None, {"image": image})
            spent[name].append(1e3 * (time.perf_counter() - started))
    zeros = statistics.median(spent["zeros"])
    for name, each in spent.items():
        median = statistics.median(each)
        print(f"{name}: {median:.1f} ms at {TIMED_SIZE} px on {THREADS} threads, {median / zeros:.2f} of zeros")


if __name__ == "__main__":
    main()
