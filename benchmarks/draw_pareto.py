#!/usr/bin/env python3
"""Draw leak against quality over released forms, from what bench_privacy.py and the benchmarks of forms measured.

    benchmarks/draw_pareto.py [--masks runs/privacy] [--classes runs/privacy-pooled] [--bits runs/pooled-bits]
        [--raw runs/raw-map/less.json] [--audited PACKAGE ... --data ../shared/data/polyps]
        [--points docs/pareto.json] [--out docs/pareto.png]

A form with its neck and attacks takes a quarter of an hour of a core, so that not all are measured under every
founding. --points keeps every form's newest figures, each with what the whole set of its own founding reached: what was
measured now is added, and all of it is drawn, as points lost or won against that. Forms under another founding
than the newest one are hollow. A package for masks that was founded for its form and audited (--audited) is drawn by
its report, without the near-duplicates that the report is without.

Forms that no other beats in both are coloured and joined; the default is a star, a diamond a neck that was trained
against attackers, a square noise; the black line is the default policy's limit. With --raw (of compare_raw_map.py) a
dotted line stands a point below what the raw map is recognized at. Records that mix patients share one by chance more
often; that is taken off. Bars are 95% intervals over sequences of what is linked. Dice and AUC have intervals too, of
several points, but all forms of a founding are judged on the same images, so their differences are surer than that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_privacy import ARMS, DEFAULT, slug
from bench_privacy_pooled import ARMS as POOLED
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from featureloop.core.types import Task
from featureloop.images.labelled import open_labelled
from featureloop.learner.evaluation import evaluate
from featureloop.model.charts import ACCENT, COLOURS, SOFT
from featureloop.model.forms import FEW_ROWS
from featureloop.model.package import load_package
from featureloop.model.pooling import POOLED_BITS
from featureloop.sharing.privacy import RULES, load_report

DEEP = 1.6
"""Forms so many points below the median are drawn at the edge, with their quality beside them."""
PRICE = 0.01
"""What a form may cost against the raw map."""
ALONE = "top-1 by recognition alone on baseline"


@dataclass(frozen=True, slots=True)
class Point:
    """A form: what is linked, with its interval, and how much better it is recognized from than from the whole set."""

    name: str
    leak: tuple[float, float, float]
    quality: float
    default: bool = False
    earlier: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--masks", type=Path, default=root / "runs" / "privacy")
    parser.add_argument("--classes", type=Path, default=root / "runs" / "privacy-pooled")
    parser.add_argument("--bits", type=Path, default=root / "runs" / "pooled-bits")
    parser.add_argument("--raw", type=Path, default=root / "runs" / "raw-map" / "less.json")
    parser.add_argument("--audited", type=Path, nargs="*", default=[])
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "polyps")
    parser.add_argument("--points", type=Path, default=root / "docs" / "pareto.json")
    parser.add_argument("--out", type=Path, default=root / "docs" / "pareto.png")
    args = parser.parse_args()
    kept: dict[str, Any] = json.loads(args.points.read_text())
    kept["masks"] = merged(kept["masks"], measured_masks(args.masks))
    newest = kept["masks"][0]
    kept["masks"] = [newest, *merged(kept["masks"][1:], [audited(p, args.data, newest) for p in args.audited])]
    kept["classes"] = merged(kept["classes"], [*measured_bits(args.bits), *measured_classes(args.classes)])
    if (args.masks / f"{slug(DEFAULT)}.json").exists():
        kept["alone"] = json.loads((args.masks / f"{slug(DEFAULT)}.json").read_text())["all of linkage"][ALONE]
    if args.raw.exists():
        (lost, *_) = json.loads(args.raw.read_text()).values()
        kept["raw"] = -lost["ClinicDB"]
    args.points.write_text(json.dumps(kept, indent=1) + "\n")
    figure = Figure(figsize=(11, 5.4), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    panel(left, points_of(kept["masks"]), "masks: points of Dice at the new site, against the whole set", figure)
    if "raw" in kept:
        left.axhline(100 * (kept["raw"] - PRICE), color="black", lw=1, ls=":")
    alone = kept["alone"]
    left.axvspan(alone[1], alone[2], color=COLOURS[1], alpha=0.12, lw=0)
    left.axvline(alone[0], color=COLOURS[1], lw=1, ls="--")
    left.text(
        alone[2] + 0.01, left.get_ylim()[0], " the recognized masks alone", color=COLOURS[1], fontsize=8, va="bottom"
    )
    panel(right, points_of(kept["classes"]), "classes (X-rays): points of AUC", figure)
    figure.suptitle(
        "What links records of one patient, against what is recognized (ClinicDB's sequences, top-1)", fontsize=11
    )
    figure.savefig(args.out)


Kept = dict[str, Any]
"""A form's figures: `leak` with its interval, `quality`, and `against`, that of the same founding's whole set."""


def measured_masks(folder: Path) -> list[Kept]:
    """What bench_privacy.py measured of forms for masks: Dice at the new site."""
    found = {n: json.loads(p.read_text()) for n in ARMS if (p := folder / f"{slug(n)}.json").exists()}
    if DEFAULT not in found:
        return []
    base = found[DEFAULT]["dice"]
    founding = f"{base[0][0]:.4f}, {base[1][0]:.4f}"
    return [
        {
            "form": n,
            "leak": above_guessing(n, f["linkage.top1"]),
            "quality": f["dice"][1][0],
            "against": base[1][0],
            "founding": founding,
        }
        for n, f in found.items()
        if "linkage.top1" in f
    ]


def audited(path: Path, data: Path, newest: Kept) -> Kept:
    """What a package for masks is linked at by its report, and its Dice at the new site."""
    package = load_package(path)
    clinic = open_labelled(data / "cvc-clinicdb", task=Task.SEGMENTATION)
    report, figures = load_report(package), evaluate(package, clinic, clinic.items).figures
    if report is None:
        raise SystemExit(f"'{path}' has no privacy report; run 'featureloop audit privacy'")
    found = report.figures["linkage.top1"]
    fewer = f", no near-duplicates ({report.near_duplicates:g})" if report.near_duplicates else ""
    return {
        "form": f"{package.manifest.released.anonymizer}, founded for it{fewer}",
        "leak": [found.value, found.low, found.high],
        "quality": next(f.value for f in figures if f.name == "dice"),
        "against": newest["against"],
        "founding": newest["founding"],
    }


def measured_classes(folder: Path) -> list[Kept]:
    """What bench_privacy_pooled.py measured: AUC from what leaves, against the device's by the default's founding."""
    found = {n: json.loads(p.read_text()) for n in POOLED if (p := folder / f"{n.replace(' ', '-')}.json").exists()}
    if "as founded" not in found:
        return []
    base = found["as founded"]["figures"]["AUC"]
    return [
        {
            "form": f"pool, {POOLED_BITS:g} bits" if n == "as founded" else f"pool, {n}",
            "leak": f["linkage"]["linkage.top1"],
            "quality": f["decoded"][1],
            "against": base,
            "founding": f"{base:.4f}",
        }
        for n, f in found.items()
        if "passes" not in n and "deviations" not in n
    ]


def measured_bits(folder: Path) -> list[Kept]:
    """What bench_pooled_bits.py measured: AUC at the other source from what leaves, against the device's own."""
    found = [(p.stem.partition("-"), json.loads(p.read_text())) for p in sorted(folder.glob("*.json"))]
    return [
        {
            "form": f"pool, {bits} bits{' value by value' if by else ''}",
            "leak": kept["linkage"]["linkage.top1"],
            "quality": kept["quality"],
            "against": kept["device"],
            "founding": f"{kept['device']:.4f}, all images",
        }
        for (bits, _, by), kept in found
    ]


