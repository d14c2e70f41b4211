#!/usr/bin/env python3
"""Leak against quality over released forms: each is founded, evaluated at both sites, and attacked.

Kvasir-SEG founds and attacks, ClinicDB's sequences are the victims; Dice on Kvasir-SEG's held-out 200 and on ClinicDB.
For every form one founding (about 10 minutes on 2 cores) and one audit (about 10). What is in --work already isn't
done again, and a package that carries a privacy report is taken at its word. Writes a table, and `pareto.png` with the
forms that no other one beats in both.

    benchmarks/bench_privacy.py [--data ../shared/data/polyps] [--work runs/privacy] [--only set "set, 8 bits" ...]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from featureloop.audit.material import Lab, party
from featureloop.audit.run import audit
from featureloop.images.labelled import LabelledFolder, open_labelled, split
from featureloop.images.truths import LabelledItem
from featureloop.learner.evaluation import evaluate
from featureloop.learner.founding import found_package
from featureloop.model.charts import ACCENT, SOFT, new_axes
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.package import Package, load_package
from featureloop.sharing.privacy import load_report

OLD = {"breadth": 0.001}
FORMS: dict[str, dict[str, Any]] = {
    "set": {},
    "set, breadth 0.001": OLD,
    "set, 16 bits, breadth 0.001": OLD | {"bits_per_vector": 16.0},
    "set, 66 bits, breadth 0.001": OLD | {"bits_per_vector": 66.0},
    "set, 3 bits": {"bits_per_vector": 3.0},
    "set, 2 channels": {"channels": 2},
    "set, 16 bits, trained at 0.5": {"bits_per_vector": 16.0, "adversary": 0.5},
    "set subset=64,balanced": {"release": "set subset=64,balanced"},
    "set subset=64,balanced mix=4": {"release": "set subset=64,balanced mix=4"},
    "set noise=0.5": {"release": "set noise=0.5"},
    "window=2": {"release": "window=2"},
    "none, 66 bits, breadth 0.001": OLD | {"bits_per_vector": 66.0, "release": "none"},
}
DEFAULT = "set"
FIGURES = ("linkage.top1", "linkage.auc", "inversion.gain_db", "inversion.linkage_top1", "text.presence_auc",
           "text.character_ratio", "position.exact_ratio")  # fmt: skip
ATTACKS = ("linkage", "inversion", "text", "position")
MOST = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "polyps")
    parser.add_argument("--work", type=Path, default=root / "runs" / "privacy")
    parser.add_argument("--only", nargs="+", default=list(FORMS), choices=list(FORMS))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    kvasir, clinic = (open_labelled(args.data / name) for name in ("kvasir-seg", "cvc-clinicdb"))
    rest, held = split(kvasir.items, hold_out=0.2, seed=1)
    print(f"| form | bytes | Kvasir-SEG 200 | ClinicDB | {' | '.join(FIGURES)} |\n|{'---|' * (4 + len(FIGURES))}")
    rows = {}
    for name in args.only:
        kept = args.work / f"{name.replace(' ', '_')}.json"
        if not kept.exists():
            package = founded(name, kvasir, rest, args.work)
            dice = [float(evaluate(package, *on).values.mean()) for on in ((kvasir, held), (clinic, clinic.items))]
            kept.write_text(json.dumps({"dice": dice, **attacked(package, kvasir, clinic, args.work / name)}))
        rows[name] = found = json.loads(kept.read_text())
        figures = " | ".join(f"{v:.3g} ({low:.3g} to {high:.3g})" for v, low, high in map(found.get, FIGURES))
        print(
            f"| {name} | {found['bytes']:.0f} | {found['dice'][0]:.4f} | {found['dice'][1]:.4f} | {figures} |",
            flush=True,
        )
    draw(rows, args.work / "pareto.png")


def founded(name: str, folder: LabelledFolder, items: tuple[LabelledItem, ...], work: Path) -> Package:
    """The package of a form."""
    out = work / name.replace(" ", "_")
    if out.exists():
        return load_package(out)
    return found_package(folder, items, out, settings=FoundingSettings(**FORMS[name]), replay_versions=0).package


def attacked(package: Package, kvasir: LabelledFolder, clinic: LabelledFolder, out: Path) -> dict[str, Any]:
    """The figures with their intervals, and bytes a frame."""
    size = package.manifest.preprocessing.size
    mine, theirs = (party(folder.frames(), size=size, most=MOST)[0] for folder in (kvasir, clinic))
    lab = Lab(package, mine, theirs)
    report = load_report(package) or audit(lab, out, attacks=ATTACKS).report
    found = {
        name: tuple(float("nan") if v is None else v for v in (f.value, f.low, f.high))
        for name, f in report.figures.items()
    }
    missing = dict.fromkeys(FIGURES, (float("nan"),) * 3)
    return missing | found | {"bytes": float(np.mean([r.payload / len(r.frames) for r in lab.theirs]))}


def draw(rows: dict[str, Any], path: Path) -> None:
    """Dice at the new site against linking: forms that none beats in both in colour, the default as a star."""
    figure, axes = new_axes("records of one patient linked, top-1", "Dice at the new site", width=7.5, height=5)
    points = {name: (row["linkage.top1"][0], row["dice"][1]) for name, row in rows.items()}
    for name, (leak, dice) in points.items():
        beaten = any(x <= leak and y >= dice and (x, y) != (leak, dice) for x, y in points.values())
        size = 120 if name == DEFAULT else 30
        axes.scatter(
            leak, dice, s=size, marker="*" if name == DEFAULT else "o", color=SOFT if beaten else ACCENT, zorder=3
        )
        axes.annotate(name, (leak, dice), fontsize=7, xytext=(4, 4), textcoords="offset points")
    axes.axvline(0.09, color="black", linewidth=1)
    figure.savefig(path)


if __name__ == "__main__":
    main()
