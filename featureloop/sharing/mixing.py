"""Frames that wait until enough others, of different groups, share a record with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")
MOST = 1024
"""So many wait at most; beyond it, the oldest of the group that waits with most is forgotten."""


class Mixer(Generic[T]):
    """What waits for a mixed record, in memory; a name that comes again takes its own place.

    Parameters
    ----------
    count
        How many share a record, each of another group.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting: dict[Hashable, tuple[Hashable, T]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, name: Hashable, item: T, *, group: Hashable) -> Mapping[Hashable, T]:
        """Add what waits, and return by name those that can leave together now, else nothing; they wait until `drop`.

        They are the oldest of the groups that wait with most.
        """
        self._waiting.pop(name, None)
        self._waiting[name] = (group, item)
        sizes = Counter(group for group, _ in self._waiting.values())
        if len(sizes) < self._count:
            if len(self._waiting) > MOST:
                self.drop([self._oldest(max(sizes, key=sizes.__getitem__))])
            return {}
        # Sorting keeps the order in which groups came, where they wait with as many.
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[: self._count]
        return {name: self._waiting[name][1] for name in map(self._oldest, largest)}

    def drop(self, names: Iterable[Hashable]) -> None:
        """These wait no more."""
        for name in names:
            self._waiting.pop(name, None)

    def _oldest(self, group: Hashable) -> Hashable:
        return next(name for name, (own, _) in self._waiting.items() if own == group)
