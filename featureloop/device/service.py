"""The long-lived device: watch a folder, recognize, share, and take new packages over."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from featureloop.core.errors import FeatureloopError
from featureloop.core.types import Skipped
from featureloop.device.outbox import SETTLED, Outbox
from featureloop.device.pipeline import run_pipeline
from featureloop.device.provide import Provider, check_form
from featureloop.device.show import ResultWriter
from featureloop.device.state import DeviceState, Identity
from featureloop.device.update import poll_update
from featureloop.device.uplink import Uplink, UplinkThread
from featureloop.device.wire import HttpWire
from featureloop.images.source import open_source
from featureloop.model.package import Package
from featureloop.model.runtime import Runtime
from featureloop.sharing.policy import Policy

PURGE_EVERY_S = 3600.0
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
    watch: Path
    out: Path | None
    tell: Callable[[str], None]
    threads: int = 0

    def run(self, *, every_s: float, update_every_s: float, stop: threading.Event) -> None:
        """Work until `stop` is set, or SIGTERM or SIGINT arrives."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stop.set())
        wire = HttpWire(self.identity)
        sender = UplinkThread(Uplink(self.outbox, wire))
        sender.start()
        package = self.package
        runtime = Runtime(package, threads=self.threads)
        seen: dict[Path, tuple[float, int]] = {}
        asked = purged = float("-inf")
        refused = False
        try:
            while not stop.is_set():
                if time.monotonic() - asked >= update_every_s:
                    asked = time.monotonic()
                    if newer := self._newer(package):
                        package, runtime = newer, Runtime(newer, threads=self.threads)
                for path in self._new_files(seen):
                    if stop.is_set():
                        break
                    self._process(path, package, runtime)
                if time.monotonic() - purged >= PURGE_EVERY_S:
                    purged = time.monotonic()
                    self.outbox.purge(states=SETTLED, older_than_s=self.policy.limits.retention_days * 86_400.0)
                if sender.status.stopped and not refused:
                    refused = True
                    self.tell(f"sharing stopped, recognition goes on: {sender.status.error}")
                stop.wait(every_s)
        finally:
            if sender.stop():
                wire.close()
                self.outbox.close()

    def _newer(self, package: Package) -> Package | None:
        """A verified newer package; whatever is wrong with it, the current one stays."""
        try:
            newer = poll_update(self.state, self.identity, current=package)
        except FeatureloopError as error:
            self.tell(f"no update: {error}")
            return None
        if newer:
            self.tell(f"package {newer.short} (version {newer.manifest.version}) taken over")
        return newer

    def _new_files(self, seen: dict[Path, tuple[float, int]]) -> list[Path]:
        found = []
        for path in sorted(p for p in self.watch.rglob("*") if p.is_file() and not p.name.startswith(".")):
            facts = path.stat()
            mark = (facts.st_mtime, facts.st_size)
            if seen.get(path) != mark and time.time() - facts.st_mtime >= SETTLED_S:
                seen[path] = mark
                found.append(path)
        return found

    def _process(self, path: Path, package: Package, runtime: Runtime) -> None:
        try:
            check_form(package, self.policy)
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
            writer = ResultWriter(self.out, package) if self.out else None
            try:
                summary = run_pipeline(
                    open_source(path),
                    runtime=runtime,
                    provider=provider,
                    is_done=self.outbox.done,
                    **({"show": writer.show} if writer else {}),
                )
            finally:
                if writer:
                    writer.close()
        except FeatureloopError as error:
            self.tell(f"{path.name}: {error}")
            return
        for item in (*summary.skipped, *(Skipped(n, str(e)) for n, e in summary.faults)):
            self.tell(f"{item.name}: {item.reason}")
        self.tell(f"{path.name}: {summary.frames} frames, {summary.outcomes}")
