"""The whole loop, tiny: real training, a real learner process, real devices, and what SIGKILL can't take away."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from featureloop.cli.processes import Children
from featureloop.core.errors import GateError
from featureloop.core.types import Task
from featureloop.device.outbox import Outbox, State
from featureloop.device.state import DeviceState
from featureloop.images.labelled import open_labelled
from featureloop.images.phantom import KINDS, phantom_set, write_phantom_folder
from featureloop.images.phantom_look import HOSPITAL_A, HOSPITAL_B, SiteLook
from featureloop.learner.founding import found_package
from featureloop.learner.interpolation import SHARES
from featureloop.learner.service import open_learner
from featureloop.model.founding_settings import FoundingSettings
from featureloop.model.package import Package, load_package
from featureloop.sharing.policy import NO_REPORT

SIDE = 64
TINY = FoundingSettings(size=SIDE, channels=8, epochs=1, recognizer_epochs=2, augmentations=0, width=16, blocks=1)
FRAMES = 66
RECORD_BYTES = {"segmentation": 4000, "detection": 4000, "classification": 300}
"""Mean bytes of a record on the wire, at most, everything included."""


@pytest.fixture
def group() -> Iterator[Children]:
    """Processes that end with the test."""
    started = Children()
    yield started
    started.end()


def unreported(folder: Path) -> str:
    """A policy of a site that asks for no privacy report, as phantoms are nobody's, and lets near-duplicates leave."""
    path = folder / "policy.toml"
    path.write_text(NO_REPORT + "[share]\nnear_duplicates = 0\n")
    return str(path)


