#!/usr/bin/env python3
"""Frames per second of `device process` against ONNX Runtime alone, on the same networks, in one run.

    benchmarks/bench_device.py --package runs/polyps/P0 [--images DIR] [--rounds 3]

Without --images, phantom frames are generated. The device decodes, recognizes,
decides, anonymizes, compresses and writes every record durably into its
outbox. ONNX Runtime alone runs extractor and recognizer on inputs prepared
beforehand, in three ways: one frame after the other with its own defaults, the
same without spinning threads, and as many frames at once as there are cores.
All alternate, and the ratios are of their medians.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from onnxruntime import InferenceSession, SessionOptions

from featureloop.config import settings
from featureloop.core.types import Frame
from featureloop.device.outbox import Outbox
from featureloop.device.pipeline import run_pipeline
from featureloop.device.provide import Provider
from featureloop.device.reviewers import TruthReviewer
from featureloop.images.labelled import LabelledFolder, open_labelled
from featureloop.images.phantom import write_phantom_folder
from featureloop.images.phantom_look import HOSPITAL_B
from featureloop.model.package import EXTRACTOR, RECOGNIZER, Package, load_package
from featureloop.model.preprocess import to_input
from featureloop.model.runtime import Runtime, session_options
from featureloop.sharing.policy import Policy, Share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--package", type=Path, default=root / "runs" / "polyps" / "P0")
    parser.add_argument("--images", type=Path, help="a labelled folder")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    package = load_package(args.package)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        images = args.images or work / "phantom"
        if not args.images:
            write_phantom_folder(images, HOSPITAL_B, seed=9, sequences=30, frames_each=10, size=(288, 384))
        folder = open_labelled(images)
        rounds = [
            {
                "onnxruntime_defaults": networks_alone(package, folder, options=SessionOptions()),
                "onnxruntime_no_spinning": networks_alone(package, folder, options=session_options(0)),
                "onnxruntime_frames_at_once": networks_alone(
                    package, folder, options=session_options(1), at_once=Runtime(package, threads=1).at_once
                ),
                "device_process": device(package, folder, work / f"{i}.sqlite"),
            }
            for i in range(args.rounds)
        ]
    fps = {way: median(r[way] for r in rounds) for way in rounds[0]}
    whole = fps["device_process"]
    result = {"frames": len(folder.items), "fps": fps, "ratio_to": {k: whole / v for k, v in fps.items() if v != whole}}
    print(json.dumps(json.loads(json.dumps(result), parse_float=lambda x: round(float(x), 2)), indent=1))


def networks_alone(package: Package, folder: LabelledFolder, *, options: Any, at_once: int = 1) -> float:
    """Frames per second of extractor and recognizer on prepared inputs."""
    extractor, recognizer = (
        InferenceSession(str(package.file(f)), options, providers=["CPUExecutionProvider"])
        for f in (EXTRACTOR, RECOGNIZER)
    )
    spec = package.manifest.features
    inputs = [
        to_input(f.pixels, package.manifest.preprocessing)
        for f in folder.frames(folder.items[:64])
        if isinstance(f, Frame)
    ]
    source, vectors = extractor.get_inputs()[0].name, recognizer.get_inputs()[0].name
    n = len(folder.items)

    def one(i: int) -> None:
        z = extractor.run(None, {source: inputs[i % len(inputs)]})[0]
        recognizer.run(None, {vectors: z.reshape(1, spec.channels, -1).transpose(0, 2, 1)})

    with ThreadPoolExecutor(at_once) as pool:
        started = time.perf_counter()
        list(pool.map(one, range(n)))
        return n / (time.perf_counter() - started)


def device(package: Package, folder: LabelledFolder, outbox_path: Path) -> float:
    """Frames per second of the whole pipeline, from files to the durable outbox."""
    outbox = Outbox(outbox_path)
    provider = Provider(
        site="bench",
        device="bench",
        site_key=bytes(32),
        package=package,
        policy=Policy(Share(near_duplicates=0)),
        keeper=outbox,
        reviewer=TruthReviewer(package.manifest),
        clock=time.time,
    )
    runtime = Runtime(package, threads=settings().threads)
    started = time.perf_counter()
    summary = run_pipeline(folder.frames(), runtime=runtime, provider=provider, is_done=outbox.done)
    seconds = time.perf_counter() - started
    outbox.close()
    return summary.frames / seconds


if __name__ == "__main__":
    main()
