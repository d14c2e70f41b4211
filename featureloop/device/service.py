"""The long-lived device: watch a folder, recognize, share, and take new packages over.

Recognition waits for nothing: sending and asking for updates have threads of
their own, the sharing drops what it has no room for, and what goes wrong with
any of them is told, not raised.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from featureloop.core.errors import FeatureloopError, PolicyError
from featureloop.core.types import Frame, Recognition, Skipped
from featureloop.device.outbox import SETTLED, Outbox
from featureloop.device.pipeline import Summary, run_pipeline
from featureloop.device.provide import Provider, check_form
from featureloop.device.show import ResultWriter
from featureloop.device.state import DeviceState, Identity
from featureloop.device.update import poll_update
from featureloop.device.uplink import Uplink, UplinkThread
from featureloop.device.wire import HttpWire
from featureloop.images.sidecar import Found, walk
from featureloop.images.source import file_frames
from featureloop.model.package import Package
from featureloop.model.runtime import Runtime
from featureloop.sharing.policy import Policy

PURGE_EVERY_S = 3600.0
SETTLED_S = 1.0
"""A file that changed more recently may still be being written."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What one package needs to recognize and to provide; `provider` is None where the policy forbids its form."""

    runtime: Runtime
    provider: Provider | None

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


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceService:
    """The parts of one long-lived device; `run` connects them."""

    state: DeviceState
    identity: Identity
    package: Package
    policy: Policy
    outbox: Outbox
    watch: Path
    out: Path | None
    tell: Callable[[str], None]
    threads: int = 0

    def run(self, *, every_s: float, update_every_s: float, stop: threading.Event) -> None:
        """Work until `stop` is set, or SIGTERM or SIGINT arrives."""
        _stop_on_signals(stop)
        setup = self._setup(self.package)
        seen: dict[Path, tuple[float, int]] = {}
        purged, refused = float("-inf"), False
        with self._sending() as sender, self._updating(update_every_s) as updates:
            while not stop.is_set():
                setup = updates.newest(setup)
                setup = self._process(self._new_files(seen), setup, updates, stop)
                if time.monotonic() - purged >= PURGE_EVERY_S:
                    purged = time.monotonic()
                    self._purge()
                if sender.status.stopped and not refused:
                    refused = True
                    self.tell(f"sharing stopped, recognition goes on: {sender.status.error}")
                stop.wait(every_s)

    @contextmanager
    def _sending(self) -> Iterator[UplinkThread]:
        wire = HttpWire(self.identity)
        sender = UplinkThread(Uplink(self.outbox, wire))
        sender.start()
        try:
            yield sender
        finally:
            if sender.stop():
                wire.close()
                self.outbox.close()

    @contextmanager
    def _updating(self, every_s: float) -> Iterator[UpdateThread]:
        current = self.package

        def ask() -> Setup | None:
            nonlocal current
            newer = poll_update(self.state, self.identity, current=current)
            if newer is None:
                return None
            current = newer
            return self._setup(newer)

        updates = UpdateThread(ask, every_s=every_s, tell=self.tell)
        updates.start()
        try:
            yield updates
        finally:
            updates.stop()

    def _setup(self, package: Package) -> Setup:
        """Open a package's networks, and what provides its results where the policy allows its form."""
        runtime = Runtime(package, threads=self.threads)
        try:
            check_form(package, self.policy)
        except PolicyError as error:
            self.tell(f"nothing is shared, recognition goes on: {error}")
            return Setup(runtime, None)
        provider = Provider(
            site=self.identity.site,
            device=self.identity.device,
            site_key=self.state.site_key(),
            package=package,
            policy=self.policy,
            keeper=self.outbox,
            reviewer=None,
            clock=time.time,
        )
        return Setup(runtime, provider)

    def _new_files(self, seen: dict[Path, tuple[float, int]]) -> list[Found]:
        """Files that are new or changed, and were not written to just now."""
        new = []
        for file in walk(self.watch):
            if isinstance(file, Skipped):
                continue
            try:
                facts = file.path.stat()
            except OSError:
                continue  # It went away meanwhile.
            mark = (facts.st_mtime, facts.st_size)
            if seen.get(file.path) != mark and time.time() - facts.st_mtime >= SETTLED_S:
                seen[file.path] = mark
                new.append(file)
        return new

    def _process(self, files: Sequence[Found], setup: Setup, updates: UpdateThread, stop: threading.Event) -> Setup:
        """Recognize and share files; a new package is taken over between two frames.

        Stopped in the middle, the rest is done after the next start: the outbox knows which frames are done.
        """
        source = chain.from_iterable(file_frames(file) for file in files)
        frames = _Pausable(source, until=lambda: stop.is_set() or updates.ready)
        while files and not (stop.is_set() or frames.ended):
            setup, before = updates.newest(setup), frames.taken
            try:
                self._say(self._recognize(frames, setup))
            except FeatureloopError as error:
                self.tell(f"a frame was given up: {error}")
                if frames.taken == before:
                    break  # Not even a first frame: going on would be told without end.
        return setup

    def _recognize(self, frames: _Pausable, setup: Setup) -> Summary:
        def run(show: Callable[[Frame, Recognition], None]) -> Summary:
            return run_pipeline(
                frames,
                runtime=setup.runtime,
                provider=setup.provider,
                is_done=self.outbox.done,
                show=show,
                when_full="drop",
            )

        if self.out is None:
            return run(lambda _frame, _recognition: None)
        with closing(ResultWriter(self.out, setup.package)) as writer:
            return run(writer.show)

    def _say(self, summary: Summary) -> None:
        """Tell what became of new files, or of a section of them."""
        for item in (*summary.skipped, *(Skipped(n, str(e)) for n, e in summary.faults)):
            self.tell(f"{item.name}: {item.reason}")
        dropped = f", {summary.dropped} not shared: the sharing was too far behind" if summary.dropped else ""
        outcomes = ", ".join(f"{n} {outcome}" for outcome, n in summary.outcomes.items()) or "none shared"
        self.tell(f"{summary.frames} frames recognized: {outcomes}{dropped}")

    def _purge(self) -> None:
        try:
            self.outbox.purge(states=SETTLED, older_than_s=self.policy.limits.retention_days * 86_400.0)
        except FeatureloopError as error:
            self.tell(f"old records stay in the outbox: {error}")


class _Pausable:
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


def _stop_on_signals(stop: threading.Event) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
