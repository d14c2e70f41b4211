#!/usr/bin/env python3
"""Doubtful frames of films: how many a consensus and a second opinion settle, and how right those results are.

    benchmarks/bench_change.py --package P [--images FOLDER] [--video FILE] [--neighbours 1 2 4] [--thresholds 0.8 0.9]
        [--founded-on FOLDER]

Every frame is recognized and, where its reliability is below the threshold, goes through one step of the policy
at a time, as on a device. The mean quality (Dice) against the truth of the first results and of the step's, over
all doubtful frames that the step has a result for, and over those that it settles: whose new reliability reaches
the threshold. Gains have a 95% interval, resampled by sequence. The quality of what was not doubtful is what
settled results should reach, and what they promise is their mean reliability. `--video`: a film whose frame n is the
folder's image n; its cuts are not marked. `--founded-on`: the images that the package was founded on; on the tenth of
them that is held for calibration a map for means of views is fitted, as founding fits it, and the second opinion is
measured with and without it. Default images: CVC-ClinicDB of ../shared/data, which is not part of the project. About
five minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featureloop.core.types import Frame, Opinion, Skipped, Task, UInt8
from featureloop.device.advice import advisers_on
from featureloop.device.neighbours import Recognized, Surrounded, Window
from featureloop.device.second_opinion import Another, Otherwise
from featureloop.images.labelled import open_labelled, split
from featureloop.images.video import video_frames
from featureloop.learner.founding import _calibrating
from featureloop.learner.gate import bootstrap_means
from featureloop.learner.means import calibrated_means, see_otherwise
from featureloop.model.manifest import Calibration
from featureloop.model.package import Package, load_package
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import rules_of, true_rows
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.reliability import mean_reliability, reliability

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A recognized frame, its truth, its sequence, and its reliability."""

    result: Recognized
    truth: UInt8
    sequence: str
    trust: float
    quality: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--images", type=Path, default=data / "polyps" / "cvc-clinicdb")
    parser.add_argument("--video", type=Path)
    parser.add_argument("--founded-on", type=Path, help="default: without a map for means")
    parser.add_argument("--another", type=Path, help="a package for second opinions")
    parser.add_argument("--neighbours", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--thresholds", type=float, nargs="+", default=[], help="beside the package's own")
    args = parser.parse_args()
    runtime = Runtime(without_means(load_package(args.package)), threads=1)
    frames = all_frames(runtime, args.images, args.video)
    own = runtime.package.manifest.calibration.threshold
    steps: dict[str, Callable[[Seen], Opinion | None]] = {
        f"consensus, {n} on either side": consensus(runtime, frames, n) for n in args.neighbours
    }
    turned = remembered(lambda seen: Otherwise(runtime).look_again(seen.result.frame, seen.result.recognition))
    steps["turned and mirrored"] = turned
    if args.founded_on is not None:
        calibration = calibration_of_means(runtime, args.founded_on)

        def judged(seen: Seen) -> Opinion | None:
            opinion = turned(seen)
            trust = None if opinion is None else mean_reliability(opinion.recognition, calibration)
            return None if opinion is None or trust is None else replace(opinion, reliability=trust)

        steps["the same, by a map for means"] = judged
    if args.another is not None:
        other = Another(Runtime(load_package(args.another), threads=1))
        steps["another package"] = remembered(lambda seen: other.look_again(seen.result.frame, seen.result.recognition))
    print(f"{len(frames)} frames of {len({s.sequence for s in frames})} sequences")
    print("| threshold, not doubtful | step | has a result | first, its | settled | first, its | promised | gain |")
    print(f"|{'---|' * 8}")
    for threshold in [own, *args.thresholds]:
        for name, step in steps.items():
            print(line(runtime, frames, threshold, name, step), flush=True)


def all_frames(runtime: Runtime, images: Path, video: Path | None) -> list[Seen]:
    """The frames of a labelled folder in its order, or of the film that shows them."""
    manifest = runtime.package.manifest
    film = None if video is None else video_frames(video, name=video.name)
    out = []
    for frame in open_labelled(images).frames():
        if isinstance(frame, Skipped):
            continue
        shown = frame
        if film is not None:
            shown = next(f for f in film if isinstance(f, Frame))
        vectors = release_vectors(runtime.extract(shown.pixels), manifest.released)
        found = runtime.recognize(vectors)
        rows = true_rows(frame, task=found.task, labels=len(manifest.labels), grid=manifest.features.grid)
        result = Recognized(replace(shown, truth=None), vectors, found, None)
        trust = reliability(found, manifest.calibration)
        sequence = frame.group or frame.name
        out.append(Seen(result, rows, sequence, trust, rules_of(manifest).quality(found, rows)))
    return out


def without_means(package: Package) -> Package:
    """The package without a map for means of views."""
    return replace(
        package, manifest=replace(package.manifest, calibration=replace(package.manifest.calibration, of_mean=None))
    )


def calibration_of_means(runtime: Runtime, founded_on: Path) -> Calibration:
    """The package's calibration with a map for means of views that is fitted as founding fits it."""
    m = runtime.package.manifest
    folder = open_labelled(founded_on, task=Task(m.task))
    rest, _ = split(folder.items, hold_out=m.lineage.hold_out or 0.0, seed=m.lineage.seed or 1)
    calibrating = _calibrating([rest], seed=m.lineage.seed or 1)
    items = [item for item in rest if item.group in calibrating]
    return calibrated_means(
        see_otherwise(runtime, folder.frames(items), m.calibration, number=len(items)), m.calibration
    )


def consensus(runtime: Runtime, frames: Sequence[Seen], count: int) -> Callable[[Seen], Opinion | None]:
    """The step as a device takes it: neighbours by its window, kept apart at cuts."""
    window = Window(count)
    given: list[Surrounded] = [s for seen in frames for s in window.put(seen.result)]
    around = {id(s.result): s.around for s in (*given, *window.flush())}
    manifest = runtime.package.manifest

    def step(seen: Seen) -> Opinion | None:
        return advisers_on(
            seen.result, around[id(seen.result)], manifest=manifest, reviewer=None, second_opinion=None, later=False
        ).consensus()

    return step


def remembered(step: Callable[[Seen], Opinion | None]) -> Callable[[Seen], Opinion | None]:
    """The same, asked once for every frame."""
    known: dict[int, Opinion | None] = {}

    def ask(seen: Seen) -> Opinion | None:
        if id(seen) not in known:
            known[id(seen)] = step(seen)
        return known[id(seen)]

    return ask


def line(
    runtime: Runtime, frames: Sequence[Seen], threshold: float, name: str, step: Callable[[Seen], Opinion | None]
) -> str:
    """One row of the table."""
    doubtful = [s for s in frames if s.trust < threshold]
    sure = float(np.mean([s.quality for s in frames if s.trust >= threshold] or [np.nan]))
    rules = rules_of(runtime.package.manifest)
    opinions = [(seen, opinion) for seen in doubtful if (opinion := step(seen)) is not None]
    before = np.array([seen.quality for seen, _ in opinions])
    after = np.array([rules.quality(opinion.recognition, seen.truth) for seen, opinion in opinions])
    settled = np.array([opinion.reliability >= threshold for _, opinion in opinions], np.bool_)
    cells = [f"{threshold:.3f}, {sure:.3f}", name, f"{len(opinions)} of {len(doubtful)}", means(before, after)]
    cells += [f"{settled.sum()} ({settled.sum() / max(1, len(doubtful)):.0%})", means(before[settled], after[settled])]
    promised = np.array([opinion.reliability for _, opinion in opinions])[settled]
    cells.append(f"{promised.mean():.3f}" if settled.any() else "")
    sequences = np.array([seen.sequence for seen, _ in opinions])[settled]
    cells.append(gain(after[settled] - before[settled], sequences) if settled.any() else "")
    return f"| {' | '.join(cells)} |"


def means(before: Float64, after: Float64) -> str:
    """Both mean qualities, where there are any."""
    return f"{before.mean():.3f}, {after.mean():.3f}" if len(before) else ""


def gain(gains: Float64, sequences: NDArray[np.str_]) -> str:
    """The mean gain with its interval, where there are sequences to resample."""
    if len(set(sequences.tolist())) < 2:
        return f"{gains.mean():+.3f}"
    low, high = np.quantile(bootstrap_means(gains, sequences, seed=1), [0.025, 0.975])
    return f"{gains.mean():+.3f} ({low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    main()
