"""The newest recognized frame, for whoever looks: the recognition hands it over, and never waits for a page."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from featureloop.core.types import Frame, Recognition, Task
from featureloop.model.manifest import Manifest
from featureloop.model.package import Package

RATE_S = 3.0
"""The frame rate is that of the last seconds."""


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What one task's recognizer found, with what it takes to show it.

    Attributes
    ----------
    manifest
        As if the package had this one task.
    threshold
        Below this reliability the result is doubtful.
    """

    recognition: Recognition
    manifest: Manifest
    threshold: float


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A frame with the results of all tasks.

    Attributes
    ----------
    number
        Counts the frames that were shown, from 1.
    at, came_at
        When it was recognized, and when it came from its source, by `time.monotonic`; None where that isn't known.
    """

    number: int
    frame: Frame
    results: tuple[Result, ...]
    at: float
    came_at: float | None


@dataclass(slots=True)
class LiveFeed:
    """Holds the newest frame alone; one run of the recognition shows frames, any number of viewers wait for them.

    Attributes
    ----------
    clock
        As `time.monotonic`.
    """

    clock: Callable[[], float] = time.monotonic
    _news: threading.Condition = field(default_factory=threading.Condition, init=False, repr=False)
    _newest: Shown | None = field(default=None, init=False)
    _times: deque[float] = field(default_factory=lambda: deque(maxlen=512), init=False, repr=False)

    def showing(
        self,
        package: Package,
        *,
        threshold: Callable[[Package], float],
        came_at: Callable[[Frame], float | None] = lambda _frame: None,
    ) -> Callable[[Frame, Recognition], None]:
        """What a run of this package calls with every recognition (`pipeline.Show`); it only keeps references.

        Parameters
        ----------
        threshold
            Of a view of one task, the reliability below which its results are doubtful.
        came_at
            When a frame came from its source, by `clock`.
        """
        views = {Task(view.manifest.task): (view.manifest, threshold(view)) for view in package.views}
        found: list[Result] = []

        def show(frame: Frame, recognition: Recognition) -> None:
            found.append(Result(recognition, *views[recognition.task]))
            if len(found) == len(views):  # A frame's tasks come one after the other.
                self._put(frame, tuple(found), came_at(frame))
                found.clear()

        return show

    def wait(self, *, after: int, seconds: float) -> Shown | None:
        """The newest frame, as soon as it is of a higher number than `after`; None where none comes in time."""
        with self._news:
            self._news.wait_for(lambda: self._newest is not None and self._newest.number > after, seconds)
            newest = self._newest
        return newest if newest is not None and newest.number > after else None

    @property
    def rate(self) -> float:
        """Recognized frames per second, of the last seconds."""
        since = self.clock() - RATE_S
        times = [t for t in self._times.copy() if t >= since]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0

    def _put(self, frame: Frame, results: tuple[Result, ...], came_at: float | None) -> None:
        now = self.clock()
        with self._news:
            number = 1 if self._newest is None else self._newest.number + 1
            self._newest = Shown(number, frame, results, now, came_at)
            self._times.append(now)
            self._news.notify_all()
