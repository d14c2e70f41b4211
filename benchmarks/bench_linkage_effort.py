#!/usr/bin/env python3
"""How many records of one examination an attacker links who spends more than the audit's does.

    benchmarks/bench_linkage_effort.py --package P [--spend 1:400 5:800] [--near 0.3] [--data ../shared/data/polyps]

Each line is the audit's own attack with its own controls: how often each of the attacker's takes of its own images is
released, where chance decides what of a frame leaves, and the steps of training its siamese head. 1:400 is what the
audit spends. Kvasir-SEG attacks, ClinicDB's frames are the victims, without near-duplicates.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench_near_linkage import first_task, party_of, said

from featureloop.audit.findings import strongest
from featureloop.audit.linkage import LinkageSettings, attack_linkage
from featureloop.audit.material import Lab
from featureloop.audit.provided import provided
from featureloop.cli.audit import MOST


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--spend", nargs="+", default=["1:400", "5:800"], metavar="DRAWS:STEPS")
    parser.add_argument("--near", type=float, default=0.3)
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "polyps")
    args = parser.parse_args()
    package = first_task(args.package)
    mine, theirs = (party_of(args.data / name, package) for name in ("kvasir-seg", "cvc-clinicdb"))
    mine, theirs = mine.thinned(MOST), provided(theirs, package, near=args.near).thinned(MOST)
    print("| draws of a take | steps | records | linked, top-1 | AUC | controls |\n|---|---|---|---|---|---|")
    for spend in args.spend:
        draws, steps = (int(part) for part in spend.split(":"))
        found = attack_linkage(Lab(package, mine, theirs), LinkageSettings(draws=draws, steps=steps))
        top1, area = strongest(found.measures, "top-1"), strongest(found.measures, "AUC")
        print(
            f"| {draws} | {steps} | {len(theirs)} | {said(top1)} | {said(area)} | "
            f"{'hold' if found.controls else 'fail'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
