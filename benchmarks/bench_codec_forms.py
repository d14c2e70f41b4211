#!/usr/bin/env python3
"""Bytes of a frame in forms that keep an order or none, by today's codec and by the one before; milliseconds a frame.

    benchmarks/bench_codec_forms.py --packages runs/polyps/P0 [MORE ...] [--founding DIR] [--images DIR] [--frames 60]
        [--channels 48]

The maps of evenly chosen frames of --images are quantized as a package says, put into each form, and coded under tables
of twice as many frames of --founding, without padding: features and recognized rows of targets by `uniform/2`, and by
the form's own codec. A map of fewer channels than --channels is timed too with its last ones added again, upside down,
until it has so many, with steps as they are, 2 and 4 times as wide. Times are one core's processor time, the best of
--repeats; encoding is with the order.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_codec import Seen, frames_of, look

from featureloop.core.types import Bag, Float32, UInt8
from featureloop.learner.assembly import counted_form, plain_form
from featureloop.learner.operating_point import coarser_form
from featureloop.model.forms import Form, parse_form
from featureloop.model.manifest import ReleasedForm
from featureloop.model.package import load_package
from featureloop.sharing import codec
from featureloop.sharing.anonymize import canonical_order

FORMS = ("set", "window=2", "window=4", "none")
COARSER = (1, 2, 4)
FEW = 20
"""Maps of fewer channels than these are not made wider."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    polyps = Path(__file__).resolve().parents[2] / "shared" / "data" / "polyps"
    parser.add_argument("--packages", type=Path, nargs="+", required=True)
    parser.add_argument("--founding", type=Path, default=polyps / "kvasir-seg")
    parser.add_argument("--images", type=Path, default=polyps / "cvc-clinicdb")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--channels", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    frames, known = frames_of(args.images, args.frames), frames_of(args.founding, 2 * args.frames)
    print(
        "| channels, levels | form | steps | features before | now | targets before | now | encoding, ms | decoding |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for path in args.packages:
        seen = look(load_package(path), frames)
        founding = look(seen.package, known)
        released = seen.package.manifest.released
        for text in FORMS:
            form = plain_form(parse_form(text), released.levels, (), flags=released.flags)
            print(line(form, seen, founding, 1, args.repeats), flush=True)
        if FEW <= released.channels < args.channels:
            wide = [replace(x, maps=wider(x.maps, args.channels)) for x in (seen, founding)]
            levels = (*released.levels, *released.levels[released.channels - args.channels :])
            for times in COARSER:
                form = plain_form(parse_form("set"), levels, (), flags=released.flags)
                form = coarser_form(form, times) if times > 1 else form
                print(line(form, *wide, times, args.repeats), flush=True)


def wider(maps: Float32, channels: int) -> Float32:
    """The last channels again, upside down, until there are so many: (M, N, C) to (M, N, channels)."""
    m, n, c = maps.shape
    grid = math.isqrt(n)
    more = maps[:, :, c - channels :].reshape(m, grid, grid, -1)[:, ::-1].reshape(m, n, -1)
    return np.concatenate([maps, more], axis=2)


def line(form: ReleasedForm, seen: Seen, known: Seen, times: int, repeats: int) -> str:
    """One row of the table."""
    form = counted_form(form, bags_of(form, known, known.truths), [])
    before = replace(form, bag=None, ordered=None)
    rows = [seen.runtime.recognize(m[:, : seen.package.manifest.released.channels]).targets() for m in seen.maps]
    bags = bags_of(form, seen, rows)
    payloads = [codec.encode_features(b.symbols, form) for b in bags]
    n = len(bags[0].symbols)
    for payload, bag in zip(payloads, bags, strict=True):
        if (codec.decode_features(payload, form, max_vectors=n) != bag.symbols).any():
            raise SystemExit("a record did not come back as it was")
    sizes = [
        np.mean([len(f) for f in made])
        for of in (before, form)
        for made in (
            [codec.encode_features(b.symbols, of, padded=False) for b in bags],
            [codec.encode_rows(b.recognized, of, symbols=b.symbols, padded=False) for b in bags],
        )
    ]
    unit = form.form.unit(math.isqrt(n))
    encoding = taken(lambda b: codec.encode_features(canonical_order(b, unit=unit).symbols, form), bags, repeats)
    decoding = taken(lambda p: codec.decode_features(p, form, max_vectors=n), payloads, repeats)
    return (
        f"| {form.channels}, {form.levels[0]} to {form.levels[-1]} | `{form.form}` | x {times} | {sizes[0]:.0f} "
        f"| {sizes[2]:.0f} | {sizes[1]:.0f} | {sizes[3]:.0f} | {encoding:.2f} | {decoding:.2f} |"
    )


def bags_of(form: ReleasedForm, seen: Seen, rows: Sequence[UInt8]) -> list[Bag]:
    """The frames in a form, in canonical order."""
    leaves, grid = form.form, math.isqrt(seen.maps.shape[1])
    at = positions(leaves, grid)
    parts = (Bag(codec.quantize(m[at], form), r[at]) for m, r in zip(seen.maps, rows, strict=True))
    return [canonical_order(b, unit=leaves.unit(grid)) for b in parts]


def positions(form: Form, grid: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """The map's positions, window by window."""
    side = form.window or 1
    at = np.arange(grid**2).reshape(grid // side, side, grid // side, side)
    return at.transpose(0, 2, 1, 3).reshape(-1) if form.window else np.arange(grid**2)


def taken(step: Callable[[Any], object], over: Sequence[Any], repeats: int) -> float:
    """Milliseconds of processor time for each, the best of so many rounds."""
    best = math.inf
    for _ in range(repeats):
        started = time.process_time()
        for x in over:
            step(x)
        best = min(best, time.process_time() - started)
    return 1e3 * best / len(over)


if __name__ == "__main__":
    main()
