"""Control data: enrolment, devices, what is on its way into the store, packages, and decisions.

SQLAlchemy Core over SQLite by default. Every commit is flushed to the disk
before it returns, and erased payloads are overwritten, not only forgotten.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection

from featureloop.core.errors import StorageError
from featureloop.sharing.record import SCHEMA, SCHEMA_VERSION

VERSION = 1
BUSY_S = 30.0
_MIN_FREE = 64 << 20
"""Free bytes on the disk below which nothing more is taken: the way out of a full disk needs some."""

METADATA = sa.MetaData()


def _column(field: pa.Field) -> sa.Column[Any]:
    """A record's field as a column: the allow-list holds in the database, too."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    binary = pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind)
    chosen: Any = sa.LargeBinary if binary else sa.String if pa.types.is_string(kind) else sa.Integer
    if pa.types.is_floating(kind):
        # The id is the hash of the float32 value, which a double holds exactly.
        chosen = sa.Double
    return sa.Column(field.name, chosen, primary_key=field.name == "id", nullable=field.nullable)


schema_version = sa.Table(
    "schema_version",
    METADATA,
    sa.Column("tables", sa.Integer, primary_key=True),
    sa.Column("record", sa.Integer, nullable=False),
)
codes = sa.Table(
    "enrolment_codes",
    METADATA,
    sa.Column("code_hash", sa.LargeBinary(32), primary_key=True),
    sa.Column("site", sa.String(32), nullable=False),
    sa.Column("expires", sa.Double, nullable=False),
    sa.Column("used_by", sa.String(32)),
)
devices = sa.Table(
    "devices",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("site", sa.String(32), nullable=False, index=True),
    sa.Column("token_hash", sa.LargeBinary(32), nullable=False, unique=True),
    sa.Column("enrolled", sa.Double, nullable=False),
    sa.Column("revoked", sa.Double),
)
intake = sa.Table("intake", METADATA, *(_column(f) for f in SCHEMA))
received = sa.Table(
    "received",
    METADATA,
    sa.Column("id", sa.LargeBinary(32), primary_key=True),
    sa.Column("device", sa.String(32), nullable=False),
    sa.Column("when", sa.Double, nullable=False),
)
packages = sa.Table(
    "packages",
    METADATA,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("line", sa.String(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("parent", sa.String(64)),
    sa.Column("replaced", sa.String(64)),
    sa.Column("metrics", sa.JSON, nullable=False),
)
# The database itself holds that a line has one live package.
sa.Index(
    "one_live_per_line",
    packages.c.line,
    unique=True,
    sqlite_where=packages.c.state == "live",
    postgresql_where=packages.c.state == "live",
)
events = sa.Table(
    "events",
    METADATA,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("actor", sa.String(64), nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("subject", sa.String(64), nullable=False),
    sa.Column("outcome", sa.String(32), nullable=False),
)


@dataclass(frozen=True, slots=True)
class Event:
    """A decision: who did what to what, and what came of it.

    Attributes
    ----------
    at
        Seconds since the epoch.
    actor
        `operator`, or a device's id.
    action, subject, outcome
        Such as `promote`, a package's digest, `live`.
    """

    at: float
    actor: str
    action: str
    subject: str
    outcome: str


class Control:
    """The control database.

    Parameters
    ----------
    url
        Any SQLAlchemy URL. Tables are made where there are none.
    min_free
        Free bytes that must remain on a SQLite file's disk.

    Raises
    ------
    StorageError
        It can't be opened, or was made by another version.
    """

    def __init__(self, url: str, *, min_free: int = _MIN_FREE) -> None:
        self._url = sa.make_url(url)
        self._sqlite = self._url.get_backend_name() == "sqlite"
        self._min_free = min_free
        self.engine = sa.create_engine(self._url, pool_size=16, max_overflow=32, pool_pre_ping=not self._sqlite)
        if self._sqlite:
            self._make_private()
            sa.event.listen(self.engine, "connect", _set_up)
            sa.event.listen(self.engine, "begin", _begin)
        with self.write() as connection:
            METADATA.create_all(connection)
            self._check_version(connection)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state, and changes nothing.

        Raises
        ------
        StorageError
            The database can't be read.
        """
        with self._translated(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that is on the disk when the block ends, or not there at all.

        Raises
        ------
        StorageError
            The disk is full, or another process wrote for too long.
        """
        with (
            self._translated(),
            self.engine.connect().execution_options(featureloop_write=True) as connection,
            connection.begin(),
        ):
            yield connection

    def check_space(self) -> None:
        """Refuse early while a disk is nearly full.

        Raises
        ------
        StorageError
            Less than `min_free` bytes are free.
        """
        if not self._sqlite or not self._url.database:
            return
        status = os.statvfs(Path(self._url.database).parent)
        free = status.f_bavail * status.f_frsize
        if free < self._min_free:
            raise StorageError(
                f"the learner's disk has {free >> 20} MiB free, it keeps {self._min_free >> 20}; free some space"
            )

    def forget(self) -> None:
        """Clear the write-ahead log, so that deleted payloads are gone from it, too."""
        if self._sqlite:
            with self._translated(), self.engine.connect() as connection:
                connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").close()

    def note(self, connection: sa.Connection, event: Event) -> None:
        """Keep a decision, in the transaction that carries it out."""
        connection.execute(
            events.insert().values(
                at=event.at, actor=event.actor, action=event.action, subject=event.subject, outcome=event.outcome
            )
        )

    def decisions(self, *, limit: int = 1_000) -> tuple[Event, ...]:
        """The newest decisions, the newest first."""
        chosen = [c for c in events.c if c.name != "seq"]
        with self.read() as connection:
            rows = connection.execute(sa.select(*chosen).order_by(events.c.seq.desc()).limit(limit))
            return tuple(Event(*row) for row in rows)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def _make_private(self) -> None:
        path = Path(self._url.database or "")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                # Without O_EXCL: where another process makes it at this moment, that one is used.
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        except OSError as error:
            raise StorageError(f"the control database '{path}' can't be made: {error}; check its folder") from error

    def _check_version(self, connection: sa.Connection) -> None:
        found = connection.execute(sa.select(schema_version)).all()
        expected = (VERSION, SCHEMA_VERSION)
        if not found:
            connection.execute(schema_version.insert().values(tables=VERSION, record=SCHEMA_VERSION))
        elif [tuple(row) for row in found] != [expected]:
            raise StorageError(
                f"{self._named()} has tables of version {tuple(found[0])}, this featureloop reads {expected}; "
                "use the version that made it, or another directory"
            )

    def _named(self) -> str:
        return f"the control database '{self._url.render_as_string(hide_password=True)}'"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.IntegrityError:
            # A row was there already: the caller's rule, not the disk's fault.
            raise
        except sa.exc.SQLAlchemyError as error:
            what = str(error.orig) if isinstance(error, sa.exc.DBAPIError) else str(error)
            raise StorageError(
                f"{self._named()}: {what[:200]}; check the disk's free space and permissions, "
                "and restore the file from a backup where it is damaged"
            ) from error


def _set_up(connection: DBAPIConnection, _record: object) -> None:
    # The driver's own BEGIN comes late and without a lock; `_begin` sends the right one.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {int(BUSY_S * 1000)}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "secure_delete = ON",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("featureloop_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
