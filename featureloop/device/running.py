"""What the threads of a running device share: the package in use, what is shown, and what is shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from featureloop.core.types import Frame
from featureloop.device.feed import LiveFeed
from featureloop.device.live_thread import LiveThread
from featureloop.device.outbox import Outbox
from featureloop.device.pages.live import Live
from featureloop.device.pipeline import Show
from featureloop.device.provide import effective_threshold
from featureloop.device.review.queue import ReviewQueue
from featureloop.device.sharing_now import Sharing, Tally
from featureloop.device.switch import SharingSwitch
from featureloop.device.update_thread import Setup
from featureloop.device.uplink_thread import UplinkThread
from featureloop.images.live import LiveSource
from featureloop.sharing.policy import Policy


def _unknown(_frame: Frame) -> None:
    """A file's frame came at no moment that a clinician waits for."""


@dataclass(slots=True)
class Desk:
    """The parts that several threads of a device look at; the main one alone changes `setup` and `sender`.

    Attributes
    ----------
    queue
        Where doubtful results wait for a person; None where no pages are served.
    setup
        The package in use, with what provides its results.
    switch, feed, tally
        Whether sharing is on, the newest frame, and what the sharing made of results.
    sender
        What sends; None before it does.
    """

    queue: ReviewQueue | None
    setup: Setup
    switch: SharingSwitch
    feed: LiveFeed = field(default_factory=LiveFeed)
    tally: Tally = field(default_factory=Tally)
    sender: UplinkThread | None = None

    def show(self, setup: Setup, policy: Policy, *, came_at: Callable[[Frame], float | None] = _unknown) -> Show:
        """What hands every result of a package to the live page."""
        return self.feed.showing(
            setup.package, threshold=lambda view: effective_threshold(view, policy), came_at=came_at
        )

    def live(self, source: LiveSource | None, *, outbox: Outbox, policy: Policy) -> Live:
        """What the live page shows."""
        sharing = Sharing(
            switch=self.switch,
            tally=self.tally,
            outbox=outbox,
            uplink=lambda: self.sender.status if self.sender else None,
            forbidden=lambda: self.setup.forbidden,
            budget=policy.limits.bytes_per_day or None,
        )
        return Live(self.feed, sharing, source=lambda: (source.name, source.counts) if source else None)


@contextmanager
def playing(
    source: LiveSource | None, desk: Desk, *, outbox: Outbox, policy: Policy, tell: Callable[[str], None]
) -> Iterator[None]:
    """Recognize a live source beside all else, where there is one."""
    if source is None:
        yield
        return
    thread = LiveThread(
        source,
        using=lambda: desk.setup,
        showing=lambda setup: desk.show(setup, policy, came_at=source.arrived_at),
        is_done=outbox.done,
        may_share=desk.switch.is_on,
        tally=desk.tally,
        tell=tell,
    )
    thread.start()
    try:
        yield
    finally:
        thread.stop()
