"""Asking for newer packages beside the recognition, which never waits for the answer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from featureloop.core.errors import FeatureloopError
from featureloop.device.provide import Provider
from featureloop.model.package import Package
from featureloop.model.runtime import Runtime


@dataclass(frozen=True, slots=True)
class Setup:
    """What one package needs to recognize and to provide; None where the policy forbids it, with the reason."""

    runtime: Runtime
    provider: Provider | None
    forbidden: str | None = None

    @property
    def package(self) -> Package:
        """The package in use."""
        return self.runtime.package


class UpdateThread:
    """Asks for a newer package in the background, and keeps what it became until it is taken.

    Parameters
    ----------
    ask
        Asks once, verifies, and opens the newer package's networks; None where
        there is none. It may block for as long as the network does.
    every_s
        Seconds between questions.
    tell
        Called with what went wrong; the package in use stays.
    """

    def __init__(self, ask: Callable[[], Setup | None], *, every_s: float, tell: Callable[[str], None]) -> None:
        self._ask = ask
        self._every_s = every_s
        self._tell = tell
        self._stop = threading.Event()
        self._newer: queue.SimpleQueue[Setup] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="featureloop-update", daemon=True)

    @property
    def ready(self) -> bool:
        """Whether a newer package waits to be taken."""
        return not self._newer.empty()

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self, *, timeout_s: float = 5.0) -> bool:
        """Ask the thread to end, and wait for it; False where it still waits for the network."""
        self._stop.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def newest(self, current: Setup) -> Setup:
        """The newest package's setup; the current one where none waits."""
        while self.ready:
            current = self._newer.get_nowait()
            package = current.package
            self._tell(f"package {package.short} (version {package.manifest.version}) taken over")
        return current

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if newer := self._ask():
                    self._newer.put(newer)
            except FeatureloopError as error:
                self._tell(f"no update: {error}")
            self._stop.wait(self._every_s)
