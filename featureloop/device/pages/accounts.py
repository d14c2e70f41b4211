"""Who may use the pages: names, roles, passwords (scrypt) and sessions, in a small SQLite file of the device.

Names stay at the site: a record only ever says 'clinician'. Passwords are kept as scrypt hashes (RFC 7914), sessions
as SHA-256 of their random tokens, so that a copy of the file opens no page.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from featureloop.core.errors import AuthError, InputError
from featureloop.core.ports import Clock
from featureloop.device.sqlite_file import SqliteFile, connect, translated

SESSION_S = 12 * 3600.0
"""A session ends so long after its last use."""
NOTED_EVERY_S = 60.0
"""A session's use is noted so often at most."""
SHORTEST = 10
LONGEST = 256
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
KIND, LOST = "users' file", "add its users again"
COST = 1 << 15
"""scrypt's N with r = 8 and p = 1: 32 MiB and about 0.1 s a password."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
    name TEXT PRIMARY KEY, role TEXT NOT NULL, cost INTEGER NOT NULL, salt BLOB NOT NULL,
    hash BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sessions (
    token BLOB PRIMARY KEY, name TEXT NOT NULL REFERENCES users(name) ON DELETE CASCADE,
    form TEXT NOT NULL, used REAL NOT NULL) WITHOUT ROWID;
"""


class Role(StrEnum):
    """What a user may do: reviewers decide about results, operators also run the sharing."""

    REVIEWER = "reviewer"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class User:
    """Who is logged in.

    Attributes
    ----------
    name
        As it was given; it never leaves the site.
    role
        What the user may do.
    form
        The session's secret that every change must bring along, so that no other site's page can make one.
    """

    name: str
    role: Role
    form: str


class Accounts:
    """Users and their sessions.

    Parameters
    ----------
    path
        The SQLite file; made where it isn't there, readable by its owner only.
    cost
        scrypt's N for new passwords, a power of 2.
    """

    def __init__(self, path: Path, *, clock: Clock = time.time, cost: int = COST) -> None:
        self._clock, self._cost = clock, cost
        with translated(path, kind=KIND, lost=LOST):
            db = connect(path, kind=KIND)
            db.executescript("PRAGMA foreign_keys = ON;" + _SCHEMA)
        self._file = SqliteFile(path, db, kind=KIND, lost=LOST)

    def add(self, name: str, password: str, *, role: Role) -> None:
        """Add a user, or give one a new password and role; open sessions of that name end.

        Raises
        ------
        InputError
            The name or the password can't be used.
        """
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r:.60} can't be a user's name: up to 32 of a-z, 0-9, '.', '_' and '-'")
        if not SHORTEST <= len(password) <= LONGEST:
            raise InputError(f"a password has {SHORTEST} to {LONGEST} characters, this one has {len(password)}")
        salt = secrets.token_bytes(16)
        hashed = _hash(password, salt, self._cost)
        with self._file.transaction() as db:
            db.execute("DELETE FROM users WHERE name = ?", (name,))
            db.execute("INSERT INTO users VALUES (?, ?, ?, ?, ?)", (name, role, self._cost, salt, hashed))

    def remove(self, name: str) -> None:
        """Remove a user, whose sessions end.

        Raises
        ------
        InputError
            There is none of that name.
        """
        with self._file.transaction() as db:
            if not db.execute("DELETE FROM users WHERE name = ?", (name,)).rowcount:
                raise InputError(f"there is no user '{name}'; 'featureloop device user list' shows them")

    def users(self) -> list[tuple[str, Role]]:
        """All names with their roles."""
        with self._file.reading() as db:
            return [(n, Role(r)) for n, r in db.execute("SELECT name, role FROM users ORDER BY name")]

    def log_in(self, name: str, password: str) -> str:
        """A new session's token.

        Raises
        ------
        AuthError
            Name or password is wrong; which of them is not told, by the time it takes neither.
        """
        with self._file.reading() as db:
            row = db.execute("SELECT cost, salt, hash FROM users WHERE name = ?", (name,)).fetchone()
        cost, salt, expected = row or (self._cost, b"\0" * 16, b"\0" * 32)
        if not hmac.compare_digest(_hash(password[:LONGEST], salt, cost), expected) or row is None:
            raise AuthError("the name or the password is wrong")
        token, now = secrets.token_urlsafe(32), self._clock()
        with self._file.transaction() as db:
            db.execute("DELETE FROM sessions WHERE used < ?", (now - SESSION_S,))
            db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?)", (_digest(token), name, secrets.token_hex(16), now))
        return token

    def user_of(self, token: str) -> User | None:
        """Whose session it is; None where there is none, or it was not used for too long."""
        now = self._clock()
        with self._file.reading() as db:
            row = db.execute(
                "SELECT users.name, role, form, used FROM sessions JOIN users USING (name) WHERE token = ?",
                (_digest(token),),
            ).fetchone()
        if row is None or row[3] < now - SESSION_S:
            return None
        if now - row[3] > NOTED_EVERY_S:  # A page costs no write.
            with self._file.transaction() as db:
                db.execute("UPDATE sessions SET used = ? WHERE token = ?", (now, _digest(token)))
        return User(row[0], Role(row[1]), row[2])

    def log_out(self, token: str) -> None:
        """End a session."""
        with self._file.transaction() as db:
            db.execute("DELETE FROM sessions WHERE token = ?", (_digest(token),))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _hash(password: str, salt: bytes, cost: int) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=cost, r=8, p=1, maxmem=1 << 26, dklen=32)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
