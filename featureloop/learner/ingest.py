"""Ingest: what devices send becomes durable before it is acknowledged, then moves into the store.

    body -> records -> checked -> intake (one transaction) -> receipt
                                     |
                                     +-> drain -> record store

A crash at any arrow is harmless: what was acknowledged is in `intake` or in
the store, the store adds a record once, and `received` remembers every id.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from featureloop.core.errors import FeatureloopError, RecordError, StorageError
from featureloop.core.ports import Clock, Receipt
from featureloop.learner.auth import DeviceIdentity
from featureloop.learner.checks import check_declared
from featureloop.learner.control import Control, intake, received
from featureloop.learner.locks import exclusive
from featureloop.learner.registry import Registry
from featureloop.learner.store import RecordStore
from featureloop.sharing.record import Record
from featureloop.sharing.together import from_body

BATCH = 256
INTERVAL_S = 1.0
_NAMES = tuple(f.name for f in fields(Record))
_PARAMETERS = 500
"""Ids asked for in one statement; databases limit them."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ingest:
    """The way of records from a device's body into the store.

    Attributes
    ----------
    control
        Holds `intake` and `received`.
    store
        Where records end.
    registry
        Says what each package declares.
    lock
        The file that keeps two drains apart.
    clock
        Seconds since the epoch.
    full
        Set by a body of `BATCH` records or more, until the next drain: it shouldn't wait its turn.
    """

    control: Control
    store: RecordStore
    registry: Registry
    lock: Path
    clock: Clock = field(default=time.time, compare=False)
    full: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)

    def receive(self, device: DeviceIdentity, body: bytes) -> Receipt:
        """Take a body of records; what the receipt calls held is on the disk.

        Raises
        ------
        RecordError
            The body as a whole is malformed; nothing of it was taken.
        StorageError
            The disk is full; nothing of it was taken.
        """
        records = {r.id: r for r in from_body(body, self.registry.declared)}
        reasons = ((key, self._reason(device, record)) for key, record in records.items())
        refused = {key: reason for key, reason in reasons if reason is not None}
        good = {key: record for key, record in records.items() if key not in refused}
        if good:
            self.control.check_space()
            self._keep(device, good)
        return Receipt(frozenset(good), refused)

    def drain(self) -> int:
        """Move all waiting records into the store; return how many it had not held.

        Raises
        ------
        StorageError
            The disk is full, or the store is damaged. What waits keeps waiting.
        """
        moved, any_left = 0, False
        with exclusive(self.lock):
            self.full.clear()
            while waiting := self._waiting():
                any_left = True
                moved += self.store.add(list(waiting.values()))
                with self.control.write() as connection:
                    connection.execute(intake.delete().where(intake.c.id.in_(list(waiting))))
            if any_left:
                self.control.forget()
        return moved

    def pending(self) -> int:
        """Records that are acknowledged but not in the store yet."""
        with self.control.read() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(intake)).scalar_one())

    def _reason(self, device: DeviceIdentity, record: Record) -> str | None:
        """Why a record is refused; None where it is taken."""
        if (record.site, record.device) != (device.site, device.device):
            return (
                f"it says site '{record.site}', device '{record.device}'; "
                f"the token is of site '{device.site}', device '{device.device}'"
            )
        manifest = self.registry.declared(record.package)
        if manifest is None:
            return f"package {record.package.hex()[:12]} is unknown to this learner; take its live package over"
        try:
            check_declared(record, manifest)
        except RecordError as error:
            return str(error)
        return None

    def _keep(self, device: DeviceIdentity, records: Mapping[bytes, Record]) -> None:
        try:
            self._insert(device, records)
        except sa.exc.IntegrityError:
            # A repeat of the same body was kept at the same moment; this time its ids are seen.
            self._insert(device, records)
        if len(records) >= BATCH:
            self.full.set()

    def _insert(self, device: DeviceIdentity, records: Mapping[bytes, Record]) -> None:
        now = self.clock()
        with self.control.write() as connection:
            known = _known(connection, list(records))
            new = {key: record for key, record in records.items() if key not in known}
            if not new:
                return
            connection.execute(intake.insert(), [_row(key, record) for key, record in new.items()])
            connection.execute(received.insert(), [{"id": k, "device": device.device, "when": now} for k in new])

    def _waiting(self) -> dict[bytes, Record]:
        """The next records to move, by id."""
        with self.control.read() as connection:
            rows = connection.execute(sa.select(intake).order_by(intake.c.id).limit(BATCH)).mappings().all()
        found = {bytes(row["id"]): _record(row) for row in rows}
        if damaged := [key for key, record in found.items() if record.id != key]:
            raise StorageError(
                f"record {damaged[0].hex()[:12]} was damaged on the learner's disk before it reached the store; "
                "restore control.sqlite from a backup"
            )
        return found


def _row(key: bytes, record: Record) -> dict[str, Any]:
    return {"id": key} | {name: getattr(record, name) for name in _NAMES}


def _record(row: Mapping[Any, Any]) -> Record:
    try:
        return Record(**{name: row[name] for name in _NAMES})
    except (RecordError, TypeError) as error:
        raise StorageError(f"a record on its way to the store is damaged: {error}; restore control.sqlite") from error


def _known(connection: sa.Connection, ids: Sequence[bytes]) -> set[bytes]:
    """Which of these ids came in before."""
    found: set[bytes] = set()
    for start in range(0, len(ids), _PARAMETERS):
        chosen = sa.select(received.c.id).where(received.c.id.in_(ids[start : start + _PARAMETERS]))
        found.update(bytes(x) for x in connection.execute(chosen).scalars())
    return found


class Drainer:
    """Drains in the background, every second or as soon as a batch is full, until it is stopped.

    Parameters
    ----------
    ingest
        What is drained.
    interval_s
        Seconds between two drains.
    """

    def __init__(self, ingest: Ingest, *, interval_s: float = INTERVAL_S) -> None:
        self._ingest = ingest
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._error: str | None = None
        self._thread = threading.Thread(target=self._run, name="featureloop-drain", daemon=True)

    @property
    def error(self) -> str | None:
        """Why the last drain failed; None where it did not."""
        return self._error

    def start(self) -> None:
        """Begin to drain."""
        self._thread.start()

    def stop(self, *, timeout_s: float = 60.0) -> bool:
        """Drain once more, end, and wait for it; False where it still works. What waits is safe then, too."""
        self._stop.set()
        self._ingest.full.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        last = False
        while not last:
            self._ingest.full.wait(self._interval_s)
            last = self._stop.is_set()
            self._step()

    def _step(self) -> None:
        try:
            self._ingest.drain()
        except FeatureloopError as error:
            if str(error) != self._error:
                _log.error("records wait, they can't be moved into the store: %s", error)
            self._error = str(error)
            # The rows stay; without a pause, a full batch on a full disk would be tried without end.
            self._ingest.full.clear()
        else:
            self._error = None
