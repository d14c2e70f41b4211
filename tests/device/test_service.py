"""The long-lived device: recognition waits for nothing, and a new package comes between two frames."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from PIL import Image

from featureloop.core.errors import StorageError, TransportError
from featureloop.core.types import Frame, Skipped
from featureloop.device import service as services
from featureloop.device.outbox import Outbox, State
from featureloop.device.pipeline import SHARE_BEHIND, run_pipeline
from featureloop.device.provide import Provider
from featureloop.device.service import DeviceService, Setup, UpdateThread
from featureloop.device.state import DeviceState, Identity
from featureloop.model.package import Package
from featureloop.model.runtime import Runtime
from featureloop.sharing.policy import Policy, Share
from featureloop.sharing.privacy import Privacy
from featureloop.sharing.record import Record
from featureloop.testing import tiny_package

ALL = Policy(Share(threshold=0.0), privacy=Privacy(report="optional"))
SOON_S = 20.0


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return tiny_package(tmp_path_factory.mktemp("service") / "package")


@pytest.fixture(scope="module")
def successor(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return tiny_package(tmp_path_factory.mktemp("service") / "successor", recognizer_seed=1)


@pytest.fixture(scope="module")
def runtime(package: Package) -> Runtime:
    return Runtime(package, threads=1)


def pixels(i: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(i).integers(0, 256, (48, 64, 3)).astype(np.uint8)


def frames(n: int) -> list[Frame]:
    return [Frame(pixels(i), f"{i}.png") for i in range(n)]


class _SlowKeeper:
    """Keeps nothing until it is let; remembers what was put."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.begun = threading.Event()
        self.keys: list[bytes | None] = []

    def put(self, _record: Record, *, frame_key: bytes | None, **_: Any) -> bool:
        self.begun.set()
        assert self.may.wait(SOON_S)
        self.keys.append(frame_key)
        return True

    def mark_done(self, frame_key: bytes, outcome: str) -> None:
        raise AssertionError(f"{outcome}: {frame_key!r}")


def provider(package: Package, keeper: _SlowKeeper) -> Provider:
    return Provider(
        site="site-a", device="tower", site_key=bytes(32), package=package, policy=ALL, keeper=keeper, reviewer=None,
        clock=time.time,
    )  # fmt: skip


def test_live_recognition_drops_what_the_sharing_has_no_room_for(package: Package, runtime: Runtime) -> None:
    """A disk that hangs costs the sharing, not the clinician: every frame is shown while it still hangs."""
    keeper, n = _SlowKeeper(), SHARE_BEHIND + 12
    shown: list[str] = []

    def source() -> Iterator[Frame]:
        first, *others = frames(n)
        yield first
        assert keeper.begun.wait(SOON_S)
        yield from others

    def show(frame: Frame, _recognition: object) -> None:
        shown.append(frame.name)
        if len(shown) == n:
            keeper.may.set()

    summary = run_pipeline(source(), runtime=runtime, provider=provider(package, keeper), show=show, when_full="drop")
    assert len(shown) == summary.frames == n
    # One is in the keeper's hands and the queue is full. The last frame is shown before it is put, so it may fit.
    assert summary.dropped in (10, 11)
    assert summary.outcomes == {"provided": n - summary.dropped}
    assert len(keeper.keys) == n - summary.dropped


def test_a_batch_waits_for_the_sharing_and_drops_nothing(package: Package, runtime: Runtime) -> None:
    keeper, n = _SlowKeeper(), SHARE_BEHIND + 12
    threading.Timer(0.3, keeper.may.set).start()
    summary = run_pipeline(frames(n), runtime=runtime, provider=provider(package, keeper))
    assert (summary.frames, summary.dropped, summary.outcomes) == (n, 0, {"provided": n})


def test_where_the_outbox_can_not_say_what_is_done_recognition_goes_on(package: Package, runtime: Runtime) -> None:
    def broken(_key: bytes) -> bool:
        raise StorageError("the disk is gone")

    keeper = _SlowKeeper()
    keeper.may.set()
    summary = run_pipeline(frames(3), runtime=runtime, provider=provider(package, keeper), is_done=broken)
    assert (summary.frames, len(keeper.keys)) == (3, 3)


def test_asking_for_updates_waits_on_its_own_thread(package: Package, successor: Package) -> None:
    """A learner that takes its time holds nobody up; what came is handed over when it is asked for."""
    may, told = threading.Event(), list[str]()
    current, newer = (Setup(Runtime(p, threads=1), None) for p in (package, successor))

    def ask() -> Setup | None:
        assert may.wait(SOON_S)
        return newer

    updates = UpdateThread(ask, every_s=60, tell=told.append)
    updates.start()
    assert not updates.ready
    assert updates.newest(current) is current
    may.set()
    until(lambda: updates.ready)
    assert updates.newest(current) is newer
    assert not updates.ready
    assert updates.newest(newer) is newer
    assert updates.stop()
    assert told == [f"package {successor.short} (version {successor.manifest.version}) taken over"]


def test_a_failed_question_is_told_and_asked_again(package: Package) -> None:
    told, answers = list[str](), [TransportError("the learner is away"), None]

    def ask() -> Setup | None:
        answer = answers.pop(0) if answers else None
        if answer:
            raise answer
        return None

    updates = UpdateThread(ask, every_s=0.01, tell=told.append)
    updates.start()
    until(lambda: not answers)
    assert updates.stop()
    assert told == ["no update: the learner is away"]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


