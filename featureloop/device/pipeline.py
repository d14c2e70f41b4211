"""The device's side of the loop, on one page.

decode -> extract and recognize, as many frames at once as there are cores ->
show; and behind a bounded queue, on its own thread: reliability -> change ->
anonymize -> compress -> outbox. Whatever happens to the sharing, recognition
and display go on.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal

from featureloop.core.ahead import work_ahead
from featureloop.core.errors import FeatureloopError, InputError, StorageError
from featureloop.core.types import Float32, Frame, Recognition, Skipped
from featureloop.device.neighbours import Recognized, Surrounded, Window
from featureloop.device.provide import Provider
from featureloop.model.runtime import Runtime
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.views import recognized

AHEAD = 4
SHARE_BEHIND = 32


@dataclass(slots=True)
class Summary:
    """What a run did; written by the pipeline only.

    Attributes
    ----------
    frames
        Frames recognized.
    already
        Frames that an earlier run had finished with.
    skipped
        Files or frames that could not be read or recognized, with the reason.
    outcomes
        Count of results, one a frame and task, by outcome of the sharing (see `sharing.change.Decision`).
    doubtful
        Results below the reliability threshold.
    waiting
        Of the results that are to leave, those that still wait in memory for others of other groups to share a
        record with; they are not marked as done, so a later run provides them.
    payload_bytes
        Bytes of coded features and results put into the outbox.
    faults
        Frames with a result that could not be shared, with the reason.
    dropped
        Results that came while the sharing was too far behind to take
        them; they are not marked as done, so a later run provides them.
    switched_off
        Results that came while the site's sharing was switched off; they are not marked as done either.
    """

    frames: int = 0
    already: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    doubtful: int = 0
    waiting: int = 0
    payload_bytes: int = 0
    faults: list[tuple[str, FeatureloopError]] = field(default_factory=list)
    dropped: int = 0
    switched_off: int = 0


Show = Callable[[Frame, Recognition], None]
WhenFull = Literal["wait", "drop"]
WhenDone = Literal["skip", "show"]


def run_pipeline(
    source: Iterable[Frame | Skipped],
    *,
    runtime: Runtime,
    provider: Provider | None = None,
    is_done: Callable[[bytes], bool] = lambda _key: False,
    show: Show = lambda _frame, _recognition: None,
    when_full: WhenFull = "wait",
    when_done: WhenDone = "skip",
    may_share: Callable[[], bool] = lambda: True,
    ahead: int = AHEAD,
    summary: Summary | None = None,
) -> Summary:
    """Process every frame of a source, and return when all is recognized and in the outbox.

    Parameters
    ----------
    provider
        None: recognize only, nothing is shared.
    is_done
        Whether an earlier run had finished with the frame of this key.
    show
        Called with every recognition, as soon as it exists.
    when_full
        What a frame does when `SHARE_BEHIND` others wait for the sharing: it
        waits (a batch that must lose nothing), or is dropped from the sharing
        (live, where recognition never waits).
    when_done
        What becomes of a frame that an earlier run had finished with: it is passed over, or shown (live), and not
        provided again.
    may_share
        Whether the site's sharing is switched on; asked before every result that would be provided.
    ahead
        Frames that may wait beside those in work: what a live picture is late by.
    summary
        What the run writes to while it goes on; a new one where None.
    """
    summary = Summary() if summary is None else summary
    sharing = _Sharing(provider, summary, when_full=when_full, may_share=may_share) if provider else None

    def work(item: Frame | Skipped) -> Skipped | list[Recognized]:
        if isinstance(item, Skipped):
            return item
        keys = _to_do(provider, item, is_done) if provider else (None,) * len(runtime.heads)
        if provider and not any(keys) and when_done == "skip":
            return []
        try:
            features = runtime.extract(item.pixels)  # extract, once for all tasks
            return [_recognize(item, features, head, key) for head, key in zip(runtime.heads, keys, strict=True)]
        except InputError as error:
            return Skipped(item.name, str(error))

    try:
        with closing(work_ahead(source, work, at_once=runtime.at_once, ahead=ahead)) as results:  # decode
            for done in results:
                if isinstance(done, Skipped):
                    summary.skipped.append(done)
                    continue
                summary.frames += bool(done)
                summary.already += not done
                for result in done:
                    show(result.frame, result.recognition)  # show
                    if sharing and result.key:
                        sharing.put(result)  # share
    finally:
        if sharing:
            sharing.close()
    return summary


def _recognize(frame: Frame, features: Float32, head: Runtime, key: bytes | None) -> Recognized:
    vectors = release_vectors(features, head.package.manifest.released)
    return Recognized(frame, vectors, recognized(head, frame.pixels, vectors), key)


def _to_do(provider: Provider, frame: Frame, is_done: Callable[[bytes], bool]) -> tuple[bytes | None, ...]:
    """The keys to provide a frame's results by, one a task; None where an earlier run did.

    Where the outbox can't say, it is recognized (again).
    """
    keys = provider.keys_of(frame)
    try:
        return tuple(None if is_done(key) else key for key in keys)
    except StorageError:
        return keys


class _Sharing:
    """The sharing thread: reliability, change, anonymization, compression, outbox."""

    def __init__(
        self, provider: Provider, summary: Summary, *, when_full: WhenFull, may_share: Callable[[], bool]
    ) -> None:
        self._may_share = may_share
        self._provider = provider
        self._summary = summary
        self._when_full = when_full
        share = provider.policy.share
        self._window = Window(share.consensus_frames if "consensus" in share.steps else 0)
        self._queue: queue.Queue[Recognized | None] = queue.Queue(SHARE_BEHIND)
        self._broken: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="sharing", daemon=True)
        self._thread.start()

    def put(self, item: Recognized) -> None:
        try:
            self._queue.put(item, block=self._when_full == "wait")
        except queue.Full:
            self._summary.dropped += 1

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._broken:
            raise self._broken

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            for ready in self._window.put(item):
                self._provide(ready)
        for ready in self._window.flush():
            self._provide(ready)
        self._summary.waiting = self._provider.waiting

    def _provide(self, ready: Surrounded) -> None:
        item = ready.result
        if not self._may_share():
            self._summary.switched_off += 1
            return
        try:
            decision, size = self._provider.provide(
                item.frame, item.vectors, item.recognition, key=item.key, around=ready.around
            )
        except FeatureloopError as error:
            self._summary.faults.append((item.frame.name, error))
            return
        except Exception as error:  # noqa: BLE001 - recognition goes on; raised again when the run ends
            self._broken = self._broken or error
            return
        counts = self._summary.outcomes
        counts[decision.outcome] = counts.get(decision.outcome, 0) + 1
        self._summary.doubtful += decision.doubtful
        self._summary.payload_bytes += size
