#!/usr/bin/env python3
"""Bytes and time of records on the line: each by itself, coded together, and each set after others of its body.

    benchmarks/bench_together.py --package runs/polyps/P0 [--images ../shared/data/polyps/cvc-clinicdb]
        [--sizes 1 4 32 128 256] [--frames 512]

A device recognizes the images and provides all of them; its records are drawn at random into bodies of so many, as the
outbox draws them. Bytes a record of whole bodies, all included; milliseconds a record of one core's processor time,
encoding at the device and decoding at the learner, where every body must give back the very same records.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from featureloop.core.types import Frame
from featureloop.device.outbox import Outbox
from featureloop.device.pipeline import run_pipeline
from featureloop.device.provide import Provider
from featureloop.images.labelled import open_labelled
from featureloop.model.package import Package, load_package
from featureloop.model.runtime import Runtime
from featureloop.sharing.policy import Policy, Share
from featureloop.sharing.record import MAX_RECORDS_PER_BODY, Record, from_wire, to_wire
from featureloop.sharing.together import from_together, to_together

Ways = dict[str, tuple[Callable[[list[Record]], bytes], Callable[[bytes], list[Record]]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--images", type=Path, default=root / "shared" / "data" / "polyps" / "cvc-clinicdb")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 32, 128, 256])
    parser.add_argument("--frames", type=int, default=512)
    args = parser.parse_args()
    package = load_package(args.package)
    records = provided(package, args.images, args.frames)
    known = {package.digest: package.manifest}.get
    ways: Ways = {
        "each by itself": (to_wire, from_wire),
        "together": (lambda r: to_together(r, known), lambda b: from_together(b, known)),
        "across frames": (lambda r: to_together(r, known, across=True), lambda b: from_together(b, known)),
    }
    print(f"{len(records)} records.\n\n| records of a body | sent | bytes a record | encode, ms | decode, ms |")
    print(f"|{'---|' * 5}")
    for size in args.sizes:
        bodies = [records[i : i + size] for i in range(0, len(records), size)]
        for name, (write, read) in ways.items():
            start = time.process_time()
            written = [write(body) for body in bodies]
            middle = time.process_time()
            found = [read(body) for body in written]
            end = time.process_time()
            for one, other in zip(found, bodies, strict=True):
                if {r.id for r in one} != {r.id for r in other}:
                    raise SystemExit("a body gives back other records than were written")
            taken, encode, decode = (
                x / len(records) for x in (sum(map(len, written)), 1e3 * (middle - start), 1e3 * (end - middle))
            )
            print(f"| {size} | {name} | {taken:.1f} | {encode:.1f} | {decode:.1f} |", flush=True)


def provided(package: Package, images: Path, most: int) -> list[Record]:
    """What a device provides of a folder's first images, in the outbox's random order."""
    folder = open_labelled(images)
    frames = [f for f in folder.frames(folder.items[:most]) if isinstance(f, Frame)]
    with tempfile.TemporaryDirectory() as work, Outbox(Path(work) / "outbox.sqlite") as outbox:
        provider = Provider(
            site="site",
            device="device",
            site_key=bytes(32),
            group_key=bytes(32),
            package=package,
            policy=Policy(Share(anonymizers=("none",), below_threshold="provide", near_duplicates=0)),
            keeper=outbox,
            reviewer=None,
            clock=time.time,
        )
        run_pipeline(frames, runtime=Runtime(package, threads=1), provider=provider)
        records = list(outbox.lease(limit=MAX_RECORDS_PER_BODY, seconds=60))
    order = np.random.default_rng(1).permutation(len(records))
    records.sort(key=lambda r: r.id)
    return [records[i] for i in order]


if __name__ == "__main__":
    main()
