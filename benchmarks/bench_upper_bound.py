#!/usr/bin/env python3
"""What a new site's raw images would bring: the upper bound of what its records can.

The backbone's late stages and a recognizer of their joined taps, in full and without any neck or quantization, are
tuned on Kvasir-SEG alone, and on Kvasir-SEG together with the providing sequences of CVC-ClinicDB, raw images with
every true mask. Dice on the frames' own pixels on ClinicDB's held-back third, another third for every seed, as
`bench_loop_polyps.py` holds them back. With --loop, that benchmark's result stands beside it.

    benchmarks/bench_upper_bound.py [--data ../shared/data/polyps] [--seeds 1 2 3] [--loop runs/polyps]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from featureloop.core.types import Float32, Frame, Task
from featureloop.images.labelled import LabelledFolder, open_labelled, split
from featureloop.images.truths import LabelledItem
from featureloop.learner.figures import Seen, quality_of, see
from featureloop.learner.founding import CALIBRATION_SHARE
from featureloop.learner.gate import bootstrap_means
from featureloop.model.backbones import efficientnet_lite0
from featureloop.model.early_cache import EarlyCache, fill_cache
from featureloop.model.founding import recognizer_spec
from featureloop.model.founding_features import map_to_rows
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.lesson import Surroundings
from featureloop.model.manifest import Preprocessing, uncalibrated
from featureloop.model.preprocess import to_input
from featureloop.model.recognizers import build_recognizer
from featureloop.model.tasks import RULES, true_rows
from featureloop.model.tuning import tune_late

SITE_HOLD_OUT = 1 / 3
TASK = Task.SEGMENTATION
SETTINGS = FoundingSettings(release="set")


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """A tuned backbone with the recognizer of its joined taps."""

    network: nn.Module
    early: nn.Module

    def dice(self, frames: Sequence[Frame]) -> NDArray[np.float64]:
        """Dice of every frame on its own pixels."""
        return np.array([quality_of(self._see(frame)) for frame in frames])

    def _see(self, frame: Frame) -> Seen:
        rules, grid = RULES[TASK], SETTINGS.size // 16
        image: Float32 = to_input(frame.pixels, Preprocessing(SETTINGS.size))
        with torch.no_grad():
            logits = self.network(self.early(torch.from_numpy(image)))[0].numpy()
        found = rules.recognition(logits, uncalibrated(rules.method))
        rows = true_rows(frame, task=TASK, labels=1, grid=grid)
        return see(frame, found, reliability=1.0, rows=rows, grid=grid)


class OnTaps(nn.Module):
    """A recognizer behind a late part: early features to logits."""

    def __init__(self, late: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.late = late
        self.head = head

    def forward(self, early: torch.Tensor) -> torch.Tensor:
        """Logits (B, N, T)."""
        out: torch.Tensor = self.head(map_to_rows(self.late(early)))
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "polyps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--loop", type=Path, help="the --work of bench_loop_polyps.py")
    args = parser.parse_args()
    kvasir, clinic = (open_labelled(args.data / name) for name in ("kvasir-seg", "cvc-clinicdb"))
    rest, _ = split(kvasir.items, hold_out=0.2, seed=1)
    learned, stopping = split(rest, hold_out=CALIBRATION_SHARE, seed=1)
    kept = cached(frames_of(kvasir, stopping), 0, seed=1)
    own = cached(frames_of(kvasir, learned), SETTINGS.augmentations, seed=1)
    alone = tuned(own, kept, seed=1)
    print("| third | Kvasir-SEG alone | with the site's raw images | gain | of it by the loop |\n|---|---|---|---|---|")
    for seed in args.seeds:
        providing, held = split(clinic.items, hold_out=SITE_HOLD_OUT, seed=seed)
        site = cached(frames_of(clinic, providing), SETTINGS.augmentations, seed=seed)
        both = EarlyCache(np.concatenate([own.features, site.features]), np.concatenate([own.targets, site.targets]))
        frames = frames_of(clinic, held)
        before = alone.dice(frames)
        gain = tuned(both, kept, seed=seed).dice(frames) - before
        low, high = np.quantile(bootstrap_means(gain, np.array([i.group for i in held]), seed=1), [0.025, 0.975])
        cells = [
            f"{seed}",
            f"{before.mean():.4f}",
            f"{(before + gain).mean():.4f}",
            f"{gain.mean():+.4f} ({low:+.4f} to {high:+.4f})",
            by_loop(args.loop, seed, float(gain.mean())),
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def by_loop(work: Path | None, seed: int, bound: float) -> str:
    """What the loop of this third gained, and which share of the bound that is."""
    if work is None:
        return ""
    found = json.loads((work / f"loop-{seed}.json").read_text())
    gain = found["after"]["value"] - found["before"]["value"]
    return f"{gain:+.4f}, {gain / bound:.0%}"


def frames_of(folder: LabelledFolder, items: Sequence[LabelledItem]) -> list[Frame]:
    """The frames of these items, in their order."""
    found = [f for f in folder.frames(items) if isinstance(f, Frame)]
    if len(found) != len(items):
        raise SystemExit("every image must be readable")
    return found


def cached(frames: Sequence[Frame], augmentations: int, *, seed: int) -> EarlyCache:
    """Early features as the founding caches them."""
    return fill_cache(
        frames,
        efficientnet_lite0(),
        task=TASK,
        classes=1,
        preprocessing=SETTINGS.preprocessing,
        augmentations=augmentations,
        seed=seed,
    )


def tuned(cache: EarlyCache, kept: EarlyCache, *, seed: int) -> Tuned:
    """A backbone tuned as the founding does, and its recognizer."""
    torch.manual_seed(seed)
    backbone, spec = efficientnet_lite0(), recognizer_spec(TASK, 1, SETTINGS)
    head = build_recognizer(spec, channels=backbone.channels)
    tune_late(backbone, head, spec, cache, kept, task=TASK, settings=SETTINGS, around=Surroundings())
    return Tuned(OnTaps(backbone.late, head).eval(), backbone.early.eval())


if __name__ == "__main__":
    main()
