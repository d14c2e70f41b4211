#!/usr/bin/env python3
"""What a hospital that looks very different can teach, over the bits of a vector, the neck's breadth and the form.

    benchmarks/bench_teaching.py [--points 66:0.001 8:0.02 "8:0.02:set subset=16,balanced" ...] [--seeds 1 2 3]

Each point is the demonstration's whole loop (generated frames, a learner, two devices, the gate) with a founding of so
many bits a vector, at such a breadth, in such a released form; about three minutes on two cores. Dice is on frames that
no network learned from: before, after (a candidate that the gate refuses isn't taken over), and of the candidate
itself, which tells what was there to be learned where the gate refuses by chance.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from featureloop.cli.demo import DemoSettings, run_demo
from featureloop.cli.processes import children

POINTS = (
    "66:0.001",
    "32:0.001",
    "16:0.001",
    "8:0.001",
    "16:0.02",
    "8:0.02",
    "8:0.1",
    "8:0.02:set subset=2,balanced",
    "8:0.02:set subset=64,balanced",
    "8:0.02:set subset=16,balanced",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", nargs="+", default=list(POINTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    args = parser.parse_args()
    heads = ("bits a vector", "breadth", "form", "seed", "A before", "A after", "B before", "B after")
    print(f"| {' | '.join(heads)} | B, the candidate | gate | bytes a record |\n|{'---|' * 11}", flush=True)
    for seed in args.seeds:
        for point in args.points:
            print(row(point, seed), flush=True)


def row(point: str, seed: int) -> str:
    """One loop, as a line of the table."""
    bits, breadth, release = [*point.split(":"), "set"][:3]
    founding = {"bits_per_vector": float(bits), "breadth": float(breadth), "release": release}
    with tempfile.TemporaryDirectory() as work, children() as group:
        result = run_demo(Path(work), group, DemoSettings(seed=seed, founding=founding))
    dice = {(r["site"], r["when"]): r["dice"] for r in result["quality"]}
    told = " | ".join(f"{dice[site, when]:.3f}" for site in "AB" for when in ("before", "after"))
    gate, sent = result["gate"], result["bytes"]
    said = f"{'passed' if gate['passed'] else 'refused'}, {gate['probability']:.2f}"
    each = sent["left"] / max(1, sent["records"])
    candidate = result["curve"][-1]["dice"]
    return (
        f"| {float(bits):g} | {float(breadth):g} | `{release}` | {seed} | {told} | {candidate:.3f} | {said} | "
        f"{each:.0f} |"
    )


if __name__ == "__main__":
    main()