def merged(kept: Sequence[Kept], new: Sequence[Kept]) -> list[Kept]:
    """The newest figures of every form, those of this time first."""
    names = {one["form"] for one in new}
    return [*new, *(one for one in kept if one["form"] not in names)]


def points_of(kept: Sequence[Kept]) -> list[Point]:
    """What is drawn of forms: the first one's founding is the newest."""
    defaults = (f"{FEW_ROWS}, founded for it", f"pool, {POOLED_BITS:g} bits")
    return [
        Point(
            one["form"],
            tuple(one["leak"][:3]),
            100 * (one["quality"] - one["against"]),
            one["form"].startswith(defaults[0]) or one["form"] == defaults[1],
            one["founding"] != kept[0]["founding"],
        )
        for one in kept
    ]


def above_guessing(name: str, found: Sequence[Any]) -> tuple[float, float, float]:
    """Top-1; of records that mix patients what is above chance, as a share of what there is above it."""
    value, low, high = found[:3]
    if "mix" not in name:
        return value, low, high
    chance = found[4]
    return tuple(max(0.0, (v - chance) / (1 - chance)) for v in (value, low, high))


def front(points: Sequence[Point]) -> list[Point]:
    """Forms that no other one beats in both, the least linked first."""
    best = [p for p in points if not any(q.leak[0] <= p.leak[0] and q.quality >= p.quality and q != p for q in points)]
    return sorted(best, key=lambda p: p.leak[0])


