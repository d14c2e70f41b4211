#!/usr/bin/env python3
"""Rate against quality for one pooled vector a frame (classification): the codec, plain numbers, and pictures.

    benchmarks/bench_codec_pooled.py [--rows pneumonia blood-cells capsule] [--data ../shared/data]
        [--work runs/recognition] [--out runs/codec] [--folds 5] [--quick] [--no-pictures]

Packages, images and folds are those of bench_recognition.py in --work (trained where they are missing; --quick trains
with fewer passes, in a minute or two each), of folds the first --folds. Every
image is recognized by a package that did not learn from it, from its pooled vector as float32, as the codec gives it
back with the package's own steps and with coarser ones (tables of the founding records), as float16 or int8 under
Zstandard; and by the whole network from the frame as JPEG, WebP, JPEG XL and AVIF at several sizes, of each the
coarsest quality that is enough, by bisection. The loss is the larger one of accuracy's and of AUC's (mean over
classes, one against the rest), in points.

Prints the fewest bytes of each coding whose loss is at most 0.5 points, and draws `rate-ROW.png` into --out; with
--no-pictures, which takes a minute, of our own and of plain numbers alone, and draws nothing.
Needs faiss-cpu: `pip install -e '.[bench]'`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from bench_codec import LOSS, NAMES, PICTURES, Point, check_lossy, coarsest_pictures, draw, resized
from bench_recognition import CHANGED, PARTS, QUICK, Part
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from featureloop.core.types import Bag, Float32, Frame
from featureloop.learner.assembly import counted_form
from featureloop.learner.founding_records import founding_records_path, load_records
from featureloop.learner.pooled_tables import widened
from featureloop.model.manifest import ReleasedForm
from featureloop.model.pooling import pooled_bounds
from featureloop.model.preprocess import resize_frame
from featureloop.model.runtime import Runtime
from featureloop.sharing import codec
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.release import decoded

COARSER = (1, 1.5, 2, 3, 4, 6)
SIDES = (1.0, 0.7, 0.5, 0.35, 0.25)
"""Of a smaller picture, of the network's own size; and the images' own size, where that is less."""


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Images under a package that did not learn from them: vectors float32 (M, C), classes int (M,), files' bytes."""

    runtime: Runtime
    known: tuple[Bag, ...]
    frames: tuple[Frame, ...]
    vectors: Float32
    truths: NDArray[np.intp]
    source: tuple[int, ...]

    def recognized(self, vectors: Sequence[Float32]) -> Float32:
        """Probabilities (M, K) from pooled vectors (C,) of all images."""
        return np.concatenate([self.runtime.recognize(v[None]).probabilities for v in vectors])

    def pooled(self, pixels: NDArray[np.uint8]) -> Float32:
        """The vector float32 (C,) of a frame."""
        return release_vectors(self.runtime.extract(pixels), self.runtime.package.manifest.released)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--rows", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=root / "runs" / "recognition")
    parser.add_argument("--out", type=Path, default=root / "runs" / "codec")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-pictures", action="store_true", help="of the features alone")
    args = parser.parse_args()
    if args.quick:
        CHANGED.update(QUICK)
    args.out.mkdir(parents=True, exist_ok=True)
    print("| images | coding | fewest bytes within 0.5 points | accuracy, AUC | setting |\n|---|---|---|---|---|")
    for row in args.rows:
        parts = [seen(part) for part in islice(PARTS[row](args.data, args.work / row), args.folds)]
        whole = figures(parts, [p.recognized(list(p.vectors)) for p in parts])
        print(f"| {row} | float32 | {4 * parts[0].vectors.shape[1]} | {whole[0]:.3f}, {whole[1]:.3f} | |", flush=True)
        found = [*ours(parts), *plain(parts), *(() if args.no_pictures else pictures(parts, whole))]
        for kind in NAMES[:2] if args.no_pictures else (NAMES[0], NAMES[1], NAMES[3]):
            own = [(p, f) for p, f in found if p.kind == kind and lost(whole, f) <= LOSS]
            if not own:
                print(f"| {row} | {kind} | none is | | |")
                continue
            best, its = min(own, key=lambda x: x[0].bytes)
            print(f"| {row} | {kind} | {best.bytes:.0f} | {its[0]:.3f}, {its[1]:.3f} | {best.name} |", flush=True)
        source = np.mean([size for part in parts for size in part.source])
        print(f"| {row} | the image's file | {source:.0f} | | |", flush=True)
        if args.no_pictures:
            continue
        points = [Point(p.kind, p.name, p.bytes, 1 - lost(whole, f)) for p, f in found]
        draw(points, 1.0, args.out / f"rate-{row}.png", quality="1 less what accuracy or AUC lose")


Found = Iterator[tuple[Point, tuple[float, float]]]


def seen(part: Part) -> Images:
    package, folder, items = part
    runtime, manifest = Runtime(package, threads=1), package.manifest
    records = load_records(founding_records_path(package.path))
    known = tuple(decoded(r.features, r.recognition or b"", None, manifest) for r in records)
    frames = tuple(f for f in folder.frames(items) if isinstance(f, Frame) and f.truth is not None)
    vectors = np.stack([release_vectors(runtime.extract(f.pixels), manifest.released)[0] for f in frames])
    truths = np.array([f.truth.label for f in frames if f.truth], np.intp)
    return Images(runtime, known, frames, vectors, truths, tuple(i.image.stat().st_size for i in items))


