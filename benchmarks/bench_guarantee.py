#!/usr/bin/env python3
"""Whether a threshold's guarantee fails as rarely as it says, and whether a drift is told, on real features.

    benchmarks/bench_guarantee.py [--rows polyps pneumonia] [--splits 200] [--data ../shared/data]
        [--polyps runs/polyps/P0] [--work runs/recognition] [--cache runs/reliability]

For each data set that no network of the package learned from, the threshold is chosen on a random part of its groups,
200 times, and the risk above it is measured on all other groups: in which share of the splits it is larger than
promised. Measured risks scatter, the more the fewer groups are left, so the share is printed for all of them and
for those whose measured risk is larger by more than its standard error. Then drift: how often the other groups of the
same data are called different (at most one in 20 should be), and whether another site or modality is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from bench_recognition import SEED, open_polyps, pneumonia_parts
from bench_reliability import DEVICE, Founded, founded_on, learned_from, polyp_runs
from looking import Looked, Looker
from numpy.typing import NDArray
from other_images import strangers

from featureloop.core.types import Task
from featureloop.learner.guarantee import NOTHING, drift, guarantee
from featureloop.model.package import load_package

Float64 = NDArray[np.float64]
DRIFTED = 0.05


@dataclass(frozen=True, eq=False)
class Results:
    """Reliabilities, losses and distances of frames, float64 (M,) each, and whose they are."""

    trust: Float64
    losses: Float64
    far: Float64
    groups: NDArray[np.str_]

    def of(self, names: NDArray[np.str_]) -> Results:
        """Those of some groups."""
        at = np.isin(self.groups, names)
        return Results(self.trust[at], self.losses[at], self.far[at], self.groups[at])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    parser.add_argument("--polyps", type=Path, default=root / "runs" / "polyps" / "P0")
    parser.add_argument("--work", type=Path, default=root / "runs" / "recognition")
    parser.add_argument("--cache", type=Path, default=root / "runs" / "reliability")
    args = parser.parse_args()
    for row in args.rows:
        ROWS[row](args)


def polyps(args: argparse.Namespace) -> None:
    runs = polyp_runs(open_polyps(args.data / "polyps", Task.SEGMENTATION), load_package(args.polyps), args.cache)
    founded, own, site = runs.founded, results(runs.founded, runs.held), results(runs.founded, runs.clinic)
    both = Results(*(np.concatenate([getattr(own, k), getattr(site, k)]) for k in ("trust", "losses", "far", "groups")))
    bound("Kvasir-SEG, held-out 200", own, args.splits, risks=(0.1, 0.12, 0.15, 0.2), parts=(0.5,))
    bound("Kvasir-SEG's 200 and ClinicDB's 29 sequences", both, args.splits, risks=(0.1, 0.12, 0.15, 0.2), parts=(0.5,))
    drifts("Kvasir-SEG, held-out 200", own, args.splits)
    others(founded, own, {"CVC-ClinicDB": site}, args.data)


def pneumonia(args: argparse.Namespace) -> None:
    package, folder, held = next(iter(pneumonia_parts(args.data, args.work / "pneumonia")))
    looker = Looker(package, args.cache)
    founded = founded_on(looker, *learned_from("pneumonia", args, folder, held))
    own = results(founded, looker.look("held", folder.frames(held)))
    bound("PneumoniaMNIST, official test", own, args.splits, risks=(0.05, 0.1), parts=(0.3, 0.5))
    drifts("PneumoniaMNIST, official test", own, args.splits)
    others(founded, own, {}, args.data)


def results(founded: Founded, looked: Looked) -> Results:
    scores, losses = founded.scores(looked)
    return Results(scores[DEVICE], losses, founded.far(looked), np.array(looked.groups))


def bound(title: str, whole: Results, splits: int, *, risks: Sequence[float], parts: Sequence[float]) -> None:
    """A table of how often the bound fails."""
    names = np.unique(whole.groups)
    print(f"\n**{title}**: {len(names)} groups\n")
    print("| risk | chosen on | guaranteed | above the threshold | larger | larger by a standard error |")
    print("|---|---|---|---|---|---|")
    for risk in risks:
        for part in parts:
            rng = np.random.default_rng(SEED)
            worse, clearly, accepted, number = 0, 0, [], round(part * len(names))
            for _ in range(splits):
                order = rng.permutation(names)
                own = whole.of(order[:number])
                made, _ = guarantee(own.trust, own.losses, own.groups.tolist(), risk=risk, confidence=0.95)
                accepted.append(made.accepted)
                if made.threshold < NOTHING:
                    each = losses_above(whole.of(order[number:]), made.threshold)
                    worse += each.mean() > risk
                    clearly += each.mean() - each.std(ddof=1) / np.sqrt(len(each)) > risk
            kept = np.array(accepted)
            share = 100 * kept[kept > 0].mean() if kept.any() else 0.0
            print(
                f"| {risk:g} | {number} groups | {100 * (kept > 0).mean():.0f}% of {splits} splits | "
                f"{share:.0f}% of the frames | {100 * worse / splits:.1f}% | "
                f"{100 * clearly / splits:.1f}% |",
                flush=True,
            )


def losses_above(results_: Results, threshold: float) -> Float64:
    """Of every group with results above a threshold their mean loss."""
    over = results_.trust >= threshold
    _, owner = np.unique(results_.groups[over], return_inverse=True)
    return np.asarray(np.bincount(owner, results_.losses[over]) / np.bincount(owner))


def drifts(title: str, whole: Results, splits: int) -> None:
    """How often halves of the same data are called different."""
    names, rng, alarms = np.unique(whole.groups), np.random.default_rng(SEED), []
    for _ in range(splits):
        order = rng.permutation(names)
        half = len(names) // 2
        own, other = whole.of(order[:half]), whole.of(order[half:])
        alarms.append([told(own, other, by_distance=by) < DRIFTED for by in (False, True)])
    alone, both = 100 * np.mean(alarms, axis=0)
    print(f"\n{title}, {splits} splits: halves called different by reliabilities {alone:.1f}%, by both {both:.1f}%")


def told(own: Results, other: Results, *, by_distance: bool) -> float:
    made, _ = guarantee(
        own.trust, own.losses, own.groups.tolist(), risk=0.2, confidence=0.95, outlying=own.far if by_distance else None
    )
    return drift(made, other.trust, other.groups.tolist(), outlying=other.far if by_distance else None)


def others(founded: Founded, own: Results, sites: dict[str, Results], data: Path) -> None:
    """Whether other sites and modalities are called different."""
    print("\n| against | groups | p by reliabilities | p by both |\n|---|---|---|---|")
    for name, site in sites.items():
        row(name, own, site)
    for name, frames in strangers(data).items():
        look = founded.looker.look(f"other {name}", frames(), labelled=False)
        bare = replace(look, truths=founded_truths(founded, look), boxes=[])
        row(name, own, results(founded, bare))


def founded_truths(founded: Founded, look: Looked) -> NDArray[np.uint8]:
    """Rows of targets of frames whose truth nobody knows: only their shape counts."""
    return np.zeros((len(look.vectors), *founded.recognitions(look)[0].targets().shape), np.uint8)


def row(name: str, own: Results, other: Results) -> None:
    alone, both = (told(own, other, by_distance=by) for by in (False, True))
    print(f"| {name} | {len(np.unique(other.groups))} | {alone:.2g} | {both:.2g} |", flush=True)


ROWS: dict[str, Callable[[argparse.Namespace], None]] = {"polyps": polyps, "pneumonia": pneumonia}

if __name__ == "__main__":
    main()