def panel(axes: Any, points: Sequence[Point], title: str, figure: Figure) -> None:
    """One task's forms."""
    axes.set_xlim(0, 1)
    floor = float(np.median([p.quality for p in points])) - DEEP
    points = [replace(p, name=f"{p.name}: {p.quality:+.1f}", quality=floor) if p.quality < floor else p for p in points]
    axes.set_xlabel("records of one patient put together at the first guess", fontsize=9)
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    best = front(points)
    axes.plot([p.leak[0] for p in best], [p.quality for p in best], color=ACCENT, lw=1, alpha=0.6)
    for p in points:
        colour = ACCENT if p in best else SOFT
        axes.plot(p.leak[1:], [p.quality] * 2, color=colour, lw=1, alpha=0.5)
        axes.scatter(
            p.leak[0],
            p.quality,
            s=190 if p.default else 34,
            marker="*" if p.default else "v" if p.quality == floor else marker(p.name),
            facecolor="white" if p.earlier else COLOURS[1] if p.default else colour,
            edgecolor=COLOURS[1] if p.default else colour,
            zorder=3,
        )
    limit = RULES["linkage.top1"].limit or 0.0
    axes.axvline(limit, color="black", lw=1.4)
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    axes.text(limit - 0.012, axes.get_ylim()[1], f"limit {limit:g}", rotation=90, ha="right", va="top", fontsize=8)
    label(axes, points, figure)


def marker(name: str) -> str:
    """What kind of form it is."""
    return "D" if "trained" in name else "s" if "noise" in name else "o"


def label(axes: Any, points: Sequence[Point], figure: Figure) -> None:
    """Names beside their points, each at the first place where it covers nothing."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    taken: list[Any] = []
    dots = [axes.transData.transform((p.leak[0], p.quality)) for p in points]
    for p in sorted(points, key=lambda p: (-p.default, -p.leak[0])):
        text = axes.annotate(
            p.name + (" (default)" if p.default else ""),
            (p.leak[0], p.quality),
            fontsize=7.5,
            xytext=(0, 0),
            textcoords="offset points",
            zorder=4,
            in_layout=False,
            arrowprops={"arrowstyle": "-", "lw": 0.6, "color": "#666", "shrinkA": 0, "shrinkB": 2},
        )
        for dx, dy, side in PLACES:
            text.set_position((dx, dy))
            text.set_ha(side)
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer).padded(1)
            inside = axes.bbox.x0 - 2 <= box.x0 and box.x1 <= axes.bbox.x1 + 8 and axes.bbox.y0 <= box.y0
            if inside and not any(box.overlaps(o) for o in taken) and not any(box.contains(*d) for d in dots):
                break
        taken.append(box)


PLACES = [
    (dx, dy, side)
    for dy in (5, -12, 15, -22, 25, -32, 35, -42)
    for dx, side in ((6, "left"), (-6, "right"), (0, "center"))
]


if __name__ == "__main__":
    main()