def figures(parts: Sequence[Images], probabilities: Sequence[Float32]) -> tuple[float, float]:
    """Accuracy and AUC of all parts' images."""
    p, truths = np.concatenate(probabilities).astype(float), np.concatenate([x.truths for x in parts])
    accuracy = float((p.argmax(axis=1) == truths).mean())
    present = [k for k in range(p.shape[1]) if (truths == k).sum() > 1]
    return accuracy, float(np.mean([roc_auc_score(truths == k, p[:, k]) for k in present]))


def lost(whole: tuple[float, float], found: tuple[float, float]) -> float:
    return max(a - b for a, b in zip(whole, found, strict=True))


def ours(parts: Sequence[Images]) -> Found:
    """The packages' own steps, and coarser ones; bytes are those of features and result, padded."""
    for k in COARSER:
        sizes, probabilities, bare = [], [], []
        for part in parts:
            form = form_of(part, k)
            symbols = [codec.quantize(v[None], form) for v in part.vectors]
            rows = [part.runtime.recognize(v[None]).targets() for v in part.vectors]
            for s, r in zip(symbols, rows, strict=True):
                features = codec.encode_features(s, form)
                if (codec.decode_features(features, form, max_vectors=1) != s).any():
                    raise SystemExit("a vector did not come back as it was")
                sizes.append(len(features) + len(codec.encode_rows(r, form, symbols=s)))
                bare.append(len(codec.encode_features(s, form, padded=False)))
            probabilities.append(part.recognized([codec.dequantize(s, form)[0] for s in symbols]))
        name = f"steps x {k}, {np.mean(bare):.0f} bytes of features without padding, {len(set(sizes))} sizes"
        yield Point(NAMES[0], name, float(np.mean(sizes)), 0.0), figures(parts, probabilities)


def form_of(part: Images, k: float) -> ReleasedForm:
    released = part.runtime.package.manifest.released
    if k == 1:
        return released
    values = np.concatenate([codec.dequantize(b.symbols, released) for b in part.known])
    form = widened(released, k, values)
    bags = [Bag(codec.quantize(v[None], form), b.recognized) for v, b in zip(values, part.known, strict=True)]
    return counted_form(form, bags, [], vectors=values)


def plain(parts: Sequence[Images]) -> Found:
    """Numbers under a general compressor."""

    def zipped(arrays: Sequence[NDArray[np.generic]]) -> float:
        return float(np.mean([len(imagecodecs.zstd_encode(np.ascontiguousarray(a).tobytes(), 19)) for a in arrays]))

    half = [p.vectors.astype(np.float16) for p in parts]
    again = [p.recognized(list(h.astype(np.float32))) for p, h in zip(parts, half, strict=True)]
    yield Point(NAMES[1], "float16 + Zstandard", zipped([v for h in half for v in h]), 0.0), figures(parts, again)
    for step in (1, 4, 16):
        whole, again = [], []
        for part in parts:
            released = part.runtime.package.manifest.released
            bounds = pooled_bounds(released.statistics, released.channels // len(released.statistics))
            span = np.abs(bounds).max(axis=0).astype(np.float32) * step / 127
            coarse = np.rint(part.vectors / span).astype(np.int8)
            whole += list(coarse)
            again.append(part.recognized(list(coarse * span)))
        yield Point(NAMES[1], f"int8, steps x {step}, + Zstandard", zipped(whole), 0.0), figures(parts, again)


def pictures(parts: Sequence[Images], whole: tuple[float, float]) -> Found:
    """The frame itself, smaller and coarser, recognized by the whole network: of each codec what is just enough."""
    size = parts[0].runtime.package.manifest.preprocessing.size
    its: dict[str, tuple[float, float]] = {}

    def tried(by: str, side: int, given: dict[str, Any], most: float) -> Point | None:
        encode, decode, _ = PICTURES[by]
        small = [[resize_frame(f.pixels, side) for f in p.frames] for p in parts]
        coded = [[encode(x, **given) for x in some] for some in small]
        mean = float(np.mean([len(c) for some in coded for c in some]))
        if mean >= most:
            return None
        lossy = [[np.asarray(decode(c)) for c in some] for some in coded]
        check_lossy(by, given, [x for some in small for x in some], [x for some in lossy for x in some])
        again = [
            part.recognized([part.pooled(resized(x, size)) for x in some])
            for part, some in zip(parts, lossy, strict=True)
        ]
        name = f"{by}, {side} px, {next(iter(given.values())):g}"
        its[name] = figures(parts, again)
        return Point(NAMES[3], name, mean, 1 - lost(whole, its[name]))

    own = min(min(f.pixels.shape[:2]) for p in parts for f in p.frames)
    sides = {round(share * size / 8) * 8 for share in SIDES} | {min(own, size)}
    for point in coarsest_pictures(tried, sorted(sides, reverse=True), enough=1 - LOSS):
        yield point, its[point.name]


if __name__ == "__main__":
    main()
