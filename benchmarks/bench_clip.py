#!/usr/bin/env python3
"""A hospital's clips with and without their near-duplicates: bytes, who was asked how often, and what was learned.

The demonstration's founding package, then, for every share of `near_duplicates`, a learner and a device of its own:
hospital B's device processes clips (a second each, of another patient each), the learner trains, and the
candidate is measured on frames of both hospitals that no network learned from. About six minutes on two cores.

    benchmarks/bench_clip.py [--shares 0 0.2 0.3 0.5] [--clips 24] [--frames 25] [--seeds 1] [--way "across frames"]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from bench_bytes import WAYS

from featureloop.cli.demo import DemoSettings, Folders, found, make_frames
from featureloop.cli.processes import Children, children
from featureloop.core.errors import GateError
from featureloop.core.ports import silent
from featureloop.images.labelled import open_labelled
from featureloop.learner.evaluation import evaluate
from featureloop.model.package import Package, load_package
from featureloop.sharing.policy import NO_REPORT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.2, 0.3, 0.5])
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--frames", type=int, default=25, help="of a clip")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--way", default="together", choices=list(WAYS), help="of sending")
    args = parser.parse_args()
    print("| seed | near_duplicates | records | bytes sent | of all | doubtful, asked | A, before and after | B |")
    print(f"|{'---|' * 8}")
    for seed in args.seeds:
        founding = {"release": "set"}
        settings = DemoSettings(site_sequences=args.clips, frames_each=args.frames, seed=seed, founding=founding)
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            folders = make_frames(work, settings, silent)
            founding = found(folders.founding, work / "P0", settings, silent)
            before, whole = dice(load_package(founding), folders), 0
            for share in args.shares:
                with children() as group:
                    got = loop(group, work / f"share-{share:g}", folders, founding, settings, share=share, way=args.way)
                whole = whole or got["bytes"]
                quality = " | ".join(f"{b:.3f}, {a:.3f}" for b, a in zip(before, got["dice"], strict=True))
                print(
                    f"| {seed} | {share:g} | {got['records']} | {got['bytes']} | {got['bytes'] / whole:.2f} | "
                    f"{got['doubtful']}, {got['asked']} | {quality}{got['gate']} |",
                    flush=True,
                )


def loop(
    group: Children, work: Path, folders: Folders, founding: Path, settings: DemoSettings, *, share: float, way: str
) -> dict[str, Any]:
    """One loop under a policy: what left, and what the candidate recognizes at A and at B."""
    work.mkdir()
    data, state, policy = str(work / "learner"), str(work / "device"), work / "policy.toml"
    sending = f"[sending]\n{WAYS[way]}\n"
    policy.write_text(f"[share]\nnear_duplicates = {share}\n{sending}{NO_REPORT}", encoding="utf-8")
    url = group.serve("learner", "serve", "--data", data, "--package", str(founding), "--port", "0", timeout_s=120)
    code = group.run("learner", "invite", "--site", "hospital-b", "--data", data)["code"]
    group.run("device", "enroll", "--learner", url, "--code", code, "--state", state)
    done = group.run(
        "device", "process", str(folders.loop_b), "--package", str(founding), "--learner", url, "--review", "masks",
        "--state", state, "--policy", str(policy),
    )  # fmt: skip
    trained = group.run(
        "learner", "train", "--data", data, "--seed", str(settings.seed), accept=(0, GateError.exit_code)
    )
    outcomes = done["outcomes"]
    return {
        "records": done["outbox"]["delivered"],
        "bytes": done["sent_bytes"],
        "doubtful": done["doubtful"],
        "asked": outcomes.get("changed", 0) + outcomes.get("confirmed", 0),
        "dice": dice(load_package(Path(trained["path"])), folders),
        "gate": "" if trained["gate"]["passed"] else " (refused by the gate)",
    }


def dice(package: Package, folders: Folders) -> tuple[float, float]:
    """On both hospitals' test frames."""
    a, b = (open_labelled(folder) for folder in (folders.test_a, folders.test_b))
    return evaluate(package, a, a.items).figures[0].value, evaluate(package, b, b.items).figures[0].value


if __name__ == "__main__":
    main()