class _Rig:
    """A service in a thread, its learner out of reach."""

    def __init__(self, tmp_path: Path, package: Package, policy: Policy = ALL) -> None:
        self.watch, self.out, self.told = tmp_path / "watch", tmp_path / "out", list[str]()
        self.watch.mkdir()
        self.state, self.stop = DeviceState(tmp_path / "state"), threading.Event()
        identity = Identity(learner="http://127.0.0.1:9", site="a", device="b", token="t", keys=(bytes(32),))  # noqa: S106
        self.service = DeviceService(
            state=self.state, identity=identity, package=package, policy=policy, outbox=Outbox(self.state.outbox),
            watch=self.watch, out=self.out, tell=self.told.append, threads=1,
        )  # fmt: skip
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.service.run(every_s=0.05, update_every_s=0.05, stop=self.stop)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(SOON_S)
        assert not self.thread.is_alive()

    def add(self, name: str, i: int) -> None:
        path = self.watch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(i)).save(path)
        os.utime(path, (time.time() - 60, time.time() - 60))

    def results(self) -> int:
        path = self.out / "results.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0


def test_new_files_are_recognized_and_wait_in_the_outbox_while_the_learner_is_away(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def away(*_: object, **__: object) -> None:
        asked.set()
        threading.Event().wait(0.2)
        raise TransportError("away")

    monkeypatch.setattr(services, "poll_update", away)
    with _Rig(tmp_path, package) as rig:
        rig.add("a/1.png", 1)
        rig.add("b/1.png", 2)
        (rig.watch / "groups.csv").write_text("image,group\n")
        (rig.watch / "bad.png").write_bytes(b"")
        os.utime(rig.watch / "bad.png", (1, 1))
        until(lambda: rig.results() == 2 and any("bad.png" in t for t in rig.told))
        rig.add("c.png", 4)
        until(lambda: rig.results() == 3)
        assert asked.wait(SOON_S)
    assert len(list(rig.out.glob("*.jpg"))) == 3, "two files of the same name in two folders are two pictures"
    with Outbox(rig.state.outbox) as outbox:
        assert outbox.counts()[State.PENDING] + outbox.counts()[State.LEASED] == 3


def test_what_the_sharing_had_no_room_for_is_shared_later_and_not_shown_again(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "poll_update", lambda *_, **__: None)
    may, put, n = threading.Event(), Outbox.put, SHARE_BEHIND + 12

    def slow(self: Outbox, record: Record, *, frame_key: bytes | None, **_: Any) -> bool:
        assert may.wait(SOON_S)
        return put(self, record, frame_key=frame_key)

    monkeypatch.setattr(Outbox, "put", slow)
    rig = _Rig(tmp_path, package)
    for i in range(n):  # all there before the first look
        rig.add(f"{i}.png", i)
    with rig:
        until(lambda: rig.results() == n)
        may.set()
        until(lambda: any("no room for before" in t for t in rig.told))
        until(lambda: sum(rig.service.outbox.counts().values()) == n)
    assert any("not shared: the sharing was too far behind" in t for t in rig.told)
    assert rig.results() == n


def test_a_new_package_is_taken_over_between_two_frames_of_one_file(
    package: Package, successor: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long video doesn't hold an update up: every frame is recognized once, the later ones by the new package."""
    offered, seen, made = threading.Event(), list[int](), list[UpdateThread]()

    class Seen(UpdateThread):
        def start(self) -> None:
            made.append(self)
            super().start()

    def poll(*_: object, current: Package, **__: object) -> Package | None:
        return successor if offered.is_set() and current.digest == package.digest else None

    def video(_found: object) -> Iterator[Frame | Skipped]:
        for i in range(60):
            if i == 20:
                offered.set()
                until(lambda: made[0].ready)
            seen.append(i)
            yield Frame(pixels(i), "video", index=i)

    monkeypatch.setattr(services, "poll_update", poll)
    monkeypatch.setattr(services, "file_frames", video)
    monkeypatch.setattr(services, "UpdateThread", Seen)
    with _Rig(tmp_path, package) as rig:
        rig.add("film.png", 1)
        until(lambda: rig.results() == 60)
    lines = (rig.out / "results.jsonl").read_text().splitlines()
    by_successor = [successor.digest.hex() in line for line in lines]
    assert by_successor == [False] * 21 + [True] * 39
    assert seen == list(range(60))
    assert any("taken over" in t for t in rig.told)


def test_a_form_that_the_policy_forbids_is_recognized_and_not_shared(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "poll_update", lambda *_, **__: None)
    with _Rig(tmp_path, package, Policy(Share(anonymizers=("pool",)))) as rig:
        rig.add("1.png", 1)
        until(lambda: rig.results() == 1)
    assert any("nothing is shared, recognition goes on" in t for t in rig.told)
    with Outbox(rig.state.outbox) as outbox:
        assert not any(outbox.counts().values())


def test_results_that_can_not_be_written_are_told_once_and_the_service_goes_on(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "poll_update", lambda *_, **__: None)
    with _Rig(tmp_path, package) as rig:
        rig.out.write_text("a file stands where the folder should be")
        rig.add("1.png", 1)
        until(lambda: any("given up" in t for t in rig.told))
        rig.out.unlink()
        rig.add("2.png", 2)
        until(lambda: rig.results() == 1)
    assert sum("given up" in t for t in rig.told) == 1
