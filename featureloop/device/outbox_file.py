"""What the outbox's SQLite file holds: states and their transitions, tables, errors."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path

from featureloop.core.errors import RecordError, StorageError
from featureloop.device.sqlite_file import connect
from featureloop.sharing.record import Record


class State(StrEnum):
    """Where a record is on its way."""

    PENDING = "pending"
    LEASED = "leased"
    DELIVERED = "delivered"
    REFUSED = "refused"
    EXPIRED = "expired"


TRANSITIONS = frozenset(
    {
        (State.PENDING, State.LEASED),
        (State.PENDING, State.EXPIRED),
        (State.LEASED, State.DELIVERED),
        (State.LEASED, State.REFUSED),
        (State.LEASED, State.PENDING),
        (State.LEASED, State.EXPIRED),
    }
)
"""Every move there is; a move that isn't here does nothing."""

SETTLED = frozenset({State.DELIVERED, State.REFUSED, State.EXPIRED})
"""States that a record never leaves; only their payloads can be purged."""

FIXED_BYTES = 64
"""Counted per record beside its three payloads: id, group, numbers and words."""

KIND, LOST = "outbox", "what waited in it must be processed again"
"""What the file is, and what becomes of a damaged one's content, for people."""
VERSION = 2

_COLUMNS = tuple(f.name for f in fields(Record))
# The totals are kept by triggers, so that a watermark check doesn't read every waiting entry.
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS entries (
    seq INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, state TEXT NOT NULL, bytes INTEGER NOT NULL,
    put_at REAL NOT NULL, since REAL NOT NULL, lease_until REAL, reason TEXT, priority REAL NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS entries_by_age ON entries (state, put_at);
CREATE INDEX IF NOT EXISTS entries_by_change ON entries (state, since);
CREATE TABLE IF NOT EXISTS records (seq INTEGER PRIMARY KEY, {", ".join(f'"{c}"' for c in _COLUMNS)});
CREATE TABLE IF NOT EXISTS frames (key BLOB PRIMARY KEY, outcome TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals (state TEXT PRIMARY KEY, n INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO totals VALUES {", ".join(f"('{s}', 0, 0)" for s in State)};
CREATE TRIGGER IF NOT EXISTS entered AFTER INSERT ON entries BEGIN
    UPDATE totals SET n = n + 1, bytes = bytes + NEW.bytes WHERE state = NEW.state;
END;
CREATE TRIGGER IF NOT EXISTS moved AFTER UPDATE OF state ON entries BEGIN
    UPDATE totals SET n = n - 1, bytes = bytes - OLD.bytes WHERE state = OLD.state;
    UPDATE totals SET n = n + 1, bytes = bytes + NEW.bytes WHERE state = NEW.state;
END;
PRAGMA user_version = {VERSION};
COMMIT;
"""  # noqa: S608  The names come from this file and from Record's fields.
_INSERT = f"INSERT INTO records VALUES (?{', ?' * len(_COLUMNS)})"  # noqa: S608  Only question marks are put in.


@dataclass(frozen=True, slots=True)
class Entry:
    """One record's line in a listing.

    Attributes
    ----------
    id
        SHA-256 of the record's content, 32 bytes.
    state
        Where it is on its way.
    size
        Its payload in bytes, as the budget counts it.
    period
        Quarter of the acquisition, `4 * year + quarter - 1`; None once its payload is purged.
    put_at
        When it was put, seconds since the epoch.
    reason
        Why it was refused; None otherwise.
    """

    id: bytes
    state: State
    size: int
    period: int | None
    put_at: float
    reason: str | None


@dataclass(frozen=True, slots=True)
class Item:
    """One record of the outbox, whole; `record` is None once its payload is purged."""

    entry: Entry
    record: Record | None


def payload_bytes(record: Record) -> int:
    """Bytes of one record as the budget and the watermark count them."""
    return FIXED_BYTES + sum(len(p or b"") for p in (record.features, record.recognition, record.changed))


def open_file(path: Path) -> sqlite3.Connection:
    """Open the file, or make it (mode 0600), with every commit flushed to the disk.

    Raises
    ------
    StorageError
        It can't be made, or was made by another version.
    sqlite3.Error
        It is no database, or can't be read; see `sqlite_file.translated`.
    """
    db = connect(path, kind=KIND)
    try:
        if _version(db) == 0:
            db.executescript(_SCHEMA)
        if _version(db) == 1:
            _add_priorities(db)
        columns = tuple(row[1] for row in db.execute("PRAGMA table_info(records)"))
        if _version(db) != VERSION or columns != ("seq", *_COLUMNS):
            raise StorageError(
                f"the outbox '{path}' was made by another version of featureloop; "
                "let that version deliver what waits, then move the file away"
            )
    except BaseException:
        db.close()
        raise
    return db


def _add_priorities(db: sqlite3.Connection) -> None:
    """Version 1 had no priorities: what waits has the least."""
    db.execute("BEGIN IMMEDIATE")
    # Another process may have been faster.
    if _version(db) == 1:
        db.execute("ALTER TABLE entries ADD COLUMN priority REAL NOT NULL DEFAULT 0")
        db.execute("PRAGMA user_version = 2")
    db.execute("COMMIT")


def insert_record(db: sqlite3.Connection, seq: int | None, record: Record) -> None:
    """Store a record's fields, one per column."""
    db.execute(_INSERT, (seq, *(getattr(record, c) for c in _COLUMNS)))


def read_record(db: sqlite3.Connection, seq: int) -> Record | None:
    """A stored record; None where it was purged or its bytes are damaged."""
    row = db.execute("SELECT * FROM records WHERE seq = ?", (seq,)).fetchone()
    try:
        return None if row is None else Record(**dict(zip(_COLUMNS, row[1:], strict=True)))
    except (RecordError, TypeError):
        return None


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
