"""The uplink: sends what the outbox holds, and loses nothing.

Whatever fails, the records stay in the outbox: released at once where the
failure is seen, and by the end of their lease where the process dies.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from featureloop.core.errors import (
    BodyTooLargeError,
    FeatureloopError,
    MediaTypeRefusedError,
    RecordError,
    RetryLaterError,
    TransportError,
)
from featureloop.core.ports import Clock, Receipt, Sleep, Wire
from featureloop.device.outbox import Outbox, State
from featureloop.sharing.record import Record, to_wire

LOOK_S = 0.5
"""Seconds between two looks at records that another process has leased."""
MAX_SUSPECTS = 8
"""So many records refused one by one, with none taken, end the search for the one at fault."""


@dataclass(frozen=True, slots=True)
class Retry:
    """When to try again.

    Attributes
    ----------
    base_s
        Longest wait after the first failure, in seconds; it doubles with each further one.
    cap_s
        Longest wait of all, in seconds.
    attempts
        Failures in a row after which `Uplink.drain` gives up. The thread never does.
    """

    base_s: float = 1.0
    cap_s: float = 300.0
    attempts: int = 6


RETRY = Retry()
"""The bounds where none are given."""
MakeBody = Callable[[Sequence[Record]], bytes]
"""From records to one body."""


def delay(retry: Retry, attempt: int, jitter: float) -> float:
    """Seconds to wait after failure number `attempt` (from 0), with full jitter.

    The wait is uniform in [0, min(cap, base * 2**attempt)], so that devices
    that failed together don't come back together (M. Brooker, "Exponential
    Backoff And Jitter", AWS Architecture Blog, 2015).

    Parameters
    ----------
    retry
        The bounds.
    attempt
        Failures in a row before this one.
    jitter
        A random number in [0, 1].
    """
    # Beyond 2**60 every cap is reached; the power of a large number would overflow.
    return jitter * min(retry.cap_s, retry.base_s * 2.0 ** min(attempt, 60))


@dataclass(frozen=True, slots=True)
class Sent:
    """What one call sent.

    Attributes
    ----------
    delivered, refused
        Records that the learner holds, and that it will never take.
    waiting
        Records that are still in the outbox: over the day's byte budget, or out of time.
    """

    delivered: int = 0
    refused: int = 0
    waiting: int = 0


@dataclass
class _Batch:
    """One leased batch on its way: what was answered, and what is still open."""

    open: dict[bytes, Record]
    held: set[bytes] = field(default_factory=set)
    refused: dict[bytes, str] = field(default_factory=dict)
    suspects: dict[bytes, str] = field(default_factory=dict)


class Uplink:
    """Sends records from an outbox over a wire.

    Parameters
    ----------
    outbox, wire
        From where, and over what.
    clock, sleep
        Seconds since the epoch; wait for some seconds.
    batch
        Records per body, at most; it halves where the learner finds a body too large.
    lease_s
        Seconds after which another process may take what this one leased.
    retry, jitter
        When `drain` tries again; a random number in [0, 1].
    bodies
        Makes bodies of records that are coded together, for a learner that reads them; None: each is sent by itself.
    """

    def __init__(
        self,
        outbox: Outbox,
        wire: Wire,
        *,
        clock: Clock = time.time,
        sleep: Sleep = time.sleep,
        batch: int = 128,
        lease_s: float = 60.0,
        retry: Retry = RETRY,
        jitter: Callable[[], float] = random.random,
        bodies: MakeBody | None = None,
    ) -> None:
        self._outbox = outbox
        self._wire = wire
        self._clock = clock
        self._sleep = sleep
        self._batch = batch
        self._lease_s = lease_s
        self._retry = retry
        self._jitter = jitter
        self._bodies = bodies

    def send_once(self) -> Sent:
        """Send one batch, if anything is due by the site's rounds.

        Raises
        ------
        TransportError
            The learner is away or answers nonsense. What it did acknowledge
            is settled, the rest waits in the outbox.
        AuthError
            It refuses this device. The records wait in the outbox.
        StorageError
            The outbox can't be read or written.
        """
        return self._send(self._outbox.lease_due)

    def _send(self, lease: Callable[..., tuple[Record, ...]]) -> Sent:
        self._outbox.reap()
        records = lease(limit=self._batch, seconds=self._lease_s)
        if not records:
            return Sent(waiting=self._waiting())
        batch = _Batch({r.id: r for r in records})
        try:
            self._deliver(batch, records)
            _judge(batch)
        finally:
            self._outbox.settle(Receipt(frozenset(batch.held), batch.refused))
            self._outbox.release(batch.open)
        return Sent(len(batch.held), len(batch.refused), self._waiting())

    def drain(self, *, deadline_s: float) -> Sent:
        """Send, due or not, until nothing waits, the day's budget is used up, or the time is over.

        What another process has leased, a killed one perhaps, is waited for.

        Parameters
        ----------
        deadline_s
            Seconds from now; a body that is on its way is waited for.

        Raises
        ------
        TransportError
            So many failures in a row, or no time left to try again.
        AuthError, StorageError
            At once; a retry doesn't help.
        """
        until, total, failures = self._clock() + deadline_s, Sent(waiting=self._waiting()), 0
        while self._clock() < until:
            try:
                sent = self._send(self._outbox.lease)
            except TransportError as error:
                failures += 1
                wait = wait_after(error, self._retry, failures - 1, self._jitter())
                if failures >= self._retry.attempts or self._clock() + wait >= until:
                    raise
                self._sleep(wait)
                continue
            failures = 0
            delivered, refused = total.delivered + sent.delivered, total.refused + sent.refused
            total = Sent(delivered, refused, sent.waiting)
            if sent.delivered + sent.refused == 0:
                if not self._outbox.counts()[State.LEASED]:
                    break
                self._sleep(max(0.0, min(LOOK_S, until - self._clock())))
        return total

    def _waiting(self) -> int:
        counts = self._outbox.counts()
        return counts[State.PENDING] + counts[State.LEASED]

    def _deliver(self, batch: _Batch, records: Collection[Record]) -> None:
        """Deliver, halving what is refused as a whole until the record at fault stands alone."""
        try:
            receipt = self._post(list(records))
        except RecordError as error:
            if len(records) == 1:
                batch.suspects.update((r.id, str(error)) for r in records)
                if len(batch.suspects) >= MAX_SUSPECTS:
                    _judge(batch)
                return
            half, ordered = len(records) // 2, list(records)
            if isinstance(error, BodyTooLargeError):
                self._batch = max(1, min(self._batch, half))
            self._deliver(batch, ordered[:half])
            self._deliver(batch, ordered[half:])
            return
        _check(receipt, {r.id for r in records})
        batch.held |= receipt.held
        batch.refused |= receipt.refused
        for key in (*receipt.held, *receipt.refused):
            del batch.open[key]

    def _post(self, records: Sequence[Record]) -> Receipt:
        """Send one body: coded together where the learner takes that and finds no fault, else one after the other."""
        if self._bodies is not None:
            try:
                return self._wire.deliver(self._bodies(records))
            except MediaTypeRefusedError:
                self._bodies = None
            except BodyTooLargeError:
                raise
            except RecordError:
                pass  # Which record is at fault is only told where each stands by itself.
        return self._wire.deliver(to_wire(records))


def wait_after(error: FeatureloopError, retry: Retry, attempt: int, jitter: float) -> float:
    """Seconds to wait after an error: what the learner asked for, or `delay`, whichever is longer."""
    asked = error.after_s if isinstance(error, RetryLaterError) else 0.0
    return max(asked, delay(retry, attempt, jitter))


def _check(receipt: Receipt, sent: set[bytes]) -> None:
    """Refuse a receipt that can't be the answer to these records."""
    if strange := (receipt.held | set(receipt.refused)) - sent:
        raise TransportError(f"the receipt names record {min(strange).hex()[:12]}, which was not sent; check the URL")
    if both := receipt.held & set(receipt.refused):
        raise TransportError(f"the receipt names record {min(both).hex()[:12]} both as held and as refused")


def _judge(batch: _Batch) -> None:
    """Call a record bad only where another one of its batch was taken.

    Where all are refused, the fault is more likely in the version or on the
    way, and calling every record bad would lose them.
    """
    if not batch.suspects:
        return
    if not batch.held:
        reason = next(iter(batch.suspects.values()))
        raise TransportError(
            f"no record was taken, {len(batch.suspects)} sent alone were refused: {reason}; update the device"
        )
    for key, reason in batch.suspects.items():
        batch.refused[key] = reason
        del batch.open[key]
    batch.suspects.clear()
