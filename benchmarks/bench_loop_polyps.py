#!/usr/bin/env python3
"""The loop on real frames: founded on Kvasir-SEG, deployed on CVC-ClinicDB, by the commands a user types.

Prints Dice with 95% intervals (resampled by group) before and after, on
Kvasir-SEG's held-out 200 images and on the held-out third of ClinicDB's
sequences; bytes; seconds; and how much of the gain the records bring that the
same recognizer gets, by the same training, from the same frames' full,
uncompressed feature maps in order: with the same results as the records hold,
and once more with the true mask of every frame. Every seed is a loop of its
own: it holds another third of the sequences back, and trains by its own draws.

    benchmarks/bench_loop_polyps.py [--data ../shared/data/polyps] [--work runs/polyps] [--seeds 1 2 3]
        [--policy FILE] [--bits-per-vector N]

With --policy, the site shares by that policy.toml: `threshold = 1.0` under `[share]` has every result looked at.
Without, by the defaults, but that near-duplicates leave, too, and no privacy report is asked for: what leaves here goes
to this machine only.

The data are not part of the project (Kvasir-SEG: Jha et al. 2020; CVC-ClinicDB:
Bernal et al. 2015). Steps whose result is in --work already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from featureloop.cli.processes import Children, children
from featureloop.core.errors import GateError
from featureloop.core.types import Frame, Task
from featureloop.device.state import DeviceState, pseudonyms
from featureloop.images.labelled import open_labelled, split
from featureloop.learner.bags import ACCEPTED_WEIGHT, load_bags, training_set
from featureloop.learner.evaluation import evaluate
from featureloop.learner.founding_records import FOUNDING_SITE
from featureloop.learner.service import open_learner
from featureloop.learner.training import TrainSettings
from featureloop.model.fit import BagSet, FitSettings, fit_recognizer, interpolate
from featureloop.model.package import WEIGHTS, Package, load_package
from featureloop.model.preprocess import mask_to_targets
from featureloop.model.recognizers import build_recognizer
from featureloop.model.runtime import Runtime
from featureloop.sharing import codec
from featureloop.sharing.policy import NO_REPORT, load_policy
from featureloop.sharing.record import quarter_of
from featureloop.sharing.reliability import reliability

SITE_HOLD_OUT = 1 / 3
FOUNDING_SEED = 1
LABELS = {"as provided": "full maps, the same results", "true masks": "full maps, every true mask"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data" / "polyps")
    parser.add_argument("--work", type=Path, default=root / "runs" / "polyps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--policy", type=Path)
    parser.add_argument("--bits-per-vector", type=float, help="as `model train` has it; its default if left out")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    policy: Path = args.policy or args.work / "policy.toml"
    if args.policy is None:
        policy.write_text(NO_REPORT + "[share]\nnear_duplicates = 0\n")
    bits: tuple[str, ...] = () if args.bits_per_vector is None else ("--bits-per-vector", str(args.bits_per_vector))
    with children() as group:
        result = run(group, args.data, args.work, args.seeds, policy=policy, options=bits)
    (args.work / "result.json").write_text(json.dumps(result, indent=1))
    print(as_markdown(result))


def run(
    group: Children, data: Path, work: Path, seeds: list[int], *, policy: Path, options: tuple[str, ...] = ()
) -> dict[str, Any]:
    kvasir, clinic, founding = data / "kvasir-seg", data / "cvc-clinicdb", work / "P0"
    if not founding.exists():
        trained = group.run(
            "model", "train", "--task", "segmentation", "--images", str(kvasir), "--out", str(founding), "--seed", "1",
            "--release", "set", *options,
        )  # fmt: skip
        (work / "founding.json").write_text(json.dumps(trained))
    return {
        "founding_seconds": json.loads((work / "founding.json").read_text())["seconds"],
        "kvasir": at_founding(group, founding, kvasir),
        "runs": [loop(group, founding, kvasir, clinic, work, seed=seed, policy=policy) for seed in seeds],
    }


def loop(
    group: Children, founding: Path, kvasir: Path, clinic: Path, work: Path, *, seed: int, policy: Path
) -> dict[str, Any]:
    """One whole loop, with another third of the sequences held back for every seed; kept in a file of its own."""
    kept = work / f"loop-{seed}.json"
    if kept.exists():
        done: dict[str, Any] = json.loads(kept.read_text())
        return done
    learner, state = work / f"learner-{seed}", work / f"device-{seed}"
    for old in (learner, state):
        shutil.rmtree(old, ignore_errors=True)
    url = group.serve(
        "learner", "serve", "--data", str(learner), "--package", str(founding), "--port", "0", timeout_s=120
    )
    code = group.run("learner", "invite", "--site", "barcelona", "--data", str(learner))["code"]
    group.run("device", "enroll", "--learner", url, "--code", code, "--state", str(state))
    processed = group.run(
        "device", "process", str(clinic), "--package", str(founding), "--learner", url, "--review", "masks",
        "--state", str(state), "--part", "rest", "--hold-out", str(SITE_HOLD_OUT), "--seed", str(seed),
        "--policy", str(policy),
    )  # fmt: skip
    trained = group.run(
        "learner", "train", "--data", str(learner), "--seed", str(seed), accept=(0, GateError.exit_code)
    )
    if trained["gate"]["passed"]:
        group.run("package", "promote", trained["candidate"], "--data", str(learner))
        group.run("device", "update", "--package", str(founding), "--state", str(state))
    settings = TrainSettings(fit=FitSettings(seed=seed), interpolation=trained["interpolation"])
    package = load_package(founding)
    own = load_policy(policy).share.threshold
    threshold = package.manifest.calibration.threshold if own is None else own
    control = Control(package, clinic, learner, state, settings, threshold)
    after = Path(trained["path"])
    done = {
        "seed": seed,
        "processed": processed,
        "image_bytes": image_bytes(clinic, seed=seed),
        "gate": trained["gate"],
        "interpolation": trained["interpolation"],
        "seconds": trained["seconds"],
        "before": at_site(group, founding, clinic, seed=seed),
        "after": at_site(group, after, clinic, seed=seed),
        "kvasir": at_founding(group, after, kvasir),
        "controls": {labels: full_maps(control, labels=labels) for labels in LABELS},
    }
    kept.write_text(json.dumps(done))
    return done


def at_founding(group: Children, package: Path, kvasir: Path) -> dict[str, float]:
    """Dice on Kvasir-SEG's held-out fifth."""
    part = ("--part", "held-out", "--hold-out", "0.2", "--seed", str(FOUNDING_SEED))
    dice: dict[str, float] = group.run("model", "evaluate", str(package), "--images", str(kvasir), *part)["figures"][
        "dice"
    ]
    return dice


