"""Sources that are worked off in sections: between two of them, something else may come first."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from featureloop.core.types import Frame, Skipped


class Pausable:
    """A source in sections: each iteration goes on where the last one ended, and ends early when asked to.

    Attributes
    ----------
    taken
        Frames so far.
    ended
        Whether the source has no more frames.
    """

    def __init__(self, source: Iterable[Frame | Skipped], *, until: Callable[[], bool]) -> None:
        self._items = iter(source)
        self._until = until
        self.taken = 0
        self.ended = False

    def __iter__(self) -> Iterator[Frame | Skipped]:
        for item in self._items:
            self.taken += 1
            yield item
            if self._until():
                return
        self.ended = True


class Backlog:
    """What the sharing had no room for, worked off while nothing new is there to be shown."""

    def __init__(self) -> None:
        self._waiting: deque[Pausable] = deque()
        self._until = 0.0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, source: Iterable[Frame | Skipped], *, stop: threading.Event) -> None:
        """Take a source; which of its frames are done already is for the outbox to say."""
        self._waiting.append(Pausable(source, until=lambda: stop.is_set() or time.monotonic() >= self._until))

    def work(self, share: Callable[[Pausable], None], *, seconds: float) -> None:
        """Share the oldest source's frames for so many seconds; the rest stays for the next time."""
        self._until = time.monotonic() + seconds
        oldest = self._waiting.popleft()
        before = oldest.taken
        share(oldest)
        if not oldest.ended and oldest.taken > before:
            self._waiting.appendleft(oldest)