def frames(folder: Path, look: SiteLook, task: str, *, seed: int, sequences: int, each: int) -> Path:
    """A labelled folder of phantoms: masks, or one folder a class."""
    size = (SIDE, SIDE)
    if task != "classification":
        write_phantom_folder(folder, look, seed=seed, sequences=sequences, frames_each=each, size=size)
        return folder
    rows = ["image,group"]
    for i, frame in enumerate(phantom_set(look, seed=seed, sequences=sequences, frames_each=each, size=size)):
        assert frame.truth is not None
        assert frame.truth.label is not None
        kind = KINDS[frame.truth.label]
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame.pixels).save(folder / kind / f"{i:04}.png")
        rows.append(f"{kind}/{i:04}.png,{frame.group}")
    (folder / "groups.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return found(tmp_path_factory.mktemp("segmentation"), "segmentation")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Two tasks on one extractor."""
    return found(tmp_path_factory.mktemp("together"), "detection", "segmentation")


@pytest.fixture(scope="module")
def classification(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return found(tmp_path_factory.mktemp("classification"), "classification")


def found(work: Path, *tasks: str) -> Package:
    """A founding package, really trained."""
    images = frames(work / "ours", HOSPITAL_A, tasks[0], seed=1, sequences=15, each=2)
    folder, *others = (open_labelled(images, task=Task(task)) for task in tasks)
    assert folder.task == tasks[0]
    further = [(other, other.items) for other in others]
    founded = found_package(folder, folder.items, work / "P0", settings=TINY, further=further, replay_versions=0)
    assert not founded.skipped
    assert founded.package.manifest.tasks == tasks
    return founded.package


@pytest.mark.parametrize("task", ["segmentation", "together", "classification"])
def test_the_loop_from_founding_to_the_package_on_the_device(
    task: str, tmp_path: Path, group: Children, request: pytest.FixtureRequest
) -> None:
    """Found, serve, enroll, provide, train, judge, promote, take over: both ends then have the same package."""
    founding: Package = request.getfixturevalue(task)
    tasks = founding.manifest.tasks
    theirs = frames(tmp_path / "theirs", HOSPITAL_B, task, seed=2, sequences=FRAMES // 3, each=3)
    data, state = str(tmp_path / "learner"), str(tmp_path / "device")
    url = group.serve("learner", "serve", "--data", data, "--package", str(founding.path), "--port", "0")
    code = group.run("learner", "invite", "--site", "hospital-b", "--data", data)["code"]
    group.run("device", "enroll", "--learner", url, "--code", code, "--state", state)

    done = group.run(
        "device", "process", str(theirs), "--package", str(founding.path), "--learner", url, "--review", "masks",
        "--state", state, "--policy", unreported(tmp_path),
    )  # fmt: skip
    records = done["outbox"]["delivered"]
    assert done["frames"] == FRAMES
    # Two rows of a frame may be those of another of its examination where a network has learned little, and a class's
    # few bits are so more often: said, not lost.
    assert records + done["repeats"] == FRAMES * len(tasks), done
    assert done["repeats"] < FRAMES // (3 if task == "classification" else 10)
    assert done["sent_bytes"] / records <= max(RECORD_BYTES[t] for t in tasks)
    assert group.run("learner", "status", "--data", data)["records"]["hospital-b"] == records

    trained = group.run("learner", "train", "--data", data, "--epochs", "1", accept=(0, GateError.exit_code))
    assert trained["unreadable"] == 0
    assert trained["interpolation"] in SHARES
    if task == "segmentation":
        options = ("--epochs", "0.2", "--interpolation", "0.4")
        fixed = group.run("learner", "train", "--data", data, *options, accept=(0, GateError.exit_code))
        assert fixed["interpolation"] == 0.4
        assert judged(fixed) < judged(trained), "without a cross-validation only what is held back is judged"
    assert trained["parent"] == founding.digest.hex()
    assert trained["records"]["hospital-b"] + sum(s["frames"] for s in trained["gate"]["sites"]) > FRAMES
    assert {site["task"] for site in trained["gate"]["sites"]} == set(tasks)
    if len(tasks) == 1:
        assert bool(trained["gate"]["reasons"]) is not trained["gate"]["passed"]
    candidate = load_package(Path(trained["path"]))
    assert candidate.extractor_digest == founding.extractor_digest
    assert candidate.manifest.tasks == tasks

    live = group.run("package", "promote", promotable(trained, data, tmp_path), "--data", data)["live"]
    taken = group.run("device", "update", "--package", str(founding.path), "--state", state)
    assert taken["updated"] is True
    assert taken["digest"] == live != founding.digest.hex()
    current = DeviceState(Path(state)).current_package()
    assert current is not None
    assert current.digest.hex() == live
    assert group.run("device", "status", "--state", state)["package"] == live


def judged(trained: dict[str, Any]) -> int:
    """Frames that the gate compared."""
    return sum(site["frames"] for site in trained["gate"]["sites"])


def promotable(trained: dict[str, Any], data: str, work: Path) -> str:
    """The candidate where the gate let it pass; else one beside it that nobody has judged: a resealed copy."""
    if trained["gate"]["passed"]:
        return str(trained["candidate"])
    from dataclasses import replace

    from featureloop.model.package import seal_package

    shutil.copytree(trained["path"], work / "copy")
    copy = load_package(work / "copy")
    resealed = seal_package(work / "copy", replace(copy.manifest, version="1.99", reports={}, files={}))
    opened = open_learner(Path(data))
    added = opened.registry.add(resealed, metrics={}, state="candidate")
    opened.control.close()
    return added.digest.hex()


def test_killed_devices_and_a_killed_learner_lose_and_double_nothing(
    segmentation: Package, tmp_path: Path, group: Children
) -> None:
    """SIGKILL at three random moments of the device's run and once at the learner: every record exactly once."""
    package = segmentation
    images = frames(tmp_path / "frames", HOSPITAL_B, "segmentation", seed=3, sequences=30, each=2)
    data, state, n = tmp_path / "learner", tmp_path / "device", 60
    serve = ("learner", "serve", "--data", str(data), "--port", str(free_port()))
    url = group.serve(*serve, "--package", str(package.path))
    code = group.run("learner", "invite", "--site", "killed", "--data", str(data))["code"]
    group.run("device", "enroll", "--learner", url, "--code", code, "--state", str(state))
    process = (
        "device", "process", str(images), "--package", str(package.path), "--learner", url, "--review", "masks",
        "--state", str(state), "--policy", unreported(tmp_path),
    )  # fmt: skip
    rng = random.Random(time.time_ns())  # noqa: S311 - moments, not secrets
    killed = 0
    for low in (0, 20, 40):
        killed += kill_after(process, state, frames=low + rng.randrange(2, 18), pause_s=rng.uniform(0, 0.02))
        if low == 20:
            group.kill_servers()
            group.serve(*serve)
    assert killed == 3
    # A minute later, what a killed process had leased waits again.
    with Outbox(DeviceState(state).outbox, clock=lambda: time.time() + 61) as outbox:
        outbox.reap()
    final = group.run(*process)
    assert final["frames"] + final["already_processed"] == n
    assert final["already_processed"] > 40
    with Outbox(DeviceState(state).outbox) as outbox:
        repeats = outbox.repeats()
        assert repeats < n // 10
        assert {s: k for s, k in outbox.counts().items() if k} == {State.DELIVERED: n - repeats}
        delivered = {e.id for e in outbox.rows(limit=10 * n)}
    group.end()
    learner = open_learner(data)
    learner.ingest.drain()
    held = Counter(r.id for batch in learner.store.records(extractor=None) for r in batch if r.site == "killed")
    learner.control.close()
    assert held == Counter(delivered)
    assert len(held) == n - repeats


def kill_after(process: tuple[str, ...], state: Path, *, frames: int, pause_s: float) -> bool:
    """Start a device, and kill it once so many frames are in its outbox; whether it was still running then."""
    command = [sys.executable, "-m", "featureloop", *process]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as device:
        end = time.monotonic() + 60
        while device.poll() is None and put_so_far(state) < frames:
            assert time.monotonic() < end, "the device makes no progress"
            time.sleep(0.002)
        time.sleep(pause_s)
        running = device.poll() is None
        device.kill()
        return running


def put_so_far(state: Path) -> int:
    if not DeviceState(state).outbox.exists():
        return 0
    with Outbox(DeviceState(state).outbox) as outbox:
        return sum(outbox.counts().values())


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
