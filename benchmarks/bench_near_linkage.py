#!/usr/bin/env python3
"""How many records of one examination are linked where its near-duplicates did not leave.

    benchmarks/bench_near_linkage.py --package P [--near 0 0.3 0.5] [--data ../shared/data/polyps]

The audit's own attackers of linkage, with smaller controls and without their curve; Kvasir-SEG attacks, all of
ClinicDB's frames that a device with `near_duplicates` of so much would provide are the victims, in the order of the
film. 0 lets all of them leave.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench_privacy import BUDGETS, MOST

from featureloop.audit.findings import Measure, strongest
from featureloop.audit.linkage import LinkageSettings, attack_linkage
from featureloop.audit.material import Lab, Party, party
from featureloop.audit.provided import provided
from featureloop.core.types import Task
from featureloop.images.labelled import open_labelled
from featureloop.model.package import Package, load_package


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--near", type=float, nargs="+", default=[0.0, 0.3, 0.5])
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "polyps")
    args = parser.parse_args()
    package = first_task(args.package)
    mine, theirs = (party_of(args.data / name, package) for name in ("kvasir-seg", "cvc-clinicdb"))
    mine = mine.thinned(MOST)
    given = BUDGETS["linkage"]
    if not isinstance(given, LinkageSettings):
        raise SystemExit("the budget of linkage is another attack's")
    print("| near_duplicates | records | linked, top-1 | by chance | the recognition alone | AUC | controls |")
    print("|---|---|---|---|---|---|---|")
    for near in args.near:
        some = provided(theirs, package, near=near)
        found = attack_linkage(Lab(package, mine, some), given)
        top1, alone = (strongest(found.measures, "top-1", arms=[arm]) for arm in ("release", "baseline"))
        area = strongest(found.measures, "AUC")
        print(
            f"| {near:g} | {len(some)} | {said(top1)} | {top1.chance:.3f} | {said(alone)} | {said(area)} | "
            f"{'hold' if found.controls else 'fail'} |",
            flush=True,
        )


def first_task(path: Path) -> Package:
    """A package, of its first task."""
    package = load_package(path)
    return package.view(Task(package.manifest.task))


def party_of(path: Path, package: Package) -> Party:
    """A site's polyps as a party, whatever the package's task."""
    frames = open_labelled(path, task=Task.SEGMENTATION).frames()
    return party(frames, size=package.manifest.preprocessing.size)[0]


def said(m: Measure) -> str:
    """A figure with its interval."""
    return f"{m.value:.3f} ({m.low:.3f} to {m.high:.3f})"


if __name__ == "__main__":
    main()
