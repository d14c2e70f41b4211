#!/usr/bin/env python3
"""What the neck keeps: recognition from the uncompressed taps, and from necks of several breadths at the same bits.

Under one package's tuned backbone, recognizers are trained on the founding
frames' taps and on what each neck leaves of them after quantization, and
compared on frames that no training saw: the founding set's calibration part,
and the providing sequences of a new site. Then each is trained on at the new
site, three-fold over its sequences, and compared on the sequences left out, at
several shares of the way from the first to the second weights. Neither the
founding set's test part nor the site's held-back sequences are looked at: this
is where settings are chosen.

    benchmarks/compare_necks.py [--package runs/polyps/P0] [--data ../shared/data/polyps] [--breadths 1 0.1 0.01 0.001]
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from torch import nn

from featureloop.core.types import Float32, Frame, Task, UInt8
from featureloop.images.labelled import LabelledFolder, open_labelled, split
from featureloop.images.truths import LabelledItem
from featureloop.learner.founding import CALIBRATION_SHARE
from featureloop.learner.gate import bootstrap_means
from featureloop.learner.interpolation import SHARES
from featureloop.model.augment import augment
from featureloop.model.backbones import TAPS
from featureloop.model.early_cache import square_truth
from featureloop.model.fit import BagSet, FitSettings, fit_recognizer, interpolate
from featureloop.model.founding_features import map_to_rows
from featureloop.model.neck import fit_transform
from featureloop.model.package import EXTRACTOR, Package, load_package
from featureloop.model.preprocess import mask_to_targets, resize_frame, to_input
from featureloop.model.recognizers import build_recognizer
from featureloop.model.runtime import session_options
from featureloop.model.sensitivity import fisher_information
from featureloop.model.tasks.segmentation import dice

FOLDS = 3
FOUNDING_STEPS, SITE_STEPS = 900, 600
BATCH = 16
BITS = 66.0


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Frames of one part: values (M, N, C), rows of targets uint8 (M, N, 16), groups str (M,)."""

    values: NDArray[Any]
    targets: UInt8
    groups: NDArray[np.str_]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What is learned from first, compared on, and learned from at the new site."""

    founding: Part
    calibration: Part
    site: Part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--package", type=Path, default=root / "runs" / "polyps" / "P0")
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "polyps")
    parser.add_argument("--breadths", type=float, nargs="+", default=[1.0, 0.1, 0.01, 0.001])
    args = parser.parse_args()
    package = load_package(args.package)
    taps = read_parts(package, args.data)
    vectors = taps.founding.values[::4].astype(np.float32)
    mean, spread = vectors.mean((0, 1)), vectors.std((0, 1)) + np.float32(1e-3)
    print("| neck | bits | channels | founding, calibration part | new site, before | after, by share of the way |")
    print("|---|---|---|---|---|---|")
    head = compare("none: taps", "", taps, package, scale=1 / spread, offset=-mean / spread)
    rng = np.random.default_rng(1)
    frames = rng.permutation(len(taps.founding.values))[:480].reshape(-1, BATCH)
    information = fisher_information(
        lambda joined: head((map_to_rows(joined) - torch.from_numpy(mean)) / torch.from_numpy(spread)),
        (as_maps(taps.founding.values[at]) for at in frames),
        task=Task.SEGMENTATION,
        seed=1,
    )
    sample = np.concatenate([v[rng.choice(len(v), 60, replace=False)] for v in taps.founding.values[::3]])
    for breadth in args.breadths:
        transform = fit_transform(
            sample.astype(np.float32), bits_per_vector=BITS, max_channels=160, information=information, breadth=breadth
        )
        top = np.array(transform.levels, np.float32) - np.float32(1)

        def quantized(values: NDArray[Any], weight: Float32 = transform.weight, bias: Float32 = transform.bias,
                      top: Float32 = top) -> UInt8:  # fmt: skip
            z = np.clip(values.astype(np.float32) @ weight.T + bias, -1, 1)
            return np.rint((z + 1) / 2 * top).astype(np.uint8)

        parts = Parts(*(convert(p, quantized) for p in (taps.founding, taps.calibration, taps.site)))
        compare(f"breadth {breadth}", f"{transform.bits:.0f}", parts, package, scale=2 / top, offset=-np.ones_like(top))


def compare(name: str, bits: str, parts: Parts, package: Package, *, scale: Float32, offset: Float32) -> nn.Module:
    """Train on the founding part, then on at the site; print one row; return the first recognizer."""

    def bags(sources: Sequence[Part]) -> BagSet:
        each = [np.full(len(p.values), 1 / len(sources) / len(p.values)) for p in sources]
        values = np.concatenate([p.values for p in sources])
        return BagSet(
            values, np.concatenate([p.targets for p in sources]), np.concatenate(each),
            np.ones(len(values), np.float32), scale, offset,
        )  # fmt: skip

    def trained(network: nn.Module, sources: Sequence[Part], steps: int) -> nn.Module:
        found = copy.deepcopy(network)
        bag_set = bags(sources)
        settings = FitSettings(epochs=steps * BATCH / len(bag_set), batch=BATCH)
        fit_recognizer(found, bag_set, task=Task.SEGMENTATION, settings=settings)
        return found

    def qualities(network: nn.Module, part: Part) -> NDArray[np.float64]:
        with torch.no_grad():
            found = [network(torch.from_numpy(offset + scale * v[None].astype(np.float32)))[0] for v in part.values]
        return np.array([dice((z.numpy() >= 0).astype(np.uint8), t) for z, t in zip(found, part.targets, strict=True)])

    torch.manual_seed(1)
    first = trained(
        build_recognizer(package.manifest.recognizer, channels=len(scale)), [parts.founding], FOUNDING_STEPS
    )
    before = qualities(first, parts.site)
    after = {share: np.zeros(len(before)) for share in SHARES}
    for test in folds(parts.site.groups):
        rest = Part(parts.site.values[~test], parts.site.targets[~test], parts.site.groups[~test])
        second = trained(first, [parts.founding, rest], SITE_STEPS).state_dict()
        for share in SHARES:
            mixed = copy.deepcopy(first)
            mixed.load_state_dict(interpolate(first.state_dict(), second, share))
            left_out = Part(parts.site.values[test], parts.site.targets[test], parts.site.groups[test])
            after[share][test] = qualities(mixed, left_out)
    gains = "; ".join(f"{share}: {gain_text(q - before, parts.site.groups)}" for share, q in after.items())
    own = qualities(first, parts.calibration).mean()
    print(f"| {name} | {bits} | {len(scale)} | {own:.3f} | {before.mean():.3f} | {gains} |", flush=True)
    return first


def gain_text(difference: NDArray[np.float64], groups: NDArray[np.str_]) -> str:
    low, high = np.quantile(bootstrap_means(difference, groups, seed=1), [0.025, 0.975])
    return f"{100 * difference.mean():+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def folds(groups: NDArray[np.str_]) -> Iterator[NDArray[np.bool_]]:
    names = np.random.default_rng(0).permutation(np.unique(groups))
    for i in range(FOLDS):
        yield np.isin(groups, names[i::FOLDS])


def as_maps(rows: NDArray[Any]) -> Float32:
    """Position vectors (B, N, D) as maps float32 (B, D, G, G)."""
    b, n, d = rows.shape
    side = int(n**0.5)
    return np.ascontiguousarray(rows.transpose(0, 2, 1).reshape(b, d, side, side), np.float32)


def convert(part: Part, of: Callable[[NDArray[Any]], UInt8]) -> Part:
    return Part(np.stack([of(v) for v in part.values]), part.targets, part.groups)


def read_parts(package: Package, data: Path) -> Parts:
    """The taps of all frames; of the founding ones three augmented versions too."""
    kvasir, clinic = open_labelled(data / "kvasir-seg"), open_labelled(data / "cvc-clinicdb")
    rest, _ = split(kvasir.items, hold_out=0.2, seed=1)
    founding, calibration = split(rest, hold_out=CALIBRATION_SHARE, seed=1)
    site, _ = split(clinic.items, hold_out=1 / 3, seed=1)
    taps = taps_of(package)
    return Parts(
        read(package, kvasir, founding, taps, versions=3),
        read(package, kvasir, calibration, taps, versions=0),
        read(package, clinic, site, taps, versions=0),
    )


def taps_of(package: Package) -> Callable[[UInt8], Float32]:
    """Pixels to joined taps float32 (N, D): what the default backbone gives to its local context, or to its neck."""
    network = onnx.load(str(package.file(EXTRACTOR)))
    inputs = {w.name: w.dims[1] for w in network.graph.initializer if len(w.dims) == 4}
    convolutions = (n for n in network.graph.node if n.op_type == "Conv")
    found = next((n for n in convolutions if inputs.get(n.input[1]) == TAPS), None)
    if found is None:
        raise SystemExit(f"'{package.path}' has another backbone than the default one, whose taps are looked for")
    source, made = found.input[0], {n.output[0]: n for n in network.graph.node}
    while made[source].op_type in {"Sub", "Mul"}:  # Local context begins by standardizing them.
        source = made[source].input[0]
    network.graph.output.append(onnx.helper.make_tensor_value_info(source, onnx.TensorProto.FLOAT, None))
    session = InferenceSession(network.SerializeToString(), session_options(0), providers=["CPUExecutionProvider"])

    def taps(pixels: UInt8) -> Float32:
        (joined,) = session.run([source], {"image": to_input(pixels, package.manifest.preprocessing)})[0]
        return np.ascontiguousarray(joined.reshape(len(joined), -1).T)

    return taps


def read(
    package: Package,
    folder: LabelledFolder,
    items: Sequence[LabelledItem],
    taps: Callable[[UInt8], Float32],
    *,
    versions: int,
) -> Part:
    rng = np.random.default_rng(1)
    size, grid = package.manifest.preprocessing.size, package.manifest.features.grid
    values, targets, groups = [], [], []
    for frame in folder.frames(items):
        if not isinstance(frame, Frame) or frame.truth is None or frame.truth.mask is None:
            continue
        small, square = resize_frame(frame.pixels, size), square_truth(frame, size)
        pictures = [(frame.pixels, frame.truth), *(augment(small, square, rng) for _ in range(versions))]
        for pixels, truth in pictures:
            if truth.mask is None:
                continue
            values.append(taps(pixels).astype(np.float16))
            targets.append(mask_to_targets(truth.mask, grid))
            groups.append(frame.group or frame.name)
    return Part(np.stack(values), np.stack(targets), np.array(groups))


if __name__ == "__main__":
    main()
