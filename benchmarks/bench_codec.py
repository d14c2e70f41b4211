#!/usr/bin/env python3
"""Rate against quality: our codec, other codings of the same features, and the image itself, on frames of another site.

    benchmarks/bench_codec.py --packages runs/polyps/P0 [MORE ...] [--founding DIR] [--images DIR] [--frames 100]
        [--work runs/codec]

Every package is one operating point of `model train --bits-per-vector`, and every coding is tried on the features of
each; the last one's float32 features are the reference. A coding's quality is that of the package's own recognizer
from what was decoded, against the true masks, the mean over frames. Bytes are of features only, or of the picture;
with rows of targets and padding, ours are told besides.

- bag/1: our codec, as packages are founded and with 2, 4 and 8 times coarser steps (tables of frames in --founding)
- features as float16 or int8 under Zstandard, and by product quantization (faiss)
- features as pictures: channels as tiles of one grey picture, by JPEG XL, AVIF and HEVC, at several qualities
- the frame itself by JPEG, WebP, JPEG XL and AVIF at several sizes, recognized by the last package's whole network: of
  each the coarsest quality whose loss is at most 0.5 points, by bisection

A baseline that turns out lossless ends the run. Prints the fewest bytes for each coding whose loss is at most 0.5
points, the Bjontegaard rate against the best tiles, and milliseconds on one core; draws all points to `rate.png`.
Needs faiss-cpu: `pip install -e '.[bench]'`.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.interpolate import PchipInterpolator

from featureloop.core.types import Bag, Float32, Frame, UInt8
from featureloop.images.labelled import open_labelled
from featureloop.learner.assembly import counted_form, plain_form
from featureloop.learner.founding_records import package_rows
from featureloop.learner.operating_point import coarser_form
from featureloop.model.charts import ACCENT, COLOURS, SOFT, new_axes
from featureloop.model.manifest import ReleasedForm
from featureloop.model.package import Package, load_package
from featureloop.model.preprocess import resize_frame
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import rules_of
from featureloop.sharing import codec
from featureloop.sharing.anonymize import canonical_order

LOSS = 0.005
COARSER = (1, 2, 4, 8)
SIDES = (320, 224, 160, 112, 80)
PICTURES: dict[str, tuple[Callable[..., bytes], Callable[[bytes], Any], Sequence[dict[str, Any]]]] = {
    "JPEG": (
        imagecodecs.jpeg_encode,
        imagecodecs.jpeg_decode,
        [{"level": q} for q in (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 95)],
    ),
    "WebP": (
        imagecodecs.webp_encode,
        imagecodecs.webp_decode,
        [{"level": q, "lossless": False} for q in (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)],
    ),
    "JPEG XL": (
        imagecodecs.jpegxl_encode,
        imagecodecs.jpegxl_decode,
        [{"distance": d, "lossless": False} for d in (15.0, 12.0, 9.0, 7.0, 5.0, 4.0, 3.0, 2.5, 2.0, 1.5, 1.0, 0.7)],
    ),
    "AVIF": (
        imagecodecs.avif_encode,
        imagecodecs.avif_decode,
        [{"level": q, "speed": 8} for q in (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 95)],
    ),
}
"""Each codec's settings, from the fewest bytes to the most."""
CRFS = (4, 12, 20, 28, 36, 44)
NAMES = ("ours", "features, plain", "features as pictures", "the image")


@dataclass(frozen=True, slots=True)
class Point:
    """One setting of one coding: mean bytes a frame, and mean quality."""

    kind: str
    name: str
    bytes: float
    quality: float


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A package's runtime, the frames and their true rows, and the maps float32 (M, N, C) it extracts of them."""

    package: Package
    runtime: Runtime
    frames: Sequence[Frame]
    truths: Sequence[UInt8]
    maps: Float32

    def quality(self, maps: Sequence[Float32]) -> float:
        """The mean quality of what is recognized from maps of all frames."""
        rules = rules_of(self.package.manifest)
        found = [rules.quality(self.runtime.recognize(x), t) for x, t in zip(maps, self.truths, strict=True)]
        return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    polyps = root.parent / "shared" / "data" / "polyps"
    parser.add_argument("--packages", type=Path, nargs="+", required=True)
    parser.add_argument("--founding", type=Path, default=polyps / "kvasir-seg")
    parser.add_argument("--images", type=Path, default=polyps / "cvc-clinicdb")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--work", type=Path, default=root / "runs" / "codec")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    frames, known = frames_of(args.images, args.frames), frames_of(args.founding, 2 * args.frames)
    source = np.mean([item.image.stat().st_size for item in open_labelled(args.images).items])
    print(f"the frames' files have a mean of {source:.0f} bytes")
    points: list[Point] = []
    for path in args.packages:
        seen = look(load_package(path), frames)
        founding = look(seen.package, known)
        named = path.name if path.name != "P0" else path.parent.name
        found = (
            *ours(seen, founding, name=named),
            *plain(seen, founding, name=named),
            *tiles(seen, name=named),
            *(pictures(seen, name=named) if path == args.packages[-1] else []),
        )
        points += found
        (args.work / f"points-{named}.json").write_text(json.dumps([values_of(p) for p in found], indent=1))
    reference = seen.quality(list(seen.maps))
    print(f"\n{len(frames)} frames; float32 of the last package: {reference:.4f}\n")
    print(table(points, reference))
    draw(points, reference, args.work / "rate.png")


