#!/usr/bin/env python3
"""Kill device or learner at random moments of one run, start them again, and count: every record exactly once.

    benchmarks/soak_kill.py [--package P] [--images DIR] [--frames 612] [--kills 20] [--seed 1]

Without --package a small founding package is trained on phantoms first;
without --images, phantom frames are generated. Processes get SIGKILL, each at
a random moment between the first record and the last, so that it falls into
their work and not only into their start.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from featureloop.cli.demo import DemoSettings, found
from featureloop.cli.processes import children
from featureloop.core.ports import silent
from featureloop.device.outbox import Outbox
from featureloop.device.outbox_file import State
from featureloop.device.state import DeviceState
from featureloop.images.labelled import open_labelled
from featureloop.images.phantom import write_phantom_folder
from featureloop.images.phantom_look import HOSPITAL_A, HOSPITAL_B
from featureloop.learner.service import open_learner
from featureloop.model.package import load_package
from featureloop.sharing.policy import NO_REPORT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path)
    parser.add_argument("--images", type=Path, help="a labelled folder")
    parser.add_argument("--frames", type=int, default=612)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        package = args.package or small_package(work)
        images = args.images or work / "frames"
        if not args.images:
            write_phantom_folder(
                images, HOSPITAL_B, seed=5, sequences=args.frames // 12, frames_each=12, size=(192, 192)
            )
        sys.exit(soak(work, package, images, kills=args.kills, seed=args.seed))


def small_package(work: Path) -> Path:
    """A founding package trained on a few phantoms."""
    write_phantom_folder(work / "founding", HOSPITAL_A, seed=1, sequences=30, frames_each=2, size=(192, 192))
    return found(work / "founding", work / "P0", DemoSettings(epochs=2.0), silent)


def soak(work: Path, package: Path, images: Path, *, kills: int, seed: int) -> int:
    rng = random.Random(seed)  # noqa: S311 - moments, not secrets
    data, state = work / "learner", work / "device"
    shutil.rmtree(data, ignore_errors=True)
    policy = work / "policy.toml"
    policy.write_text(NO_REPORT + "[share]\nnear_duplicates = 0\n[sending]\ndelay_seconds = 1\nbatch_records = 8\n")
    with children() as group:
        port = free_port()
        serve = ["learner", "serve", "--data", str(data), "--port", str(port)]
        url = group.serve(*serve, "--package", str(package), timeout_s=180)
        code = group.run("learner", "invite", "--site", "soak", "--data", str(data))["code"]
        group.run("device", "enroll", "--learner", url, "--code", code, "--state", str(state))
        process = ["device", "process", str(images), "--package", str(package), "--learner", url, "--review", "masks",
                   "--state", str(state), "--wait", "120", "--policy", str(policy)]  # fmt: skip
        frames = len(open_labelled(images).items)
        moments = sorted(rng.sample(range(1, frames), kills))
        device = spawn(process)
        killed = {"device": 0, "learner": 0}
        try:
            for moment in moments:
                while device.poll() is None and recorded(state) < moment:
                    time.sleep(0.01)
                time.sleep(rng.uniform(0.0, 0.3))
                if rng.random() < 0.5:
                    device.kill()
                    device.wait()
                    killed["device"] += 1
                else:
                    group.kill_servers()
                    group.serve(*serve, timeout_s=120)
                    killed["learner"] += 1
                if device.poll() is not None:
                    device = spawn(process)
            device.wait()
        finally:
            device.kill()
            device.wait()
        final = group.run(*process)
        group.end()
    return judge(images, data=data, state=state, final=final, package=package, killed=killed)


def recorded(state: Path) -> int:
    """Records that the device has put into its outbox so far."""
    with Outbox(DeviceState(state).outbox) as outbox:
        return sum(outbox.counts().values())


def judge(
    images: Path, *, data: Path, state: Path, final: dict[str, object], package: Path, killed: dict[str, int]
) -> int:
    learner = open_learner(data)
    learner.ingest.drain()
    extractor = load_package(package).extractor_digest
    ids = [r.id for batch in learner.store.records(extractor=extractor) for r in batch if r.site == "soak"]
    outbox = Outbox(DeviceState(state).outbox)
    delivered = {e.id for e in outbox.rows(state=State.DELIVERED, limit=10**6)}
    others = {str(k): n for k, n in outbox.counts().items() if k is not State.DELIVERED}
    outbox.close()
    frames = len(open_labelled(images).items)
    print(
        f"{frames} frames, {sum(killed.values())} kills {killed}; "
        f"last run: {final['frames']} new, {final['already_processed']} before"
    )
    print(f"store: {len(ids)} records, {len(set(ids))} distinct; outbox: {len(delivered)} delivered, others {others}")
    ok = len(ids) == len(set(ids)) == len(delivered) == frames and set(ids) == delivered and not any(others.values())
    print("every record arrived exactly once" if ok else "LOST OR DOUBLED RECORDS")
    return 0 if ok else 1


def spawn(args: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "featureloop", *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


if __name__ == "__main__":
    main()
