"""A live source beside the device: shown always, provided once, and not at all while the sharing is off."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from featureloop.core.types import Frame, Recognition
from featureloop.device.feed import LiveFeed
from featureloop.device.live_thread import LiveThread
from featureloop.device.outbox import Outbox
from featureloop.device.provide import Provider
from featureloop.device.sharing_now import Sharing, Tally
from featureloop.device.switch import SharingSwitch
from featureloop.device.update_thread import Setup
from featureloop.images.live import LiveSource
from featureloop.images.stream import Address, Picture
from featureloop.model.package import Package
from featureloop.model.runtime import Runtime
from featureloop.sharing.policy import Policy, Share
from featureloop.sharing.privacy import Privacy
from featureloop.testing import tiny_package, tiny_package_of

SOON_S = 20.0
ALL = Policy(Share(threshold=0.0), privacy=Privacy(report="optional"))


class _Still:
    width, height, rotation = 64, 48, 0

    def __init__(self, i: int) -> None:
        self.pixels = np.random.default_rng(i).integers(0, 256, (48, 64, 3)).astype(np.uint8)

    def to_ndarray(self, format: str) -> np.ndarray:  # type: ignore[type-arg]  # noqa: A002, ARG002 - PyAV's
        return self.pixels


def clip(_address: Address) -> Iterator[Picture]:
    for i in range(5):
        yield Picture(_Still(i), 0.02 * i)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return tiny_package(tmp_path_factory.mktemp("live") / "package")


@pytest.fixture(scope="module")
def successor(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return tiny_package(tmp_path_factory.mktemp("live") / "successor", recognizer_seed=1)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


class _Rig:
    """A device's live source without the rest of the device."""

    def __init__(self, folder: Path, package: Package) -> None:
        self.outbox, self.switch, self.tally = Outbox(folder / "outbox.sqlite"), SharingSwitch(folder), Tally()
        self.feed, self.told = LiveFeed(), list[str]()
        self.shown: list[tuple[str, int]] = []
        self.setup = self.of(package)
        source = LiveSource(Address("clip", "clip", is_file=True), loop=True, read=clip)
        self.thread = LiveThread(
            source, using=lambda: self.setup, showing=self.showing, is_done=self.outbox.done,
            may_share=self.switch.is_on, tally=self.tally, tell=self.told.append,
        )  # fmt: skip

    def of(self, package: Package) -> Setup:
        provider = Provider(
            site="site-a", device="tower", site_key=bytes(32), package=package, policy=ALL, keeper=self.outbox,
            reviewer=None, clock=time.time,
        )  # fmt: skip
        return Setup(Runtime(package, threads=1), provider)

    def showing(self, setup: Setup) -> Callable[[Frame, Recognition], None]:
        on_page = self.feed.showing(setup.package, threshold=lambda _view: 0.5)

        def show(frame: Frame, recognition: Recognition) -> None:
            self.shown.append((setup.package.short, frame.index))
            on_page(frame, recognition)

        return show

    def records(self) -> int:
        return sum(self.outbox.counts().values())


@pytest.fixture
def rig(tmp_path: Path, package: Package) -> Iterator[_Rig]:
    made = _Rig(tmp_path, package)
    yield made
    assert made.thread.stop()
    made.outbox.close()


def test_a_repeated_video_is_shown_again_and_provided_once(rig: _Rig) -> None:
    rig.thread.start()
    until(lambda: len(rig.shown) >= 25 and rig.records() == 5)
    assert rig.records() == 5
    newest = rig.feed.wait(after=0, seconds=SOON_S)
    assert newest is not None
    assert newest.number >= 20


def test_switched_off_it_is_shown_and_nothing_is_provided_until_it_comes_again(rig: _Rig) -> None:
    rig.switch.turn(on=False, by="anna")
    rig.thread.start()
    until(lambda: len(rig.shown) >= 12)
    assert rig.records() == 0
    assert rig.tally.outcomes() == {}
    now = Sharing(switch=rig.switch, tally=rig.tally, outbox=rig.outbox).now()
    assert (now.switch.on, now.waiting) == (False, 0)
    rig.switch.turn(on=True, by="otto")
    until(lambda: rig.records() == 5)
    assert rig.tally.outcomes() == {"provided": 5}


def test_a_new_package_is_taken_over_while_it_goes_on(rig: _Rig, successor: Package) -> None:
    rig.thread.start()
    until(lambda: len(rig.shown) >= 3)
    rig.setup = rig.of(successor)
    until(lambda: any(name == successor.short for name, _ in rig.shown))
    names = [name for name, _ in rig.shown]
    assert names == sorted(names, key=lambda name: name == successor.short), "no frame goes back to the old one"


def test_the_feed_waits_for_nobody_and_keeps_the_newest(package: Package) -> None:
    feed, recognition = LiveFeed(), Recognition("segmentation", np.zeros((16, 16), np.float32))  # type: ignore[arg-type]
    show = feed.showing(package, threshold=lambda _view: 0.7)
    assert feed.wait(after=0, seconds=0.01) is None
    for i in range(1000):
        show(Frame(np.zeros((8, 8, 3), np.uint8), "clip", index=i), recognition)
    newest = feed.wait(after=3, seconds=0.0)
    assert newest is not None
    assert (newest.number, newest.frame.index, newest.results[0].threshold) == (1000, 999, 0.7)
    assert feed.wait(after=1000, seconds=0.01) is None
    threading.Timer(0.05, lambda: show(newest.frame, recognition)).start()
    later = feed.wait(after=1000, seconds=SOON_S)
    assert later is not None
    assert later.number == 1001


def test_the_tasks_of_a_frame_are_shown_together(tmp_path: Path) -> None:
    package = tiny_package_of(tmp_path / "package", "segmentation", "classification")
    feed, runtime = LiveFeed(), Runtime(package, threads=1)
    show = feed.showing(package, threshold=lambda view: 0.1 if view.manifest.task == "segmentation" else 0.2)
    frame = Frame(_Still(1).pixels, "a")
    vectors = runtime.extract(frame.pixels)
    from featureloop.sharing.anonymize import release_vectors

    for head in runtime.heads:
        show(frame, head.recognize(release_vectors(vectors, head.package.manifest.released)))
    newest = feed.wait(after=0, seconds=0.0)
    assert newest is not None
    assert [(str(r.recognition.task), r.threshold) for r in newest.results] == [
        ("segmentation", 0.1),
        ("classification", 0.2),
    ]
    assert newest.number == 1
