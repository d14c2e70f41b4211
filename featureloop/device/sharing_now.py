"""What is being shared at this moment, as people are told it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from featureloop.core.errors import FeatureloopError
from featureloop.core.ports import Clock
from featureloop.device.outbox import Outbox, State
from featureloop.device.pipeline import Summary
from featureloop.device.switch import SharingSwitch, Switched
from featureloop.device.uplink_thread import UplinkStatus

_DAY_S = 86_400


class Tally:
    """What the sharing made of results since the device was started, over all runs of the pipeline."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: Counter[str] = Counter()
        self._dropped = 0
        self._running: list[Summary] = []

    @contextmanager
    def counting(self) -> Iterator[Summary]:
        """A summary for one run, counted while it is written."""
        summary = Summary()
        with self._lock:
            self._running.append(summary)
        try:
            yield summary
        finally:
            with self._lock:
                # By identity: two runs that did nothing are equal.
                self._running = [s for s in self._running if s is not summary]
                self._ended.update(summary.outcomes)
                self._dropped += summary.dropped

    def outcomes(self) -> dict[str, int]:
        """How often each outcome came, the most frequent first."""
        with self._lock:
            total = Counter(self._ended)
            for summary in self._running:
                total.update(dict(summary.outcomes))
        return dict(total.most_common())

    def dropped(self) -> int:
        """Results that the sharing had no room for."""
        with self._lock:
            return self._dropped + sum(s.dropped for s in self._running)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharingNow:
    """How the sharing stands.

    Attributes
    ----------
    switch
        Whether it is switched on, and by whom.
    forbidden
        Why the site's policy lets nothing of the package in use leave; None where it does.
    outcomes, dropped
        Since the device was started: results by outcome, and those that there was no room for.
    waiting, waiting_bytes
        Records and payload bytes in the outbox that have not been delivered yet.
    today, today_bytes
        Delivered this UTC day.
    budget
        Payload bytes that may leave a day; None for no limit.
    uplink
        How sending goes; None where nothing is sent.
    trouble
        Why the outbox can't be read; None while all is well.
    """

    switch: Switched
    forbidden: str | None = None
    outcomes: dict[str, int] = field(default_factory=dict)
    dropped: int = 0
    waiting: int = 0
    waiting_bytes: int = 0
    today: int = 0
    today_bytes: int = 0
    budget: int | None = None
    uplink: UplinkStatus | None = None
    trouble: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """The sharing of a device that is running, to be looked at and switched.

    Attributes
    ----------
    switch, tally, outbox
        Its parts.
    uplink, forbidden
        Give how sending goes, and why nothing may leave; see `SharingNow`.
    budget
        Payload bytes that may leave a day; None for no limit.
    clock
        Seconds since the epoch.
    """

    switch: SharingSwitch
    tally: Tally
    outbox: Outbox
    uplink: Callable[[], UplinkStatus | None] = lambda: None
    forbidden: Callable[[], str | None] = lambda: None
    budget: int | None = None
    clock: Clock = time.time

    def now(self) -> SharingNow:
        """How the sharing stands."""
        switch, trouble = self.switch.now(), None
        waiting = waiting_bytes = today = today_bytes = 0
        try:
            counts = self.outbox.counts()
            waiting, waiting_bytes = counts[State.PENDING] + counts[State.LEASED], self.outbox.waiting_bytes()
            today, today_bytes = self.outbox.delivered(since=self.clock() // _DAY_S * _DAY_S)
        except FeatureloopError as error:
            trouble = str(error)
        return SharingNow(
            switch=switch,
            forbidden=self.forbidden(),
            outcomes=self.tally.outcomes(),
            dropped=self.tally.dropped(),
            waiting=waiting,
            waiting_bytes=waiting_bytes,
            today=today,
            today_bytes=today_bytes,
            budget=self.budget,
            uplink=self.uplink(),
            trouble=trouble,
        )
