"""A source that goes on whether or not anybody keeps up: a capture device, a stream, or a video at its own rate.

A thread reads it; whoever asks gets the newest frame, and what nobody took in time is dropped and counted. A source
that breaks is opened again after growing pauses, until it is stopped.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Skipped
from featureloop.images.stream import Address, Picture, read_pictures

PAUSES_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Before each further try to open a source that broke; the last one stays."""
STEADY_S: Final = 10.0
"""A source that ran for so long is well again: the next break is told, and the pauses begin anew."""
_BEHIND_S: Final = 0.5
"""A video that is further behind its own time goes on from here, instead of rushing after it."""
_ARRIVALS: Final = 64

Read = Callable[[Address], Iterator[Picture]]


@dataclass(frozen=True, slots=True)
class LiveCounts:
    """What came of a live source.

    Attributes
    ----------
    read, taken, dropped
        Frames that came, that were taken, and that a newer one replaced before anybody took them.
    broke
        How often the source broke.
    trouble
        Why nothing comes at the moment; None while all is well.
    """

    read: int = 0
    taken: int = 0
    dropped: int = 0
    broke: int = 0
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class _Waiting:
    """The newest picture: where it is from, and when it came."""

    picture: Picture
    name: str
    group: str
    index: int
    at: float


class LiveSource:
    """The newest frames of something that doesn't wait; iterated once, by one consumer.

    A video's frames are grouped and named as when it is read as a file, so that what left of one doesn't leave again.
    Those of anything else are grouped by the time that it began at, or began again at after a break.

    Parameters
    ----------
    address
        See `images.stream.address_of`.
    loop
        Whether a video begins again at its end.
    tell
        Called once when the source breaks, and once when it is back.
    read
        Yields the pictures of an address until its end.
    """

    def __init__(
        self,
        address: Address,
        *,
        loop: bool = False,
        tell: Callable[[str], None] = lambda _text: None,
        read: Read = read_pictures,
        pauses_s: tuple[float, ...] = PAUSES_S,
    ) -> None:
        self.name = address.name
        self._address, self._loop, self._tell, self._read, self._pauses = address, loop, tell, read, pauses_s
        self._news = threading.Condition()
        self._waiting: _Waiting | None = None
        self._ended = False
        self._stop = threading.Event()
        self._counts = LiveCounts()
        self._arrivals: deque[tuple[str, int, float]] = deque(maxlen=_ARRIVALS)
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    @property
    def counts(self) -> LiveCounts:
        """What came of it so far."""
        return self._counts

    def arrived_at(self, frame: Frame) -> float | None:
        """When one of the last frames came, by `time.monotonic`; None where it isn't one of those."""
        for name, index, at in reversed(self._arrivals.copy()):
            if (name, index) == (frame.name, frame.index):
                return at
        return None

    def stop(self) -> None:
        """End the iteration and the reading."""
        self._stop.set()
        self._end()

    def __iter__(self) -> Iterator[Frame | Skipped]:
        self._thread.start()
        try:
            while (newest := self._take()) is not None:
                try:
                    pixels = newest.picture.pixels()
                except InputError as error:
                    yield Skipped(newest.name, str(error))
                    continue
                self._arrivals.append((newest.name, newest.index, newest.at))
                yield Frame(pixels, name=newest.name, index=newest.index, group=newest.group)
        finally:
            self.stop()

    def _take(self) -> _Waiting | None:
        with self._news:
            self._news.wait_for(lambda: self._waiting is not None or self._ended)
            newest, self._waiting = self._waiting, None
            if newest:
                self._counts = replace(self._counts, taken=self._counts.taken + 1)
            return newest

    def _end(self) -> None:
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _run(self) -> None:
        try:
            self._play_again_and_again()
        finally:
            self._end()

    def _play_again_and_again(self) -> None:
        failures, told = 0, False
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._play()
                if not (self._loop and self._address.is_file):
                    break
                failures, told = 0, False
            except InputError as error:
                if time.monotonic() - began >= STEADY_S:
                    failures, told = 0, False
                with self._news:
                    self._counts = replace(self._counts, broke=self._counts.broke + 1, trouble=str(error))
                if not told:
                    self._tell(f"{self.name}: {error}; it is tried again until it comes back")
                    told = True
                self._stop.wait(self._pauses[min(failures, len(self._pauses) - 1)])
                failures += 1

    def _play(self) -> None:
        """Keep the newest picture until the end of the source.

        Raises
        ------
        InputError
            The source broke.
        """
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
        name = self.name if self._address.is_file else f"{self.name} {stamp}"
        start, index = time.monotonic(), -1
        for index, picture in enumerate(self._read(self._address)):
            if self._address.is_file:
                start = self._keep_time(start, picture.at_s)
            if self._stop.is_set():
                return
            self._put(_Waiting(picture, name, name, index, time.monotonic()))
        if index < 0:
            raise InputError("it holds no frame that can be decoded")
        if not self._address.is_file:
            raise InputError("it ended")

    def _keep_time(self, start: float, at_s: float) -> float:
        """Wait until a video's picture is due; the moment that its time counts from."""
        ahead = start + at_s - time.monotonic()
        if ahead > 0:
            self._stop.wait(ahead)
        return start - ahead if ahead < -_BEHIND_S else start

    def _put(self, newest: _Waiting) -> None:
        with self._news:
            known, lost = self._counts, self._waiting is not None
            self._waiting = newest
            self._counts = replace(known, read=known.read + 1, dropped=known.dropped + lost, trouble=None)
            self._news.notify_all()
        if known.trouble:
            self._tell(f"{self.name} is back")
