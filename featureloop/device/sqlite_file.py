"""A SQLite file of the device: opened for its user only, every commit flushed, errors with what to do."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featureloop.core.errors import StorageError

BUSY_S = 10.0
_HINTS = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space; what was put before is kept",
    sqlite3.SQLITE_IOERR: "the disk can't be read or written: check its free space and its health",
    sqlite3.SQLITE_READONLY: "it can't be written: check the permissions of the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "it can't be opened: check that the folder exists and may be written",
    sqlite3.SQLITE_CORRUPT: "it is damaged: move it away, a new one is made; {lost}",
    sqlite3.SQLITE_NOTADB: "it is no {kind}, or damaged: move it away, a new one is made",
    sqlite3.SQLITE_BUSY: f"another process held it for over {BUSY_S:.0f} s: try again",
}


@contextmanager
def translated(path: Path, *, kind: str, lost: str) -> Iterator[None]:
    """SQLite's errors as StorageError, with what to do.

    Parameters
    ----------
    kind
        What the file is, for people.
    lost
        What becomes of the content of a damaged one.
    """
    try:
        yield
    except sqlite3.Error as error:
        # An extended code keeps its primary code in the low byte.
        hint = _HINTS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "check the disk and the file")
        raise StorageError(f"the {kind} '{path}': {error}; {hint.format(kind=kind, lost=lost)}") from error


def connect(path: Path, *, kind: str) -> sqlite3.Connection:
    """Open the file, or make it (mode 0600), with every commit flushed to the disk, and what is deleted overwritten.

    Raises
    ------
    StorageError
        It can't be made.
    sqlite3.Error
        It is no database, or can't be read; see `translated`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Only a new file is opened here: closing a second descriptor would drop this process's locks on it.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise StorageError(f"the {kind} '{path}' can't be made: {error}; check the folder's permissions") from error
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
            db.execute(f"PRAGMA {pragma}")
    except BaseException:
        db.close()
        raise
    return db


class SqliteFile:
    """An opened file that several threads use, one at a time.

    Parameters
    ----------
    path, kind, lost
        As `translated` has them.
    db
        The connection, which it closes.
    """

    def __init__(self, path: Path, db: sqlite3.Connection, *, kind: str, lost: str) -> None:
        self._path, self._db, self._kind, self._lost = path, db, kind, lost
        self._lock = threading.RLock()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is written in it, or nothing: durable at its end.

        Raises
        ------
        StorageError
            SQLite can't; the next transaction begins anew.
        """
        with self.reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some errors, a full disk among them.
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for reading.

        Raises
        ------
        StorageError
            SQLite can't.
        """
        with self._lock, translated(self._path, kind=self._kind, lost=self._lost):
            yield self._db

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
