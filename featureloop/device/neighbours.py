"""Neighbouring frames: a result waits on the sharing thread until those that follow its frame are recognized."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from featureloop.core.types import Float32, Frame, Recognition, Task


@dataclass(frozen=True, slots=True, eq=False)
class Recognized:
    """What one task's recognizer found in a frame.

    Attributes
    ----------
    frame, vectors, recognition
        The frame, what is released of it (float32 (N, C)), and the result.
    key
        To provide it by; None where that is not to be done.
    """

    frame: Frame
    vectors: Float32
    recognition: Recognition
    key: bytes | None


@dataclass(frozen=True, slots=True, eq=False)
class Surrounded:
    """A result with those of the frames around it."""

    result: Recognized
    around: tuple[Recognized, ...] = ()


class Window:
    """Results in the order of a file or group, each given out when `count` others of it followed, or it ended.

    Parameters
    ----------
    count
        Neighbours on either side; 0 gives every result out at once.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._open: dict[Task, deque[Recognized]] = {}
        self._given: dict[Task, int] = {}

    def put(self, result: Recognized) -> Iterator[Surrounded]:
        """Add a result, and give out those that have their neighbours now."""
        if not self._count:
            yield Surrounded(result)
            return
        task = result.recognition.task
        kept = self._open.setdefault(task, deque())
        if kept and _sequence(kept[-1].frame) != _sequence(result.frame):
            yield from self._end(task)
        kept.append(result)
        waiting = len(kept) - self._given.get(task, 0)
        if waiting > self._count:
            yield self._next(task)

    def flush(self) -> Iterator[Surrounded]:
        """Give out all that still wait: nothing follows."""
        for task in list(self._open):
            yield from self._end(task)

    def _end(self, task: Task) -> Iterator[Surrounded]:
        kept = self._open[task]
        while self._given.get(task, 0) < len(kept):
            yield self._next(task)
        kept.clear()
        self._given[task] = 0

    def _next(self, task: Task) -> Surrounded:
        """The oldest that waits, with its neighbours; what no other needs is forgotten."""
        kept, at = self._open[task], self._given.get(task, 0)
        result = kept[at]
        around = [r for i, r in enumerate(kept) if i != at and abs(i - at) <= self._count and self._is_near(result, r)]
        self._given[task] = at + 1
        while self._given[task] > self._count:
            kept.popleft()
            self._given[task] -= 1
        return Surrounded(result, tuple(around))

    def _is_near(self, one: Recognized, other: Recognized) -> bool:
        """Whether not too many frames between them are missing, where that is known."""
        if one.frame.name != other.frame.name:
            return True
        return abs(one.frame.index - other.frame.index) <= self._count


def _sequence(frame: Frame) -> str:
    return frame.name if frame.group is None else frame.group
