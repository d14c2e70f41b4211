"""The queue of doubtful results: SQLite, every decision durable before it is answered, images encrypted.

A case waits until as many readers as the site asks for have decided it; where two differ, a third adjudicates. What is
answered stays undoable for a moment, then it is settled: its record is in the outbox, its image erased and
overwritten. What nobody answers expires with its image.
"""

from __future__ import annotations

import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any

from featureloop.core.errors import InputError, StorageError
from featureloop.core.ports import Clock
from featureloop.core.types import Asked
from featureloop.device.review.cases import (
    OPEN,
    TRANSITIONS,
    Answer,
    Case,
    CaseState,
    Kind,
    Progress,
    agree,
)
from featureloop.device.review.sealed import pack, pack_rows, seal, unpack, unpack_rows, unseal
from featureloop.device.sqlite_file import SqliteFile, connect, translated

HOLD_S = 300.0
"""A case that a reader looks at isn't shown to others for so long."""
DAY_S = 86_400.0
SLOWEST_S = 3_600.0
"""Longer times for a case are a reader who went away, and aren't kept."""
VERSION = 1
KIND, LOST = "review's file", "frames that waited in it are not asked about again"
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS cases (
    number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, flags INTEGER NOT NULL,
    reliability REAL NOT NULL, state TEXT NOT NULL, put_at REAL NOT NULL, since REAL NOT NULL, sealed BLOB,
    held_by TEXT, held_until REAL NOT NULL DEFAULT 0, chosen INTEGER);
CREATE INDEX IF NOT EXISTS cases_by_doubt ON cases (state, reliability);
CREATE TABLE IF NOT EXISTS decisions (
    seq INTEGER PRIMARY KEY, number INTEGER NOT NULL, reader TEXT NOT NULL, kind TEXT NOT NULL, rows BLOB,
    at REAL NOT NULL, seconds REAL, UNIQUE (number, reader));