def values_of(point: Point) -> tuple[str, str, float, float]:
    return point.kind, point.name, point.bytes, point.quality


def frames_of(folder: Path, most: int) -> list[Frame]:
    """Evenly chosen frames."""
    labelled = open_labelled(folder)
    at = np.unique(np.linspace(0, len(labelled.items) - 1, min(most, len(labelled.items))).round().astype(int))
    return [f for f in labelled.frames([labelled.items[i] for i in at]) if isinstance(f, Frame)]


def look(package: Package, frames: Sequence[Frame]) -> Seen:
    runtime = Runtime(package, threads=1)
    maps = np.stack([runtime.extract(f.pixels) for f in frames])
    return Seen(package, runtime, frames, [package_rows(f, package.manifest) for f in frames], maps)


def ours(seen: Seen, known: Seen, *, name: str) -> Iterator[Point]:
    """The package's own steps, and coarser ones."""
    released = seen.package.manifest.released
    for k in COARSER:
        levels = coarser_form(released, k).levels if k > 1 else released.levels
        form = plain_form(released.form, levels, (), flags=released.flags)
        form = counted_form(form, [bag_of(m, t, form) for m, t in zip(known.maps, known.truths, strict=True)], [])
        rows = [seen.runtime.recognize(m).targets() for m in seen.maps]
        bags = [bag_of(m, r, form) for m, r in zip(seen.maps, rows, strict=True)]
        bare = [len(codec.encode_features(b.symbols, form, padded=False)) for b in bags]
        payloads = [codec.encode_features(b.symbols, form) for b in bags]
        took = time.process_time()
        for b in bags:
            codec.encode_features(canonical_order(b).symbols, form)
        encoded = time.process_time() - took
        took = time.process_time()
        decoded = [codec.decode_features(p, form, max_vectors=seen.maps.shape[1]) for p in payloads]
        read = time.process_time() - took
        if any((d != b.symbols).any() for d, b in zip(decoded, bags, strict=True)):
            raise SystemExit("a bag did not come back as it was")
        coarse = [codec.dequantize(codec.quantize(m, form), form) for m in seen.maps]
        yield Point(NAMES[0], f"{name}, steps x {k}", float(np.mean(bare)), seen.quality(coarse))
        whole = [
            len(codec.encode_features(b.symbols, form)) + len(codec.encode_rows(b.recognized, form, symbols=b.symbols))
            for b in bags
        ]
        print(
            f"{name}, steps x {k}: with targets and padding {np.mean(whole):.0f} bytes in {len(set(whole))} sizes; "
            f"encoding {1e3 * encoded / len(bags):.2f} ms, decoding {1e3 * read / len(bags):.2f} ms a frame",
            flush=True,
        )


def bag_of(values: Float32, rows: UInt8, form: ReleasedForm) -> Bag:
    return canonical_order(Bag(codec.quantize(values, form), rows))


