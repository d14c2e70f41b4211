"""From answers to records: what readers said of cases goes to the provider, and the cases' images are erased.

An answer waits a moment, in which its reader can take it back. Where another package runs by now than the one that
recognized, the frame is recognized again by it first, so that the record's original is that package's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from featureloop.core.errors import FeatureloopError
from featureloop.core.types import Asked, Change, ChangedBy
from featureloop.device.provide import Provider
from featureloop.device.review.queue import ReviewQueue
from featureloop.device.update_thread import Setup
from featureloop.model.runtime import Runtime
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.change import ASKED
from featureloop.sharing.reliability import reliability
from featureloop.sharing.views import recognized

UNDO_S = 20.0
"""So long an answer can be taken back."""
EVERY_S = 0.5
EXPIRE_EVERY_S = 600.0
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Settling:
    """Settles answered cases, on a thread of its own.

    Attributes
    ----------
    queue
        The cases.
    using
        Gives what recognizes and provides at the moment.
    outcome
        What the outbox says became of a frame's key.
    tell
        Where trouble is told.
    may_share
        Whether the site's sharing is switched on: answers wait while it is off.
    undo_s
        Seconds in which an answer can be taken back.
    retention_days
        Cases that nobody answered for so long are erased.
    """

    queue: ReviewQueue
    using: Callable[[], Setup]
    outcome: Callable[[bytes], str | None]
    tell: Callable[[str], None]
    may_share: Callable[[], bool] = lambda: True
    undo_s: float = UNDO_S
    retention_days: int = 14
    _given: set[int] = field(default_factory=set, init=False, repr=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False, repr=False)

    def run(self) -> None:
        """Work until `stop`; trouble with one case is told once, and the others go on."""
        told: set[str] = set()
        rounds = 0
        while not self._stop.wait(EVERY_S):
            try:
                self.settle()
                if rounds % int(EXPIRE_EVERY_S / EVERY_S) == 0:
                    self.queue.expire(older_than_s=self.retention_days * DAY_S)
            except FeatureloopError as error:
                if str(error) not in told:
                    told.add(str(error))
                    self.tell(f"an answer waits: {error}")
            rounds += 1

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()

    def settle(self) -> int:
        """Provide what the answers say that nobody can take back any more; how many cases were settled.

        Raises
        ------
        FeatureloopError
            The first trouble; all other cases were tried.
        """
        using, settled, trouble = self.using(), 0, None
        if using.provider is None or not self.may_share():
            return 0
        for number in self.queue.take_answered(longer_ago_s=self.undo_s):
            try:
                settled += self._settle_one(number, using.provider, using.runtime)
            except FeatureloopError as error:
                trouble = trouble or error
        if trouble:
            raise trouble
        return settled

    def _settle_one(self, number: int, provider: Provider, runtime: Runtime) -> bool:
        case, answer = self.queue.case(number), self.queue.answer_of(number)
        asked = _of_package(case.asked, runtime)
        if number not in self._given:
            provider.answer(asked, None if answer.rows is None else Change(answer.rows, ChangedBy.CLINICIAN))
            self._given.add(number)
        if self.outcome(asked.key) == ASKED:
            return False  # It waits for others to share a record with, and its case stays until they are there.
        self.queue.settle(number)
        self._given.discard(number)
        return True


def _of_package(asked: Asked, runtime: Runtime) -> Asked:
    """A case as the package in use recognizes it; its frame's key stays, so that it is provided once."""
    package = runtime.package
    if asked.package in (b"", package.digest):
        return asked
    head = next(h for h in runtime.heads if h.package.manifest.task == asked.recognition.task)
    vectors = release_vectors(runtime.extract(asked.frame.pixels), head.package.manifest.released)
    found = recognized(head, asked.frame.pixels, vectors)
    return replace(
        asked,
        vectors=vectors,
        recognition=found,
        reliability=reliability(found, head.package.manifest.calibration),
        package=package.digest,
    )