CREATE INDEX IF NOT EXISTS decisions_by_reader ON decisions (reader, at);
PRAGMA user_version = {VERSION};
COMMIT;
"""
_MINE_TOO = "NOT EXISTS (SELECT 1 FROM decisions WHERE decisions.number = cases.number AND reader = :reader)"


class ReviewQueue:
    """Doubtful results that wait for a person. Any thread may call it.

    Parameters
    ----------
    path
        The SQLite file.
    key
        32 bytes that images and answers are encrypted by.
    readers
        How many must decide a case, 1 or 2.
    """

    def __init__(self, path: Path, *, key: bytes, readers: int = 1, clock: Clock = time.time) -> None:
        self._key, self._readers, self._clock = key, readers, clock
        with translated(path, kind=KIND, lost=LOST):
            self._file = SqliteFile(path, _opened(path), kind=KIND, lost=LOST)

    def keep(self, asked: Asked) -> None:
        """Keep a doubtful result until somebody decides; one that is known is left as it is.

        Raises
        ------
        StorageError
            The disk is full or not writable; nothing was kept.
        """
        sealed = seal(pack(asked), key=self._key, bound_to=asked.key)
        now, flags = self._clock(), asked.recognition.probabilities.shape[1]
        with self._file.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO cases (key, flags, reliability, state, put_at, since, sealed) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (asked.key, flags, asked.reliability, CaseState.WAITING, now, now, sealed),
            )

    def next(self, reader: str, *, after: int | None = None) -> Case | None:
        """The least reliable case that a reader can decide, held for this reader; None where there is none.

        Parameters
        ----------
        after
            A case that the reader has in hand: it is left out, so that the next one can be fetched ahead.
        """
        with self._file.transaction() as db:
            row = db.execute(
                f"SELECT number FROM cases WHERE state IN (?1, ?2) AND number IS NOT ?3 AND {_MINE_TOO} "  # noqa: S608
                "AND (held_by IS NULL OR held_by = :reader OR held_until < :now) "
                "ORDER BY reliability, number LIMIT 1",
                {"1": OPEN[0], "2": OPEN[1], "3": after, "reader": reader, "now": self._clock()},
            ).fetchone()
            if row is None:
                return None
            db.execute(
                "UPDATE cases SET held_by = ?, held_until = ? WHERE number = ?",
                (reader, self._clock() + HOLD_S, row[0]),
            )
            return self._case(db, row[0])

    def case(self, number: int) -> Case:
        """One case, open or answered.

        Raises
        ------
        InputError
            There is no such case, or its image is erased already.
        """
        with self._file.reading() as db:
            return self._case(db, number)

    def decide(self, number: int, *, reader: str, answer: Answer, seconds: float | None = None) -> CaseState:
        """Keep what a reader says of a case: durable when this returns. Said again, it is replaced while it is open.

        Raises
        ------
        InputError
            The case was decided by others meanwhile, or expired.
        """
        with self._file.transaction() as db:
            key, state, flags = self._row(db, number, "key, state, flags")
            if state not in OPEN:
                raise InputError(f"case {number} is {state} already; go on with the next one")
            rows = None if answer.rows is None else seal(pack_rows(answer.rows), key=self._key, bound_to=key)
            kept = seconds if seconds is not None and 0 <= seconds <= SLOWEST_S else None
            db.execute(
                "INSERT OR REPLACE INTO decisions (number, reader, kind, rows, at, seconds) VALUES (?, ?, ?, ?, ?, ?)",
                (number, reader, answer.kind, rows, self._clock(), kept),
            )
            return self._weigh(db, number, CaseState(state), flags)

    def undo(self, reader: str) -> Case | None:
        """Take back a reader's last decision that isn't settled, and hold its case again; None where there is none."""
        with self._file.transaction() as db:
            row = db.execute(
                "SELECT seq, number, state, flags FROM decisions JOIN cases USING (number) "
                "WHERE reader = ? AND state IN (?, ?, ?) ORDER BY seq DESC LIMIT 1",
                (reader, *OPEN, CaseState.ANSWERED),
            ).fetchone()
            if row is None:
                return None
            seq, number, state, flags = row
            db.execute("DELETE FROM decisions WHERE seq = ?", (seq,))
            self._weigh(db, number, CaseState(state), flags)
            db.execute(
                "UPDATE cases SET held_by = ?, held_until = ? WHERE number = ?",
                (reader, self._clock() + HOLD_S, number),
            )
            return self._case(db, number)

    def take_answered(self, *, longer_ago_s: float) -> list[int]:
        """Take the answers that nobody took back for so long; from now on nobody can.

        Returns
        -------
        list of int
            Numbers of the cases, those too that were taken before and are not settled.
        """
        with self._file.transaction() as db:
            ready = db.execute(
                "SELECT number FROM cases WHERE state = ? AND since <= ?",
                (CaseState.ANSWERED, self._clock() - longer_ago_s),
            ).fetchall()
            for (number,) in ready:
                self._move(db, number, CaseState.ANSWERED, CaseState.SETTLING)
            found = db.execute("SELECT number FROM cases WHERE state = ? ORDER BY since, number", (CaseState.SETTLING,))
            return [number for (number,) in found]

    def answer_of(self, number: int) -> Answer:
        """The answer that holds of an answered case.

        Raises
        ------
        InputError
            It has none.
        """
        with self._file.reading() as db:
            key, chosen = self._row(db, number, "key, chosen")
            answers = self._answers(db, number, key, only=chosen)
        if chosen is None or not answers:
            raise InputError(f"case {number} has no answer")
        return answers[0]

    def settle(self, number: int) -> None:
        """What a taken answer says is in the outbox: its case's image and answers are erased."""
        with self._file.transaction() as db:
            self._move(db, number, CaseState.SETTLING, CaseState.SETTLED)
            self._erase(db, number)
        self._empty_wal()

    def expire(self, *, older_than_s: float) -> int:
        """Erase what nobody answered for so long, or what could not be provided; how many there were."""
        with self._file.transaction() as db:
            old = db.execute(
                "SELECT number, state FROM cases WHERE state NOT IN (?, ?) AND put_at <= ?",
                (CaseState.SETTLED, CaseState.EXPIRED, self._clock() - older_than_s),
            ).fetchall()
            for number, state in old:
                self._move(db, number, CaseState(state), CaseState.EXPIRED)
                self._erase(db, number)
        if old:
            self._empty_wal()
        return len(old)

    def progress(self, reader: str) -> Progress:
        """How far the review is, for one reader."""
        with self._file.reading() as db:
            (count,) = db.execute(
                f"SELECT COUNT(*) FROM cases WHERE state IN (?1, ?2) AND {_MINE_TOO}",  # noqa: S608
                {"1": OPEN[0], "2": OPEN[1], "reader": reader},
            ).fetchone()
            times = db.execute(
                "SELECT seconds FROM decisions WHERE reader = ? AND at >= ?", (reader, self._clock() - DAY_S)
            ).fetchall()
        seconds = [s for (s,) in times if s is not None]
        return Progress(count, len(times), statistics.median(seconds) if seconds else None)

    def counts(self) -> dict[CaseState, int]:
        """Cases by state."""
        with self._file.reading() as db:
            found = dict(db.execute("SELECT state, COUNT(*) FROM cases GROUP BY state").fetchall())
        return {state: found.get(state, 0) for state in CaseState}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _weigh(self, db: sqlite3.Connection, number: int, state: CaseState, flags: int) -> CaseState:
        """From all decisions of a case to its state."""
        (key,) = self._row(db, number, "key")
        seqs = [s for (s,) in db.execute("SELECT seq FROM decisions WHERE number = ? ORDER BY seq", (number,))]
        answers = self._answers(db, number, key)
        chosen: int | None = None
        if len(answers) < self._readers:
            new = CaseState.WAITING
        elif self._readers == 1 or agree(answers[0], answers[1], flags=flags):
            new, chosen = CaseState.ANSWERED, seqs[0]
        elif len(answers) > self._readers:
            new, chosen = CaseState.ANSWERED, seqs[-1]
        else:
            new = CaseState.DISPUTED
        if new is not state:
            self._move(db, number, state, new)
        db.execute(
            "UPDATE cases SET chosen = ?, held_by = NULL, held_until = 0, since = ? WHERE number = ?",
            (chosen, self._clock(), number),
        )
        return new

    def _move(self, db: sqlite3.Connection, number: int, old: CaseState, new: CaseState) -> None:
        if (old, new) not in TRANSITIONS:
            raise InputError(f"case {number} is {old} and can't become {new}")
        moved = db.execute(
            "UPDATE cases SET state = ?, since = ? WHERE number = ? AND state = ?", (new, self._clock(), number, old)
        )
        if not moved.rowcount:
            raise InputError(f"case {number} is not {old} any more")

    @staticmethod
    def _erase(db: sqlite3.Connection, number: int) -> None:
        db.execute("UPDATE cases SET sealed = NULL WHERE number = ?", (number,))
        db.execute("UPDATE decisions SET rows = NULL WHERE number = ?", (number,))

    def _empty_wal(self) -> None:
        """The write-ahead log holds what was erased, though encrypted, until it is emptied."""
        with self._file.reading() as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _case(self, db: sqlite3.Connection, number: int) -> Case:
        key, state, sealed = self._row(db, number, "key, state, sealed")
        if sealed is None:
            raise InputError(f"case {number} is {state}, and its image is erased")
        asked = unpack(unseal(sealed, key=self._key, bound_to=key), key=key)
        answers = self._answers(db, number, key) if state == CaseState.DISPUTED else ()
        return Case(number, CaseState(state), asked, tuple(answers))

    def _answers(self, db: sqlite3.Connection, number: int, key: bytes, *, only: int | None = None) -> list[Answer]:
        found: list[tuple[int, Kind, bytes | None]] = db.execute(
            "SELECT seq, kind, rows FROM decisions WHERE number = ? ORDER BY seq", (number,)
        ).fetchall()
        return [
            Answer(kind, None if rows is None else unpack_rows(unseal(rows, key=self._key, bound_to=key)))
            for seq, kind, rows in found
            if only is None or seq == only
        ]

    @staticmethod
    def _row(db: sqlite3.Connection, number: int, columns: str) -> tuple[Any, ...]:
        row: tuple[Any, ...] | None = db.execute(
            f"SELECT {columns} FROM cases WHERE number = ?",  # noqa: S608  The columns are named in this file.
            (number,),
        ).fetchone()
        if row is None:
            raise InputError(f"there is no case {number}")
        return row


def _opened(path: Path) -> sqlite3.Connection:
    db = connect(path, kind=KIND)
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise StorageError(f"'{path}' was written by a newer featureloop (format {version}); update this one")
        db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db
