#!/usr/bin/env python3
"""What a diffusion model draws of records and of the positive control, beside the audit's other attackers.

Kvasir-SEG attacks, ClinicDB's sequences are the victims, as in `audit privacy`, by budgets that a CPU has: all networks
get the same number of images, the restorer of places less than the audit's, and nothing is searched for along the
gradient. With a GPU, `audit privacy --attack inversion` is the measurement.

    benchmarks/bench_diffusion.py --package P0 [--data ../shared/data/polyps] [--steps 150] [--victims 50]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from featureloop.audit.diffusion import DiffusionSettings
from featureloop.audit.inversion import attack_inversion
from featureloop.audit.inversion_settings import InversionSettings
from featureloop.audit.material import Lab, Party, party
from featureloop.audit.position import PositionSettings, restore
from featureloop.audit.reconstructions import GAIN, LOOKS, SIMILAR
from featureloop.core.types import Task
from featureloop.images.labelled import open_labelled
from featureloop.model.package import load_package

MOST, BATCH = 400, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "polyps")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--victims", type=int, default=50)
    args = parser.parse_args()
    package = load_package(args.package)
    size = package.manifest.preprocessing.size
    lab = Lab(package, side(args.data / "kvasir-seg", size), side(args.data / "cvc-clinicdb", size), seed=1)
    lab.learned["restorer"] = restore(lab, PositionSettings(bags=100, steps=200))
    given = InversionSettings(
        victims=args.victims,
        steps=args.steps,
        control_steps=args.steps // 2,
        surrogate_steps=args.steps // 2,
        batch=BATCH,
        searched=0,
        curve=(),
        diffusion=DiffusionSettings(steps=args.steps, batch=BATCH, samples=4, drawing=6),
    )
    started = time.process_time()
    found = attack_inversion(lab, given)
    print(f"{time.process_time() - started:.0f} seconds of the processor\n" + "\n".join(found.notes))
    print(f"\n| arm | by | {GAIN} | {SIMILAR} | {LOOKS} |\n|---|---|---|---|---|")
    by = {(m.arm, m.by, m.figure): f"{m.value:.3f} ({m.low:.3f} to {m.high:.3f})" for m in found.measures}
    for arm, name in dict.fromkeys((arm, name) for arm, name, figure in by if figure == GAIN):
        print(f"| {arm} | {name} | {' | '.join(by[arm, name, f] for f in (GAIN, SIMILAR, LOOKS))} |")


def side(folder: Path, size: int) -> Party:
    """A data set's frames as a party."""
    return party(open_labelled(folder, task=Task.SEGMENTATION).frames(), size=size, most=MOST)[0]


if __name__ == "__main__":
    main()
