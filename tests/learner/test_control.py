"""The control database: durable, private, of one version, and its errors translated."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from featureloop.core.errors import StorageError
from featureloop.learner.control import METADATA, Control, Event, codes, intake, packages
from featureloop.sharing.record import SCHEMA


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "control.sqlite"


def opened(file: Path, **settings: int) -> Control:
    return Control(f"sqlite:///{file}", **settings)


def test_a_commit_is_flushed_and_the_file_private(file: Path) -> None:
    """WAL with synchronous = FULL (2) on every connection, secure deletion, and mode 0600."""
    control = opened(file)
    with control.write() as connection:
        asked = {p: connection.exec_driver_sql(f"PRAGMA {p}").scalar_one() for p in ("journal_mode", "synchronous")}
        assert connection.exec_driver_sql("PRAGMA secure_delete").scalar_one() == 1
    assert asked == {"journal_mode": "wal", "synchronous": 2}
    assert file.stat().st_mode & 0o777 == 0o600
    control.close()


def test_the_intake_holds_the_record_schema_and_nothing_else() -> None:
    """No column can hold what the allow-list doesn't know."""
    assert [c.name for c in intake.columns] == SCHEMA.names
    assert {c.name for c in intake.columns if c.nullable} == {f.name for f in SCHEMA if f.nullable}


def test_what_fails_is_rolled_back(file: Path) -> None:
    """A transaction is there whole or not at all."""
    control = opened(file)
    row = {"code_hash": bytes(32), "site": "a", "expires": 1.0}
    with pytest.raises(sa.exc.IntegrityError), control.write() as connection:
        connection.execute(codes.insert(), [row, row])
    with control.read() as connection:
        assert connection.execute(sa.select(codes)).all() == []
    control.close()


def test_it_opens_again_and_keeps_decisions(file: Path) -> None:
    """Decisions outlive the process, the newest first."""
    first = opened(file)
    events = [Event(float(i), "operator", "invite", f"site-{i}", "code made") for i in range(3)]
    for event in events:
        with first.write() as connection:
            first.note(connection, event)
    first.close()
    second = opened(file)
    assert second.decisions() == tuple(reversed(events))
    assert second.decisions(limit=1) == (events[2],)
    second.close()


def test_another_version_is_refused(file: Path) -> None:
    """Tables that mean something else are not touched."""
    opened(file).close()
    with sqlite3.connect(file) as db:
        db.execute("UPDATE schema_version SET tables = 99")
    db.close()
    with pytest.raises(StorageError, match=r"version \(99, 1\).*use the version that made it"):
        opened(file)


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\1" * 4000])
def test_a_damaged_file_is_a_storage_error(file: Path, content: bytes) -> None:
    """Damage is told at once, with what to do."""
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(StorageError, match=r"control.sqlite.*backup"):
        opened(file)


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "data").write_text("a file")
    with pytest.raises(StorageError, match="can't be made"):
        opened(tmp_path / "data" / "control.sqlite")


def test_a_full_disk_is_told_early(file: Path) -> None:
    """Below the watermark nothing more is taken, so that there is room to move what was."""
    control = opened(file, min_free=1 << 60)
    with pytest.raises(StorageError, match=r"MiB free, .* free some space"):
        control.check_space()
    control.close()
    opened(file, min_free=0).check_space()


def test_a_line_has_one_live_package_by_the_databases_own_rule(file: Path) -> None:
    """Whatever the code does, the database refuses a second one."""
    control = opened(file)
    row = {"line": "l", "state": "live", "created": 0.0, "metrics": {}}
    with control.write() as connection:
        connection.execute(packages.insert().values(digest="a", **row))
    with pytest.raises(sa.exc.IntegrityError), control.write() as connection:
        connection.execute(packages.insert().values(digest="b", **row))
    with control.write() as connection:
        connection.execute(packages.insert().values(digest="b", **(row | {"state": "candidate"})))
    control.close()


def test_the_tables_are_made_of_portable_types() -> None:
    """PostgreSQL takes the same tables: every statement compiles for it."""
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.schema import CreateTable

    for table in METADATA.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=postgresql.dialect()))
