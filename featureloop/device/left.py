"""What left and what waits, for people: records page by page, bytes by day, and what a record's bytes look like."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np

from featureloop.core.errors import FeatureloopError, InputError
from featureloop.core.types import Bag, Task, UInt8
from featureloop.device.outbox_file import KIND, LOST, Entry, State, open_file, read_record
from featureloop.device.sqlite_file import translated
from featureloop.model.manifest import Manifest
from featureloop.model.package import MANIFEST, Package
from featureloop.sharing.codec import decode_features
from featureloop.sharing.record import Record
from featureloop.sharing.release import decoded

PAGE = 20
DAYS = 30
_DAY_S = 86_400
_LINE = "SELECT e.seq, e.id, e.state, e.bytes, e.put_at, e.since, e.reason FROM entries AS e"


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One record of the outbox, newest first by `number`.

    Attributes
    ----------
    since
        When it came into its state, seconds since the epoch.
    record
        None once its content is purged.
    """

    number: int
    entry: Entry
    since: float
    record: Record | None


@dataclass(frozen=True, slots=True)
class Leaf:
    """One page of records, and the numbers to ask for its neighbours by; None where there is none."""

    lines: tuple[Line, ...]
    newer_than: int | None
    older_than: int | None


@dataclass(frozen=True, slots=True)
class Day:
    """What was delivered on one UTC day, the day that the policy's byte budget counts."""

    day: date
    records: int
    size: int


@dataclass(frozen=True, slots=True)
class WhatLeft:
    """Reads an outbox's file beside whoever writes it, and changes nothing.

    Attributes
    ----------
    path
        The outbox.
    """

    path: Path

    def page(self, *, state: State | None = None, older_than: int | None = None, newer_than: int | None = None) -> Leaf:
        """At most `PAGE` records, newest first.

        Parameters
        ----------
        state
            Only those in this state; None for all.
        older_than, newer_than
            Only those put before, or after, the record of this number; at most one of them.
        """
        with self._reading() as db:
            up = newer_than is not None and older_than is None
            rows = db.execute(
                f"{_LINE} WHERE (?1 IS NULL OR e.state = ?1) AND (?2 IS NULL OR e.seq < ?2)"
                f" AND (?3 IS NULL OR e.seq > ?3) ORDER BY e.seq {'ASC' if up else 'DESC'} LIMIT {PAGE + 1}",
                (state, older_than, newer_than),
            ).fetchall()
            more, rows = len(rows) > PAGE, sorted(rows[:PAGE], reverse=True)
            lines = tuple(_line(row, read_record(db, row[0])) for row in rows)
        if not lines:
            return Leaf((), None, None)
        first, last = lines[0].number, lines[-1].number
        newer = first if (more if up else older_than is not None) else None
        older = last if (more if not up else newer_than is not None) else None
        return Leaf(lines, newer, older)

    def one(self, id_hex: str) -> Line:
        """One record.

        Raises
        ------
        InputError
            There is none of this id.
        """
        with self._reading() as db:
            try:
                row = db.execute(f"{_LINE} WHERE e.id = ?", (bytes.fromhex(id_hex),)).fetchone()
            except ValueError:
                row = None
            if row is None:
                raise InputError(f"there is no record {id_hex[:64]!r} on this device")
            return _line(row, read_record(db, row[0]))

    def counts(self) -> dict[State, int]:
        """How many records are in each state."""
        with self._reading() as db:
            found = dict(db.execute("SELECT state, n FROM totals").fetchall())
        return {state: int(found[state]) for state in State}

    def days(self, *, until: date, days: int = DAYS) -> tuple[Day, ...]:
        """What was delivered day by day, the last day last; a day without anything is there, too."""
        first = until - timedelta(days=days - 1)
        start = datetime(first.year, first.month, first.day, tzinfo=UTC).timestamp()
        with self._reading() as db:
            rows = db.execute(
                f"SELECT CAST(since / {_DAY_S} AS INTEGER), count(*), sum(bytes) FROM entries"  # noqa: S608
                " WHERE state = ? AND since >= ? GROUP BY 1",
                (State.DELIVERED, start),
            ).fetchall()
        found = {date.fromordinal(date(1970, 1, 1).toordinal() + n): (k, b) for n, k, b in rows}
        each = (first + timedelta(days=i) for i in range(days))
        return tuple(Day(day, *found.get(day, (0, 0))) for day in each)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with translated(self.path, kind=KIND, lost=LOST):
            db = open_file(self.path)
            try:
                db.execute("PRAGMA query_only = ON")
                db.execute("BEGIN")
                yield db
            finally:
                db.close()


@dataclass(frozen=True, slots=True)
class Shelf:
    """The manifests of the packages that recognized: the one in use, and those that were taken over before.

    Attributes
    ----------
    packages
        The device's folder of packages by digest.
    current
        Gives the package in use.
    """

    packages: Path
    current: Callable[[], Package]
    _read: Callable[[Path], Manifest | None] = field(default_factory=lambda: lru_cache(8)(_manifest_in), repr=False)

    def manifest(self, record: Record) -> Manifest | None:
        """The manifest that a record was made under, of its task; None where the package is no longer here."""
        current = self.current()
        whole = (
            current.manifest
            if current.digest == record.package
            else self._read(self.packages / record.package.hex() / MANIFEST)
        )
        try:
            return None if whole is None else whole.for_task(Task(record.task))
        except FeatureloopError:
            return None


def bag_of(record: Record, manifest: Manifest) -> Bag:
    """What anybody reads out of a record's own bytes: its rows, in the order that they leave in.

    Raises
    ------
    RecordError
        They are damaged, or of another package.
    """
    if record.recognition is None:  # Only the reliability was provided; the features stand alone.
        return Bag(symbols_of(record, manifest), np.zeros((1, 1), np.uint8))
    return decoded(record.features, record.recognition, None, manifest)


def symbols_of(record: Record, manifest: Manifest) -> UInt8:
    """The quantized feature values of a record, uint8 (N, C).

    Raises
    ------
    RecordError
        As `bag_of`.
    """
    rows = manifest.released.form.rows(manifest.features.grid)
    return decode_features(record.features, manifest.released, max_vectors=rows)


def _manifest_in(path: Path) -> Manifest | None:
    try:
        return Manifest.from_json(path.read_bytes())
    except (OSError, FeatureloopError):
        return None


def _line(row: tuple[int, bytes, str, int, float, float, str | None], record: Record | None) -> Line:
    number, key, state, size, put_at, since, reason = row
    period = None if record is None else record.period
    return Line(number, Entry(key, State(state), size, period, put_at, reason), since, record)
