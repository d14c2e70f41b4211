#!/usr/bin/env python3
"""What a hospital that looks very different can teach, over the bits of a vector and the neck's breadth.

    benchmarks/bench_teaching.py [--points 66:0.001 16:0.001 8:0.001 8:0.02 ...] [--seed 1]

Each point is the demonstration's whole loop (generated frames, a learner, two devices, the gate) with a founding of so
many bits a vector at such a breadth; about three minutes on two cores. Dice is on frames that no network learned from.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from featureloop.cli.demo import DemoSettings, run_demo
from featureloop.cli.processes import children

POINTS = ("66:0.001", "32:0.001", "16:0.001", "8:0.001", "16:0.02", "8:0.02", "8:0.1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", nargs="+", default=list(POINTS))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    print("| bits a vector | breadth | A before | A after | B before | B after | bytes a record |")
    print("|---|---|---|---|---|---|---|")
    for point in args.points:
        bits, breadth = map(float, point.split(":"))
        settings = DemoSettings(seed=args.seed, founding={"bits_per_vector": bits, "breadth": breadth})
        with tempfile.TemporaryDirectory() as work, children() as group:
            result = run_demo(Path(work), group, settings)
        dice = {(r["site"], r["when"]): r["dice"] for r in result["quality"]}
        told = " | ".join(f"{dice[site, when]:.3f}" for site in "AB" for when in ("before", "after"))
        sent = result["bytes"]
        print(f"| {bits:g} | {breadth:g} | {told} | {sent['left'] / max(1, sent['records']):.0f} |", flush=True)


if __name__ == "__main__":
    main()
