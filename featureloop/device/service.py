"""The long-lived device: watch a folder, recognize, share, and take new packages over.

Recognition waits for nothing: sending and asking for updates have threads of
their own, the sharing drops what it has no room for, and what goes wrong with
any of them is told, not raised.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from featureloop.core.errors import FeatureloopError, PackageError, PolicyError
from featureloop.core.types import Frame, Recognition, Skipped
from featureloop.device.bodies import bodies_for
from featureloop.device.outbox import SETTLED, Outbox
from featureloop.device.pipeline import Show, Summary, run_pipeline
from featureloop.device.provide import Provider, check_policy
from featureloop.device.review.desk import Listen, pages_served
from featureloop.device.review.opening import open_queue
from featureloop.device.review.queue import ReviewQueue
from featureloop.device.running import Desk, playing
from featureloop.device.second_opinion import second_opinion_for
from featureloop.device.sections import Backlog, Pausable
from featureloop.device.show import ResultWriter
from featureloop.device.state import DeviceState, Identity
from featureloop.device.switch import SharingSwitch
from featureloop.device.update import poll_update
from featureloop.device.update_thread import Setup, UpdateThread
from featureloop.device.uplink import Uplink
from featureloop.device.uplink_thread import UplinkThread
from featureloop.device.wire import HttpWire
from featureloop.images.live import LiveSource
from featureloop.images.sidecar import Found, walk
from featureloop.images.source import file_frames
from featureloop.model.package import Package
from featureloop.model.runtime import Runtime
from featureloop.sharing.policy import Policy

PURGE_EVERY_S = 3600.0
BACKLOG_S = 5.0
"""New files wait no longer than so many seconds for what the sharing had no room for."""
SETTLED_S = 1.0
"""A file that changed more recently may still be being written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceService:
    """The parts of one long-lived device; `run` connects them."""

    state: DeviceState
    identity: Identity
    package: Package
    policy: Policy
    outbox: Outbox
    watch: Path | None
    out: Path | None
    tell: Callable[[str], None]
    threads: int = 0
    pages: Listen | None = None
    live: LiveSource | None = None

    def run(self, *, every_s: float, update_every_s: float, stop: threading.Event) -> None:
        """Work until `stop` is set, or SIGTERM or SIGINT arrives."""
        _stop_on_signals(stop)
        with self._reviewing() as desk:
            self._work(desk, every_s=every_s, update_every_s=update_every_s, stop=stop)

    def _work(self, desk: Desk, *, every_s: float, update_every_s: float, stop: threading.Event) -> None:
        seen: dict[Path, tuple[float, int]] = {}
        backlog = Backlog()
        purged, refused = float("-inf"), False
        with (
            self._sending(desk) as sender,
            self._updating(update_every_s, desk.queue) as updates,
            playing(self.live, desk, outbox=self.outbox, policy=self.policy, tell=self.tell),
        ):
            while not stop.is_set():
                desk.setup = updates.newest(desk.setup)
                new = self._new_files(seen)
                complete = self._process(new, desk, updates, stop)
                if not complete:
                    backlog.add(_frames_of(new), stop=stop)
                if backlog and not new:
                    backlog.work(lambda frames: self._share(frames, desk), seconds=BACKLOG_S)
                if time.monotonic() - purged >= PURGE_EVERY_S:
                    purged = time.monotonic()
                    self._purge()
                if sender.status.stopped and not refused:
                    refused = True
                    self.tell(f"sharing stopped, recognition goes on: {sender.status.error}")
                stop.wait(every_s)

    @contextmanager
    def _reviewing(self) -> Iterator[Desk]:
        """The queue that doubtful results wait in, and its pages, where the site has them served."""
        switch = SharingSwitch(self.state.path)
        if not switch.is_on():
            self.tell("sharing is switched off, recognition goes on: 'featureloop device sharing on' switches it on")
        if self.pages is None:
            yield Desk(None, self._setup(self.package, None), switch)
            return
        with closing(open_queue(self.state, self.policy)) as queue:
            desk = Desk(queue, self._setup(self.package, queue), switch)
            with pages_served(
                queue,
                state=self.state,
                policy=self.policy,
                outbox=self.outbox,
                site=self.identity.site,
                using=lambda: desk.setup,
                live=desk.live(self.live, outbox=self.outbox, policy=self.policy),
                listen=self.pages,
                tell=self.tell,
            ) as url:
                self.tell(f"pages: {url}")
                yield desk

    @contextmanager
    def _sending(self, desk: Desk) -> Iterator[UplinkThread]:
        wire = HttpWire(self.identity)
        bodies = bodies_for(self.policy.sending, self.state, self.package)
        sender = desk.sender = UplinkThread(Uplink(self.outbox, wire, bodies=bodies), may_send=desk.switch.is_on)
        sender.start()
        try:
            yield sender
        finally:
            if sender.stop():
                wire.close()
                self.outbox.close()

    @contextmanager
    def _updating(self, every_s: float, later: ReviewQueue | None) -> Iterator[UpdateThread]:
        current = self.package

        def ask() -> Setup | None:
            nonlocal current
            newer = poll_update(self.state, self.identity, current=current)
            if newer is None:
                return None
            current = newer
            return self._setup(newer, later)

        updates = UpdateThread(ask, every_s=every_s, tell=self.tell)
        updates.start()
        try:
            yield updates
        finally:
            updates.stop()

    def _setup(self, package: Package, later: ReviewQueue | None) -> Setup:
        """Open a package's networks, and what provides its results where the policy allows its form."""
        runtime = Runtime(package, threads=self.threads)
        try:
            check_policy(package, self.policy)
            second = second_opinion_for(self.policy, runtime, threads=self.threads)
        except (PolicyError, PackageError) as error:
            self.tell(f"nothing is shared, recognition goes on: {error}")
            return Setup(runtime, None, str(error))
        provider = Provider(
            site=self.identity.site,
            device=self.identity.device,
            site_key=self.state.site_key(),
            group_key=self.state.group_keys()[0],
            package=package,
            policy=self.policy,
            keeper=self.outbox,
            reviewer=None,
            later=later,
            second_opinion=second,
            clock=time.time,
        )
        return Setup(runtime, provider)

    def _new_files(self, seen: dict[Path, tuple[float, int]]) -> list[Found]:
        """Files that are new or changed, and were not written to just now."""
        new: list[Found] = []
        for file in walk(self.watch) if self.watch else ():
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

    def _process(self, files: Sequence[Found], desk: Desk, updates: UpdateThread, stop: threading.Event) -> bool:
        """Recognize and share files; a new package is taken over between two frames.

        Stopped in the middle, the rest is done after the next start: the outbox knows which frames are done.

        Returns
        -------
        bool
            Whether the sharing had room for every frame.
        """
        complete = True
        frames = Pausable(_frames_of(files), until=lambda: stop.is_set() or updates.ready)
        while files and not (stop.is_set() or frames.ended):
            desk.setup, before = updates.newest(desk.setup), frames.taken
            try:
                summary = self._recognize(frames, desk)
                complete = complete and not summary.dropped
                self._say(summary)
            except FeatureloopError as error:
                self.tell(f"a frame was given up: {error}")
                if frames.taken == before:
                    break  # Not even a first frame: going on would be told without end.
        return complete

    def _share(self, frames: Pausable, desk: Desk) -> None:
        """Share frames that were shown before."""
        setup = desk.setup
        if setup.provider is None:
            return
        try:
            with desk.tally.counting() as done:
                run_pipeline(
                    frames,
                    runtime=setup.runtime,
                    provider=setup.provider,
                    is_done=self.outbox.done,
                    may_share=desk.switch.is_on,
                    summary=done,
                )
        except FeatureloopError as error:
            self.tell(f"a frame was given up: {error}")
        else:
            if done.frames:
                self.tell(f"{done.frames} frames shared that there was no room for before")

    def _recognize(self, frames: Pausable, desk: Desk) -> Summary:
        setup = desk.setup

        def run(show: Show) -> Summary:
            with desk.tally.counting() as summary:
                return run_pipeline(
                    frames,
                    runtime=setup.runtime,
                    provider=setup.provider,
                    is_done=self.outbox.done,
                    show=show,
                    when_full="drop",
                    may_share=desk.switch.is_on,
                    summary=summary,
                )

        # Where a live source runs, the page shows that one.
        on_page = _nowhere if self.live else desk.show(setup, self.policy)
        if self.out is None:
            return run(on_page)
        with closing(ResultWriter(self.out, setup.package)) as writer:

            def both(frame: Frame, recognition: Recognition) -> None:
                on_page(frame, recognition)
                writer.show(frame, recognition)

            return run(both)

    def _say(self, summary: Summary) -> None:
        """Tell what became of new files, or of a section of them."""
        for item in (*summary.skipped, *(Skipped(n, str(e)) for n, e in summary.faults)):
            self.tell(f"{item.name}: {item.reason}")
        dropped = f", {summary.dropped} not shared: the sharing was too far behind" if summary.dropped else ""
        waiting = f", {summary.waiting} wait for others to share a record with" if summary.waiting else ""
        off = f", {summary.switched_off} not shared: the sharing is switched off" if summary.switched_off else ""
        outcomes = ", ".join(f"{n} {outcome}" for outcome, n in summary.outcomes.items()) or "none shared"
        self.tell(f"{summary.frames} frames recognized: {outcomes}{waiting}{dropped}{off}")

    def _purge(self) -> None:
        try:
            self.outbox.purge(states=SETTLED, older_than_s=self.policy.limits.retention_days * 86_400.0)
        except FeatureloopError as error:
            self.tell(f"old records stay in the outbox: {error}")


def _nowhere(_frame: Frame, _recognition: Recognition) -> None:
    """Shows nothing."""


def _frames_of(files: Sequence[Found]) -> Iterator[Frame | Skipped]:
    return chain.from_iterable(file_frames(file) for file in files)


def _stop_on_signals(stop: threading.Event) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
