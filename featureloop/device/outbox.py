"""The outbox: what waits to leave the site, what left, and which frames are done.

A SQLite file in WAL mode. Records are leased, never popped: what a killed
process had in its hands goes back to waiting when its lease ends. A record's
identity is the hash of its content, so a repeat changes nothing.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Self

from featureloop.core.errors import InputError, StorageError
from featureloop.core.ports import Clock, Receipt
from featureloop.device.outbox_file import (
    KIND,
    LOST,
    SETTLED,
    TRANSITIONS,
    Entry,
    Item,
    State,
    insert_record,
    open_file,
    payload_bytes,
    read_record,
)
from featureloop.device.rounds import AT_ONCE, Rounds, most_informative, ready
from featureloop.device.sqlite_file import SqliteFile, translated
from featureloop.sharing.change import ASKED
from featureloop.sharing.policy import Sending
from featureloop.sharing.record import MAX_BODY, MAX_RECORDS_PER_BODY, Record

__all__ = ["SETTLED", "TRANSITIONS", "Entry", "Item", "Outbox", "State", "payload_bytes"]

RETENTION_S = 90 * 86_400.0
WATERMARK = 4 << 30
REPEAT = "repeat"
"""The outcome of a frame whose record another frame had brought already."""
_LEASE_BYTES = MAX_BODY // 2
_DAY_S = 86_400
_MARK = (
    "INSERT INTO frames VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE"
    " SET outcome = excluded.outcome, at = excluded.at WHERE outcome = 'asked'"
)
_ENTRY = (
    "SELECT e.id, e.state, e.bytes, r.period, e.put_at, e.reason, e.seq"
    " FROM entries AS e LEFT JOIN records AS r ON r.seq = e.seq "
)


class Outbox:
    """Records on their way to the learner, safe across threads, processes and power cuts.

    Parameters
    ----------
    path
        The SQLite file, made where it is missing (mode 0600).
    clock
        Seconds since the epoch.
    byte_budget
        Payload bytes that may be delivered per UTC day; None for no limit.
    max_bytes
        Payload bytes that may wait; beyond it `put` refuses.
    retention_s
        What has waited longer than this many seconds expires.
    sending
        When `lease_due` gives records out.
    rng
        Draws which records leave, and in what order.

    Raises
    ------
    StorageError
        From every method: the file can't be read or written, is damaged, or the disk is full.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock = time.time,
        byte_budget: int | None = None,
        max_bytes: int = WATERMARK,
        retention_s: float = RETENTION_S,
        sending: Sending = AT_ONCE,
        rng: random.Random | None = None,
    ) -> None:
        self._path = path
        self._clock = clock
        self._budget = byte_budget
        self._max_bytes = max_bytes
        self._retention_s = retention_s
        self._rng = random.SystemRandom() if rng is None else rng
        self._rounds = Rounds(sending, phase=self._rng.random())
        with translated(path, kind=KIND, lost=LOST):
            self._file = SqliteFile(path, open_file(path), kind=KIND, lost=LOST)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. What is leased stays leased until its lease ends."""
        self._file.close()

    def put(
        self, record: Record, *, frame_key: bytes | None, others: Collection[bytes] = (), priority: float = 0.0
    ) -> bool:
        """Store a record durably, and mark its frames as done in the same transaction.

        Parameters
        ----------
        record
            What is to leave.
        frame_key
            Keyed hash of the frame that it was made of; None marks no frame.
        others
            Of further frames that share the record.
        priority
            What leaves first where the day's budget doesn't suffice for all: the larger. It is kept beside the record.

        Returns
        -------
        bool
            False where the record is already known, in whatever state, or where its frames are all done: what leaves
            of a frame is what was put first. A frame that waits for an answer is not done in this sense.
        """
        size, now = payload_bytes(record), self._clock()
        with self._file.transaction() as db:
            keys = [key for key in (frame_key, *others) if key is not None]
            settled = bool(keys) and all(_outcome(db, key) not in (None, ASKED) for key in keys)
            new = not settled and db.execute("SELECT 1 FROM entries WHERE id = ?", (record.id,)).fetchone() is None
            if new:
                self._below_watermark(db, size)
                added = db.execute(
                    "INSERT INTO entries (id, state, bytes, put_at, since, priority) VALUES (?, ?, ?, ?, ?, ?)",
                    (record.id, State.PENDING, size, now, now, priority),
                )
                insert_record(db, added.lastrowid, record)
            for key in keys:
                db.execute(_MARK, (key, "put" if new else REPEAT, now))
        return new

    def mark_done(self, frame_key: bytes, outcome: str) -> None:
        """Remember a frame from which nothing leaves, and why; the first outcome stays, but for `asked`."""
        with self._file.transaction() as db:
            db.execute(_MARK, (frame_key, outcome, self._clock()))

    def done(self, frame_key: bytes) -> bool:
        """Whether a frame needs no more work."""
        with self._file.reading() as db:
            return db.execute("SELECT 1 FROM frames WHERE key = ?", (frame_key,)).fetchone() is not None

    def outcome(self, frame_key: bytes) -> str | None:
        """How a frame ended; None: it didn't.

        `put`, `REPEAT`, `asked` while it waits for an answer, or why nothing leaves.
        """
        with self._file.reading() as db:
            return _outcome(db, frame_key)

    def lease(self, *, limit: int, seconds: float) -> tuple[Record, ...]:
        """Take waiting records for some time: any of them, drawn at random and in random order.

        The order of processing would tell which records are of one
        examination, so it isn't kept. What exceeds the day's byte budget
        keeps waiting: what has the largest priorities is chosen, and leaves in random order.
        """
        return self._lease(limit, seconds, Rounds(AT_ONCE))

    def lease_due(self, *, limit: int, seconds: float) -> tuple[Record, ...]:
        """As `lease`, of what may leave by the site's rounds; nothing where too few came in them."""
        return self._lease(limit, seconds, self._rounds)

    def _lease(self, limit: int, seconds: float, rounds: Rounds) -> tuple[Record, ...]:
        if not 1 <= limit <= MAX_RECORDS_PER_BODY or not seconds > 0:
            raise ValueError(f"limit must be 1 to {MAX_RECORDS_PER_BODY} and seconds positive, not {limit}, {seconds}")
        now, taken = self._clock(), []
        with self._file.transaction() as db:
            left = self._left(db, now)
            room = min(_LEASE_BYTES, left)
            found = ready(db, rounds, now=now, room=room)
            if self._budget is not None:
                found = most_informative(found, room=left, rng=self._rng)
            for seq, key, size, _ in self._rng.sample(found, min(limit, len(found))):
                if size > room:
                    continue
                room -= size
                self._move(db, key, State.LEASED, until=now + seconds)
                record = read_record(db, seq)
                if record is None or record.id != key:
                    self._move(db, key, State.REFUSED, reason="damaged on this device's disk")
                else:
                    taken.append(record)
        return tuple(taken)

    def settle(self, receipt: Receipt) -> None:
        """Take the learner's answer: leased records become delivered or refused.

        A record whose lease has ended meanwhile waits again; it is then sent
        a second time, which the learner takes for the repeat that it is.
        """
        with self._file.transaction() as db:
            for key in receipt.held:
                self._move(db, key, State.DELIVERED)
            for key, reason in receipt.refused.items():
                self._move(db, key, State.REFUSED, reason=reason)

    def release(self, ids: Iterable[bytes]) -> None:
        """Give leased records back: they wait again."""
        with self._file.transaction() as db:
            for key in ids:
                self._move(db, key, State.PENDING)

    def reap(self) -> int:
        """Expire what waited too long, and return ended leases to waiting.

        Returns
        -------
        int
            How many records wait again.
        """
        now, returned = self._clock(), 0
        with self._file.transaction() as db:
            # A lease from the future was made by a clock that has been set back since.
            ended = db.execute(
                "SELECT id, put_at FROM entries WHERE state = ? AND (lease_until <= ? OR since > ?)",
                (State.LEASED, now, now),
            ).fetchall()
            old = db.execute(
                "SELECT id, put_at FROM entries WHERE state = ? AND put_at <= ?",
                (State.PENDING, now - self._retention_s),
            ).fetchall()
            for key, put_at in ended + old:
                expired = put_at <= now - self._retention_s
                moved = self._move(db, key, State.EXPIRED if expired else State.PENDING)
                returned += moved and not expired
        return returned

    def counts(self) -> dict[State, int]:
        """How many records are in each state."""
        with self._file.reading() as db:
            found = dict(db.execute("SELECT state, n FROM totals").fetchall())
        return {s: int(found[s]) for s in State}

    def repeats(self) -> int:
        """How many results had a record that another one had brought: with one record each, what `counts` lacks."""
        with self._file.reading() as db:
            return int(db.execute("SELECT COUNT(*) FROM frames WHERE outcome = ?", (REPEAT,)).fetchone()[0])

    def waiting_bytes(self) -> int:
        """Payload bytes that have not been delivered yet."""
        with self._file.reading() as db:
            return _bytes_in(db, State.PENDING) + _bytes_in(db, State.LEASED)

    def delivered(self, *, since: float) -> tuple[int, int]:
        """Records and payload bytes that were delivered since a moment."""
        with self._file.reading() as db:
            return _delivered(db, since)

    def rows(self, *, state: State | None = None, limit: int = 100) -> tuple[Entry, ...]:
        """The newest entries, in one state or in any."""
        with self._file.reading() as db:
            where = "WHERE ?1 IS NULL OR e.state = ?1 ORDER BY e.seq DESC LIMIT ?2"
            return tuple(_entry(r) for r in db.execute(_ENTRY + where, (state, limit)))

    def get(self, id_prefix: str) -> Item:
        """One record by the first hexadecimal digits of its id.

        Raises
        ------
        InputError
            The prefix is no hexadecimal number, or fits no record or several.
        """
        try:
            low, high = (bytes.fromhex(id_prefix.strip().ljust(64, c)) for c in "0f")
        except ValueError as error:
            raise InputError(f"'{id_prefix[:80]}' is no record id; give its first hexadecimal digits") from error
        with self._file.reading() as db:
            found = db.execute(_ENTRY + "WHERE e.id BETWEEN ? AND ? LIMIT 2", (low, high)).fetchall()
            if not found or not id_prefix.strip():
                raise InputError(f"no record's id begins with '{id_prefix[:80]}'; 'featureloop outbox list' shows them")
            if len(found) > 1:
                raise InputError(f"several records' ids begin with '{id_prefix}'; give more digits")
            return Item(_entry(found[0]), read_record(db, found[0][6]))

    def purge(self, *, states: Collection[State], older_than_s: float) -> int:
        """Delete the payloads of settled records; ids and frame keys stay, so that nothing is sent twice.

        Parameters
        ----------
        states
            Some of `SETTLED`.
        older_than_s
            Only what has been in its state for at least this many seconds.

        Returns
        -------
        int
            How many payloads were deleted.

        Raises
        ------
        InputError
            A state is named whose records still wait.
        """
        if wrong := sorted(set(states) - SETTLED):
            raise InputError(f"{', '.join(wrong)} records can't be purged: only {', '.join(sorted(SETTLED))} ones can")
        before, purged = self._clock() - older_than_s, 0
        with self._file.transaction() as db:
            for state in set(states):
                purged += db.execute(
                    "DELETE FROM records WHERE seq IN (SELECT seq FROM entries WHERE state = ? AND since <= ?)",
                    (state, before),
                ).rowcount
        return purged

    def _below_watermark(self, db: sqlite3.Connection, size: int) -> None:
        waiting = _bytes_in(db, State.PENDING) + _bytes_in(db, State.LEASED)
        if waiting + size > self._max_bytes:
            raise StorageError(
                f"{waiting} bytes wait in the outbox '{self._path}', the limit is {self._max_bytes}; "
                "check why the learner takes none, or raise the limit"
            )

    def _left(self, db: sqlite3.Connection, now: float) -> int:
        """Payload bytes that may still leave today; what is leased counts as if delivered today."""
        if self._budget is None:
            return _LEASE_BYTES
        _, delivered = _delivered(db, now // _DAY_S * _DAY_S)
        return self._budget - delivered - _bytes_in(db, State.LEASED)

    def _move(
        self, db: sqlite3.Connection, key: bytes, to: State, *, until: float | None = None, reason: str | None = None
    ) -> bool:
        source = _state(db, key)
        if source is None or (source, to) not in TRANSITIONS:
            return False
        db.execute(
            "UPDATE entries SET state = ?, since = ?, lease_until = ?, reason = ? WHERE id = ?",
            (to, self._clock(), until, reason, key),
        )
        return True


def _state(db: sqlite3.Connection, key: bytes) -> State | None:
    row = db.execute("SELECT state FROM entries WHERE id = ?", (key,)).fetchone()
    return None if row is None else State(row[0])


def _outcome(db: sqlite3.Connection, frame_key: bytes) -> str | None:
    row = db.execute("SELECT outcome FROM frames WHERE key = ?", (frame_key,)).fetchone()
    return None if row is None else str(row[0])


def _bytes_in(db: sqlite3.Connection, state: State) -> int:
    return int(db.execute("SELECT bytes FROM totals WHERE state = ?", (state,)).fetchone()[0])


def _delivered(db: sqlite3.Connection, since: float) -> tuple[int, int]:
    found = db.execute(
        "SELECT count(*), coalesce(sum(bytes), 0) FROM entries WHERE state = ? AND since >= ?",
        (State.DELIVERED, since),
    ).fetchone()
    return int(found[0]), int(found[1])


def _entry(row: tuple[Any, ...]) -> Entry:
    key, state, size, period, put_at, reason, *_ = row
    return Entry(key, State(state), size, period, put_at, reason)
