"""The uplink in the background: recognition never waits for the network."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from featureloop.core.errors import AuthError, FeatureloopError
from featureloop.core.ports import Clock
from featureloop.device.uplink import RETRY, Retry, Uplink, wait_after


@dataclass(frozen=True, slots=True)
class UplinkStatus:
    """How sending goes.

    Attributes
    ----------
    delivered, refused
        Records since the thread was started.
    failures
        Failures in a row; 0 while all is well.
    error
        The last failure's message; None while all is well.
    stopped
        The learner refuses this device: nothing is sent until it is enrolled again.
    at
        When the learner last answered, seconds since the epoch; None before it did.
    """

    delivered: int = 0
    refused: int = 0
    failures: int = 0
    error: str | None = None
    stopped: bool = False
    at: float | None = None


class UplinkThread:
    """Sends in the background until it is stopped, or the learner refuses the device.

    Parameters
    ----------
    uplink
        What sends. It isn't used by anyone else meanwhile.
    idle_s
        Seconds between looks into an outbox that had nothing to send.
    retry, jitter
        When to try again; a random number in [0, 1].
    may_send
        Whether the site's sharing is switched on; asked before every batch.
    clock
        Seconds since the epoch.
    """

    def __init__(
        self,
        uplink: Uplink,
        *,
        idle_s: float = 5.0,
        retry: Retry = RETRY,
        jitter: Callable[[], float] = random.random,
        may_send: Callable[[], bool] = lambda: True,
        clock: Clock = time.time,
    ) -> None:
        self._uplink = uplink
        self._idle_s = idle_s
        self._retry = retry
        self._jitter = jitter
        self._may_send = may_send
        self._clock = clock
        self._stop = threading.Event()
        self._status = UplinkStatus()
        self._thread = threading.Thread(target=self._run, name="featureloop-uplink", daemon=True)

    @property
    def status(self) -> UplinkStatus:
        """How sending goes, at this moment."""
        return self._status

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self, *, timeout_s: float = 5.0) -> bool:
        """Ask the thread to end, and wait for it; False where it still waits for the network.

        What it had leased then waits until its lease ends.
        """
        self._stop.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set() and not self._status.stopped:
            self._stop.wait(self._step())

    def _step(self) -> float:
        """Send one batch; seconds until the next."""
        known = self._status
        if not self._may_send():
            return self._idle_s
        try:
            sent = self._uplink.send_once()
        except AuthError as error:
            self._status = replace(known, failures=known.failures + 1, error=str(error), stopped=True)
            return 0.0
        except FeatureloopError as error:
            self._status = replace(known, failures=known.failures + 1, error=str(error))
            return wait_after(error, self._retry, known.failures, self._jitter())
        delivered, refused = known.delivered + sent.delivered, known.refused + sent.refused
        answered = self._clock() if sent.delivered + sent.refused else known.at
        self._status = UplinkStatus(delivered, refused, at=answered)
        return 0.0 if sent.delivered + sent.refused else self._idle_s