def plain(seen: Seen, known: Seen, *, name: str) -> Iterator[Point]:
    """Numbers under a general compressor, and product quantization."""
    maps = seen.maps

    def zipped(x: NDArray[Any]) -> float:
        return float(np.mean([len(imagecodecs.zstd_encode(np.ascontiguousarray(m).tobytes(), 19)) for m in x]))

    half = maps.astype(np.float16)
    yield Point(NAMES[1], f"{name}, float16 + Zstandard", zipped(half), seen.quality(list(half.astype(np.float32))))
    for step in (1, 4, 16):
        whole = np.rint(maps * 127 / step).astype(np.int8)
        yield Point(
            NAMES[1], name, zipped(whole), seen.quality(list((whole * np.float32(step / 127)).astype(np.float32)))
        )
    import faiss  # Others take this file's frames and pictures, and have no need of it.

    c = maps.shape[2]
    train = known.maps.reshape(-1, c)
    for parts in (p for p in (1, 2, 4, 8, 16) if p <= c):
        width = math.ceil(c / parts)
        quantizer = faiss.ProductQuantizer(parts * width, parts, 8)
        quantizer.train(padded(train, parts * width))
        codes = [quantizer.compute_codes(padded(m, parts * width)) for m in maps]
        back = [np.ascontiguousarray(quantizer.decode(x)[:, :c]) for x in codes]
        setting = f"{name}, product quantization, {parts} bytes a vector"
        yield Point(NAMES[1], setting, zipped(np.stack(codes)), seen.quality(back))


def padded(x: Float32, width: int) -> Float32:
    return np.ascontiguousarray(np.pad(x, ((0, 0), (0, width - x.shape[1]))))