def at_site(group: Children, package: Path, clinic: Path, *, seed: int) -> dict[str, float]:
    """Dice on the held-out third of ClinicDB's sequences."""
    part = ("--part", "held-out", "--hold-out", str(SITE_HOLD_OUT), "--seed", str(seed))
    dice: dict[str, float] = group.run("model", "evaluate", str(package), "--images", str(clinic), *part)["figures"][
        "dice"
    ]
    return dice


def image_bytes(clinic: Path, *, seed: int) -> int:
    """Bytes of the image files whose frames were processed."""
    rest, _ = split(open_labelled(clinic).items, hold_out=SITE_HOLD_OUT, seed=seed)
    return sum(item.image.stat().st_size for item in rest)


@dataclass(frozen=True, slots=True)
class Control:
    """What a loop had: package, images, the learner's and the device's directory, and below what it asked."""

    package: Package
    clinic: Path
    learner: Path
    state: Path
    settings: TrainSettings
    threshold: float


def full_maps(control: Control, *, labels: str) -> dict[str, Any]:
    """Train the same recognizer from the same frames' float32 maps, in order."""
    from safetensors.torch import load_file

    package, settings, clinic = control.package, control.settings, control.clinic
    learner, manifest = open_learner(control.learner), package.manifest
    bags = load_bags(learner.store.records(extractor=package.extractor_digest), manifest)
    own = training_set(bags, manifest, founding_share=settings.founding_share, chosen=~bags.held)
    if not isinstance(own, BagSet):
        raise SystemExit("this control is of a form in which whole frames leave")
    is_founding = bags.sites[~bags.held] == FOUNDING_SITE
    learned_groups = set(bags.groups[~bags.held].tolist())
    key, now = DeviceState(control.state).site_key(), quarter_of(datetime.now(UTC).date())
    folder = open_labelled(clinic)
    rest, _ = split(folder.items, hold_out=SITE_HOLD_OUT, seed=settings.fit.seed)
    items = [i for i in rest if learned_groups & {p.hex() for p in pseudonyms([key], i.group, first=now - 1, last=now)}]
    runtime = Runtime(package)
    maps, targets, weights = [], [], []
    for frame in folder.frames(items):
        if not isinstance(frame, Frame) or frame.truth is None or frame.truth.mask is None:
            continue
        vectors = runtime.extract(frame.pixels)
        found, truth = runtime.recognize(vectors), mask_to_targets(frame.truth.mask, manifest.features.grid)
        trust = reliability(found, manifest.calibration)
        known = labels == "true masks" or trust < control.threshold
        maps.append(vectors)
        targets.append(truth if known else found.targets())
        weights.append(1.0 if known else ACCEPTED_WEIGHT * trust)
    replay = np.stack([codec.dequantize(x, manifest.released) for x in own.values[is_founding].astype(np.uint8)])
    whole = BagSet(
        np.concatenate([replay, np.stack(maps)]),
        np.concatenate([own.targets[is_founding], np.stack(targets)]),
        np.concatenate([own.shares[is_founding], own.shares[~is_founding]]),
        np.concatenate([np.ones(len(replay), np.float32), np.array(weights, np.float32)]),
        np.ones(replay.shape[2], np.float32),
        np.zeros(replay.shape[2], np.float32),
    )
    recognizer = build_recognizer(manifest.recognizer, channels=manifest.released.channels)
    before = load_file(package.file(WEIGHTS))
    recognizer.load_state_dict(before)
    fit_recognizer(recognizer, whole, task=Task.SEGMENTATION, settings=settings.fit)
    recognizer.load_state_dict(interpolate(before, recognizer.state_dict(), settings.interpolation or 1.0))
    return evaluate_recognizer(package, recognizer, clinic, seed=settings.fit.seed)


