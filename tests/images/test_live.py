"""Live sources: the newest frame, a video at its own rate, and what breaks comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Skipped
from featureloop.images.live import LiveSource
from featureloop.images.stream import Address, Picture, address_of

SOON_S = 10.0
CAMERA = Address("/dev/video0", "camera")
FILE = Address("clip.mp4", "clip.mp4", is_file=True)


class _Still:
    """In the place of a decoded picture."""

    width, height, rotation = 8, 6, 0

    def __init__(self, value: int) -> None:
        self.value = value

    def to_ndarray(self, format: str) -> np.ndarray:  # type: ignore[type-arg]  # noqa: A002, ARG002 - PyAV's
        if self.value < 0:
            raise ValueError("damaged")
        return np.full((self.height, self.width, 3), self.value, np.uint8)


def pictures(*values: int, every_s: float = 0.0) -> Iterator[Picture]:
    for i, value in enumerate(values):
        yield Picture(_Still(value), i * every_s)


def frames(source: LiveSource, n: int) -> list[Frame]:
    found = []
    for item in source:
        assert isinstance(item, Frame)
        found.append(item)
        if len(found) == n:
            break
    source.stop()
    return found


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.005)


def test_whoever_is_slow_gets_the_newest_frame_and_the_others_are_counted() -> None:
    more = threading.Event()

    def read(_address: Address) -> Iterator[Picture]:
        yield from pictures(0)
        assert more.wait(SOON_S)
        yield from pictures(1, 2, 3, 4)
        threading.Event().wait(SOON_S)

    source = LiveSource(CAMERA, read=read)
    got = iter(source)
    first = next(got)
    more.set()
    until(lambda: source.counts.read == 5)
    newest = next(got)
    assert isinstance(first, Frame)
    assert isinstance(newest, Frame)
    assert (int(newest.pixels[0, 0, 0]), newest.index) == (4, 4)
    assert (source.counts.taken, source.counts.dropped) == (2, 3)
    arrived = source.arrived_at(newest)
    assert arrived is not None
    assert time.monotonic() - arrived < SOON_S
    source.stop()
    assert next(got, None) is None


def test_a_video_is_played_at_its_own_rate_and_again() -> None:
    """Each round has the same names and numbers: what left of the first doesn't leave again."""
    source = LiveSource(FILE, loop=True, read=lambda _a: pictures(*range(5), every_s=0.02))
    began = time.monotonic()
    found = frames(source, 12)
    assert time.monotonic() - began >= 2 * 4 * 0.02
    assert {(f.name, f.group) for f in found} == {("clip.mp4", "clip.mp4")}
    assert all(int(f.pixels[0, 0, 0]) == f.index < 5 for f in found)


def test_a_video_that_is_not_repeated_ends() -> None:
    source = LiveSource(FILE, read=lambda _a: pictures(*range(4), every_s=0.01))
    assert [f.index for f in source if isinstance(f, Frame)][-1] == 3


def test_a_source_that_breaks_is_opened_again_and_told_of_once() -> None:
    told, opened = list[str](), list[int]()

    def read(_address: Address) -> Iterator[Picture]:
        opened.append(1)
        if len(opened) == 1:
            yield from pictures(7)
            raise InputError("the cable is out")
        if len(opened) < 4:
            raise InputError("the cable is still out")
        yield from pictures(8)
        threading.Event().wait(SOON_S)

    source = LiveSource(CAMERA, tell=told.append, read=read, pauses_s=(0.01, 0.05))
    found = frames(source, 2)
    assert [int(f.pixels[0, 0, 0]) for f in found] == [7, 8]
    assert len({f.group for f in found}) == 2, "after a break it may be another patient"
    until(lambda: len(told) == 2)
    assert told == ["camera: the cable is out; it is tried again until it comes back", "camera is back"]
    assert (source.counts.broke, source.counts.trouble) == (3, None)


def test_a_camera_that_ends_is_broken_and_an_empty_video_too() -> None:
    for address in (CAMERA, FILE):
        source = LiveSource(address, loop=True, read=lambda _a: pictures(), pauses_s=(60.0,))
        threading.Timer(0.1, source.stop).start()
        assert list(source) == []
        assert source.counts.trouble


def test_it_can_be_stopped_while_nothing_comes() -> None:
    def silent(_address: Address) -> Iterator[Picture]:
        threading.Event().wait(SOON_S)
        yield from ()

    source = LiveSource(CAMERA, read=silent)
    threading.Timer(0.05, source.stop).start()
    began = time.monotonic()
    assert list(source) == []
    assert time.monotonic() - began < SOON_S / 2


def test_a_damaged_picture_is_skipped() -> None:
    source = LiveSource(FILE, read=lambda _a: pictures(-1))
    assert [type(item) for item in source] == [Skipped]


def test_a_real_video_is_read_by_its_times(make_video: Callable[..., Path], tmp_path: Path) -> None:
    source = LiveSource(address_of(str(make_video(tmp_path / "clip.mp4", frames=10))))
    began = time.monotonic()
    found = [f for f in source if isinstance(f, Frame)]
    assert 0.3 < time.monotonic() - began < SOON_S
    assert source.counts.read == 10
    assert found[-1].pixels.shape == (48, 64, 3)
    assert abs(int(found[-1].pixels.mean()) - (20 + 5 * found[-1].index)) < 8


@pytest.mark.parametrize(
    ("text", "name", "format_"),
    [
        ("/dev/video3", "/dev/video3", "v4l2"),
        ("rtsp://nurse:secret@tower.local:554/or-2?token=abc", "rtsp://tower.local:554/or-2", None),
        ("https://tower.local/stream", "https://tower.local/stream", None),
    ],
)
def test_addresses_that_need_not_be_there_yet(text: str, name: str, format_: str | None) -> None:
    """What is shown of them holds no password."""
    found = address_of(text)
    assert (found.where, found.name, found.format, found.is_file) == (text, name, format_, False)
    assert "secret" not in repr(found)


@pytest.mark.parametrize("text", ["ftp://a/b", "rtsp://", "no-such-file.mp4", "file:///etc/passwd", ""])
def test_what_is_no_live_source_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        address_of(text)


def test_a_stream_that_can_not_be_reached_is_tried_again() -> None:
    told = list[str]()
    source = LiveSource(address_of("http://127.0.0.1:9/none"), tell=told.append, pauses_s=(0.01,))
    threading.Timer(0.3, source.stop).start()
    assert list(source) == []
    assert source.counts.broke >= 1
    assert len(told) == 1