def tiles(seen: Seen, *, name: str) -> Iterator[Point]:
    """Channels side by side in one grey picture, each over its own range."""
    m, n, c = seen.maps.shape
    grid, across = math.isqrt(n), math.ceil(math.sqrt(c))
    low, high = seen.maps.min((0, 1)), seen.maps.max((0, 1))
    span = np.maximum(high - low, 1e-6)
    side = -(-across * grid // 8) * 8
    sheets = np.zeros((m, side, side), np.uint8)
    whole = np.rint((seen.maps - low) / span * 255).astype(np.uint8).transpose(0, 2, 1).reshape(m, c, grid, grid)
    places = [tuple(grid * x for x in divmod(i, across)) for i in range(c)]
    for i, (y, x) in enumerate(places):
        sheets[:, y : y + grid, x : x + grid] = whole[:, i]

    def back(sheet: UInt8) -> Float32:
        parts = np.stack([sheet[y : y + grid, x : x + grid] for y, x in places])
        return np.ascontiguousarray(parts.reshape(c, -1).T / 255 * span + low, np.float32)

    for by in ("JPEG XL", "AVIF"):
        encode, decode, settings = PICTURES[by]
        for given in settings:
            # Of one channel, AVIF is lossless whatever it is told.
            coded = [encode(s if by != "AVIF" else np.repeat(s[..., None], 3, axis=2), **given) for s in sheets]
            lossy = [np.asarray(decode(x)).reshape(side, side, -1)[..., 0] for x in coded]
            check_lossy(by, given, sheets, lossy)
            decoded = [back(x) for x in lossy]
            setting = next(iter(given.values()))
            yield Point(
                NAMES[2], f"{name}, {setting:g}", float(np.mean([len(x) for x in coded])), seen.quality(decoded)
            )
    for crf in CRFS:
        coded = [hevc(s, crf) for s in sheets]
        yield Point(
            NAMES[2],
            f"{name}, HEVC, CRF {crf}",
            float(np.mean([size for size, _ in coded])),
            seen.quality([back(s) for _, s in coded]),
        )


def hevc(sheet: UInt8, crf: int) -> tuple[int, UInt8]:
    """Bytes of a grey picture's one HEVC frame, without its container, and what is decoded from it."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="hevc") as out:
        stream = out.add_stream("libx265", rate=Fraction(25))
        stream.width = stream.height = sheet.shape[0]
        stream.pix_fmt = "gray"
        stream.options = {"crf": str(crf), "preset": "slow", "x265-params": "log-level=none:info=0"}
        for packet in (*stream.encode(av.VideoFrame.from_ndarray(sheet, "gray")), *stream.encode()):
            out.mux(packet)
    size = sink.tell()
    sink.seek(0)
    with av.open(sink, format="hevc") as source:
        return size, next(source.decode(video=0)).to_ndarray(format="gray")


def pictures(seen: Seen, *, name: str) -> list[Point]:
    """The frame itself, smaller and coarser, recognized by the whole network."""
    size = seen.package.manifest.preprocessing.size

    def tried(by: str, side: int, given: dict[str, Any], most: float) -> Point | None:
        encode, decode, _ = PICTURES[by]
        small = [resize_frame(f.pixels, side) for f in seen.frames]
        coded = [encode(x, **given) for x in small]
        mean = float(np.mean([len(x) for x in coded]))
        if mean >= most:
            return None
        lossy = [np.asarray(decode(x)) for x in coded]
        check_lossy(by, given, small, lossy)
        quality = seen.quality([seen.runtime.extract(resized(x, size)) for x in lossy])
        return Point(NAMES[3], f"{name}, {by}, {side} px, {next(iter(given.values())):g}", mean, quality)

    return coarsest_pictures(tried, SIDES, enough=seen.quality(list(seen.maps)) - LOSS)


def check_lossy(by: str, given: dict[str, Any], sources: Sequence[UInt8], decoded: Sequence[UInt8]) -> None:
    """Refuse a baseline that gives every picture back as it was: its bytes would be those of another aim."""
    if all(np.array_equal(a, b) for a, b in zip(sources, decoded, strict=True)):
        raise SystemExit(f"{by} with {given} is lossless: look at how it is called")


def coarsest_pictures(
    tried: Callable[[str, int, dict[str, Any], float], Point | None], sides: Sequence[int], *, enough: float
) -> list[Point]:
    """Of each codec and size, by bisection, the coarsest setting whose quality is enough, and what was tried before.

    Parameters
    ----------
    tried
        From a codec, a size in pixels and a setting to a point; None where it takes as many bytes as are given last.
    """
    found: list[Point] = []
    most = math.inf
    for by, (_, _, settings) in PICTURES.items():
        for side in sides:
            low, high = -1, len(settings)
            while high - low > 1:
                middle = (low + high) // 2
                point = tried(by, side, settings[middle], most)
                found += [] if point is None else [point]
                if point is None or point.quality >= enough:
                    high, most = middle, most if point is None else point.bytes
                else:
                    low = middle
    return found


def resized(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(np.asarray(pixels)).resize((size, size), Image.Resampling.BICUBIC))


def envelope(points: Sequence[Point]) -> list[Point]:
    """Those that none beats in both, the smallest first."""
    best: list[Point] = []
    for p in sorted(points, key=lambda p: (p.bytes, -p.quality)):
        if not best or p.quality > best[-1].quality:
            best.append(p)
    return best


def bjontegaard(points: Sequence[Point], others: Sequence[Point]) -> float:
    """Mean difference of bytes at equal quality, as a share of the others'; NaN where no quality is common."""
    curves = []
    for own in (envelope(points), envelope(others)):
        if len(own) < 2:
            return math.nan
        curves.append((PchipInterpolator([p.quality for p in own], np.log([p.bytes for p in own])), own))
    low, high = max(o[0].quality for _, o in curves), min(o[-1].quality for _, o in curves)
    if low >= high:
        return math.nan
    at = np.linspace(low, high, 200)
    return float(np.exp(np.mean(curves[0][0](at) - curves[1][0](at))) - 1)


def table(points: Sequence[Point], reference: float) -> str:
    lines = ["| coding | fewest bytes within 0.5 points | its loss, points | setting |", "|---|---|---|---|"]
    for kind in NAMES:
        own = [p for p in points if p.kind == kind and p.quality >= reference - LOSS]
        if not own:
            lines.append(f"| {kind} | none is | | |")
            continue
        best = min(own, key=lambda p: p.bytes)
        lines.append(f"| {kind} | {best.bytes:.0f} | {100 * (reference - best.quality):+.2f} | {best.name} |")
    by_kind = {kind: [p for p in points if p.kind == kind] for kind in NAMES}
    for other in NAMES[1:]:
        rate = bjontegaard(by_kind[NAMES[0]], by_kind[other])
        lines.append(f"\nBjontegaard rate of ours against {other}: {100 * rate:+.0f}%")
    return "\n".join(lines)


def draw(points: Sequence[Point], reference: float, path: Path, *, quality: str = "Dice of the recognition") -> None:
    figure, axes = new_axes("bytes a frame", quality, width=8, height=5)
    for kind, colour in zip(NAMES, (ACCENT, SOFT, *COLOURS[1:3]), strict=True):
        own = [p for p in points if p.kind == kind]
        if not own:
            continue
        best = envelope(own)
        axes.scatter([p.bytes for p in own], [p.quality for p in own], s=9, color=colour, alpha=0.5)
        axes.plot([p.bytes for p in best], [p.quality for p in best], color=colour, label=kind)
    axes.axhline(reference - LOSS, color="black", linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.set_ylim(reference - 0.12, reference + 0.02)
    axes.legend(fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    main()