def evaluate_recognizer(package: Package, recognizer: Any, clinic: Path, *, seed: int) -> dict[str, Any]:
    """Dice on ClinicDB's held-out sequences of a recognizer under the package's extractor."""
    import tempfile
    from dataclasses import replace

    from featureloop.learner.assembly import write_recognizer
    from featureloop.model.package import seal_package

    with tempfile.TemporaryDirectory() as folder_name:
        work = Path(folder_name) / "control"
        shutil.copytree(package.path, work)
        form = package.manifest.recognizer.form
        write_recognizer(recognizer, work, form=form, channels=package.manifest.released.channels)
        sealed = seal_package(work, replace(package.manifest, files={}))
        folder = open_labelled(clinic)
        _, held = split(folder.items, hold_out=SITE_HOLD_OUT, seed=seed)
        found = evaluate(sealed, folder, held)
    figure = found.figures[0]
    return {"value": figure.value, "low": figure.low, "high": figure.high}


def as_markdown(result: dict[str, Any]) -> str:
    def cell(f: dict[str, float]) -> str:
        return f"{f['value']:.3f} ({f['low']:.3f} to {f['high']:.3f})"

    runs = result["runs"]
    lines = ["| | Kvasir-SEG, held-out 200 | ClinicDB, held-out sequences |", "|---|---|---|"]
    lines.append(f"| before | {cell(result['kvasir'])} | |")
    for r in runs:
        gate = f"gate {'passed' if r['gate']['passed'] else 'not passed'}, probability {r['gate']['probability']:.2f}"
        lines.append(f"| before, third {r['seed']} | | {cell(r['before'])} |")
        after = f"after, third {r['seed']} ({gate}; {r['interpolation']:.2f} of the way)"
        lines.append(f"| {after} | {cell(r['kvasir'])} | {cell(r['after'])} |")
        lines += [f"| {LABELS[k]}, third {r['seed']} | | {cell(c)} |" for k, c in r["controls"].items()]
    before = np.array([r["before"]["value"] for r in runs])
    gain = float((np.array([r["after"]["value"] for r in runs]) - before).mean())
    bounds = {k: float((np.array([r["controls"][k]["value"] for r in runs]) - before).mean()) for k in LABELS}
    lost = result["kvasir"]["value"] - float(np.mean([r["kvasir"]["value"] for r in runs]))
    records, sent = (
        sum(x)
        for x in zip(
            *((r["processed"]["outbox"]["delivered"], r["processed"]["sent_bytes"]) for r in runs), strict=True
        )
    )
    images = sum(r["image_bytes"] for r in runs)
    processed = [r["processed"] for r in runs]
    lines += [
        "",
        f"gain at the new site {100 * gain:+.2f} points; "
        + "".join(f"{LABELS[k]}: {100 * b:+.2f}, so {100 * gain / b:.0f}% of it; " for k, b in bounds.items())
        + f"the founding site loses {100 * lost:+.2f} points",
        f"frames {[p['frames'] for p in processed]}, doubtful {[p['doubtful'] for p in processed]}",
        f"sent {sent} bytes in {records} records ({sent / records:.0f} each, all included); "
        f"image files {images} bytes ({images / sent:.1f} times as much)",
        f"seconds: founding {result['founding_seconds']:.0f}, "
        f"device process {[round(p['seconds']) for p in processed]}, "
        f"learner train {[round(r['seconds']) for r in runs]}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
