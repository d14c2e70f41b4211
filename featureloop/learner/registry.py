"""The registry: packages by digest, and which one of each line is live.

The files are in `packages/<digest>/`, the states in the control database. A
package's directory is complete before the database names it, and a line's live
package changes in one transaction.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from featureloop.core.errors import GateError, PackageError, StorageError
from featureloop.core.ports import Clock
from featureloop.learner.control import Control, Event
from featureloop.learner.control import packages as rows
from featureloop.learner.keys import SigningKeys
from featureloop.learner.lifecycle import ENTRIES, TRANSITIONS, Entry, State, Step, after
from featureloop.learner.locks import sync_tree
from featureloop.model.manifest import Manifest
from featureloop.model.package import MANIFEST, Package, load_package, sign_package

__all__ = ["ENTRIES", "TRANSITIONS", "Entry", "Registry", "State", "Step", "after"]

_INCOMING = ".incoming-"
_SHORTEST_PREFIX = 4


@dataclass(frozen=True, slots=True)
class Registry:
    """Packages on disk and their states.

    Attributes
    ----------
    path
        The folder of packages.
    control
        Where the states are kept.
    keys
        What signs.
    clock
        Seconds since the epoch.
    """

    path: Path
    control: Control
    keys: SigningKeys
    clock: Clock = field(default=time.time, compare=False)
    _manifests: dict[str, Manifest] = field(default_factory=dict, compare=False, repr=False)

    def add(self, package: Path | Package, *, metrics: Mapping[str, Any], state: str = "candidate") -> Package:
        """Copy a package in and sign it; one that is here already stays as it is.

        Raises
        ------
        PackageError
            It is no package, or was changed since it was loaded.
        GateError
            `state` is none that a package comes in with.
        StorageError
            The disk is full.
        """
        if state not in ENTRIES:
            raise GateError(f"a package can't be added as '{state}', only as {' or '.join(ENTRIES)}; promote it then")
        given = load_package(package if isinstance(package, Path) else package.path)
        if isinstance(package, Package) and given.digest != package.digest:
            raise PackageError(f"package '{package.path}' was changed since it was loaded; load it again")
        digest = given.digest.hex()
        if not self._knows(digest):
            self._keep_files(given)
            self._keep_row(given, metrics, State(state))
        return self._load(digest)

    def promote(self, digest: str) -> Package:
        """Make a candidate live; the line's live package retires in the same transaction.

        Parameters
        ----------
        digest
            Its first digits.

        Raises
        ------
        GateError
            No or more than one package fits, it is no candidate, or the live package has a task that it lacks.
        PackageError
            Its files are damaged; nothing was changed.
        """
        chosen = self._load(self.find(digest).digest)
        with self.control.write() as connection:
            entry = self._entry(connection, chosen.digest.hex())
            state = after(entry.state, Step.PROMOTE)
            live = self._live(connection, entry.line)
            if live is not None:
                self._check_tasks(chosen, live)
                self._set(connection, live, Step.RETIRE, after(live.state, Step.RETIRE))
            self._set(connection, entry, Step.PROMOTE, state, replaced=live.digest if live else None)
        return chosen

    def rollback(self, line: str) -> Package:
        """Retire a line's live package, and make the one that it replaced live again.

        Raises
        ------
        GateError
            The line has no live package, or that one replaced none.
        PackageError
            The earlier package's files are damaged; nothing was changed.
        """
        with self.control.write() as connection:
            live = self._live(connection, line)
            if live is None:
                raise GateError(f"line {line[:12]} has no live package; promote a candidate")
            if live.replaced is None:
                raise GateError(f"package {live.digest[:12]} is the first of its line; there is none to roll back to")
            earlier = self._entry(connection, live.replaced)
            chosen = self._load(earlier.digest)
            state = after(earlier.state, Step.ROLLBACK)
            self._set(connection, live, Step.RETIRE, after(live.state, Step.RETIRE))
            self._set(connection, earlier, Step.ROLLBACK, state, replaced=earlier.replaced)
        return chosen

    def reject(self, digest: str) -> Entry:
        """Refuse a candidate for good.

        Raises
        ------
        GateError
            No or more than one package fits, or it is no candidate.
        """
        found = self.find(digest)
        with self.control.write() as connection:
            entry = self._entry(connection, found.digest)
            self._set(connection, entry, Step.REJECT, after(entry.state, Step.REJECT))
        return self.find(found.digest)

    def live(self, line: str) -> Package | None:
        """A line's live package, checked whole; None where there is none."""
        digest = self.live_digest(line)
        return None if digest is None else self._load(digest)

    def live_digest(self, line: str) -> str | None:
        """The digest of a line's live package, without reading its files."""
        with self.control.read() as connection:
            entry = self._live(connection, line)
        return None if entry is None else entry.digest

    def list(self) -> tuple[Entry, ...]:
        """All packages, in the order in which they came."""
        with self.control.read() as connection:
            return tuple(_read(row) for row in connection.execute(sa.select(rows).order_by(rows.c.created)))

    def find(self, digest: str) -> Entry:
        """The one package whose digest begins so.

        Raises
        ------
        GateError
            None or more than one does, or the beginning is too short to mean one.
        """
        prefix = digest.lower()
        if len(prefix) < _SHORTEST_PREFIX or not set(prefix) <= set("0123456789abcdef"):
            raise GateError(f"'{digest[:70]}' is no beginning of a digest; give at least 4 hexadecimal digits")
        found = [e for e in self.list() if e.digest.startswith(prefix)]
        if not found:
            raise GateError(f"no package begins with '{digest[:70]}'; 'package list' shows all")
        if len(found) > 1:
            names = ", ".join(e.digest[:16] for e in found[:5])
            raise GateError(f"{len(found)} packages begin with '{digest[:70]}' ({names}); give more digits")
        return found[0]

    def get(self, digest: str) -> Package:
        """The one package whose digest begins so, checked whole; errors as `find` and `load_package`."""
        return self._load(self.find(digest).digest)

    def declared(self, digest: bytes) -> Manifest | None:
        """The manifest of a package that devices may hold; None where it is unknown or was rejected."""
        name = digest.hex()
        chosen = sa.select(rows.c.state).where(rows.c.digest == name)
        with self.control.read() as connection:
            state = connection.execute(chosen).scalar_one_or_none()
        if state is None or state == State.REJECTED:
            return None
        if name not in self._manifests:
            # The digest is the manifest's own hash, so what was read once stays right.
            self._manifests[name] = self._load(name).manifest
        return self._manifests[name]

    def knows(self, digest: bytes) -> bool:
        """Whether a package was added here, whatever became of it."""
        return self._knows(digest.hex())

    def _check_tasks(self, chosen: Package, live: Entry) -> None:
        """Refuse to take a task away from the devices: a task was added since the candidate was trained."""
        try:
            before = self._load(live.digest).manifest.tasks
        except PackageError:
            return  # A damaged package can't hold back what replaces it.
        if missing := [task for task in before if task not in chosen.manifest.tasks]:
            raise GateError(
                f"package {chosen.short} doesn't recognize {', '.join(missing)}, which the live package "
                f"{live.digest[:12]} does; train a candidate from that one"
            )

    def _knows(self, digest: str) -> bool:
        with self.control.read() as connection:
            return connection.execute(sa.select(rows.c.digest).where(rows.c.digest == digest)).first() is not None

    def _keep_files(self, given: Package) -> None:
        """Copy, check, sign and flush under a passing name, then rename to the digest."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=_INCOMING, dir=self.path) as name:
                work = Path(name) / "package"
                for part in (*given.manifest.files, MANIFEST):
                    (work / part).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(given.file(part), work / part)
                copied = load_package(work)
                if copied.digest != given.digest:
                    raise PackageError(f"package '{given.path}' was changed while it was copied; add it again")
                sign_package(copied, self.keys.signing())
                sync_tree(work, known=set())
                self._place(work, self.path / given.digest.hex())
        except OSError as error:
            raise StorageError(f"the package can't be kept in '{self.path}': {error}; free some space") from error

    def _place(self, work: Path, target: Path) -> None:
        if target.exists():
            # Left by a process that was killed before the database named it, or being added by another.
            target.rename(work.with_name("earlier"))
        work.rename(target)
        sync_tree(target, known=set())

    def _keep_row(self, given: Package, metrics: Mapping[str, Any], state: State) -> None:
        now = self.clock()
        row = {
            "digest": given.digest.hex(),
            "line": given.line,
            "state": state,
            "created": now,
            "parent": given.manifest.lineage.parent,
            "metrics": dict(metrics),
        }
        try:
            with self.control.write() as connection:
                connection.execute(rows.insert().values(row))
                self.control.note(connection, Event(now, "operator", "add", given.digest.hex(), state))
        except sa.exc.IntegrityError:
            # Another process added the same package meanwhile: the same digest, the same files.
            return

    def _load(self, digest: str) -> Package:
        package = load_package(self.path / digest)
        if package.digest.hex() != digest:
            raise PackageError(f"package '{package.path}' has digest {package.short}; restore it from a backup")
        return package

    def _entry(self, connection: sa.Connection, digest: str) -> Entry:
        return _read(connection.execute(sa.select(rows).where(rows.c.digest == digest)).one())

    def _live(self, connection: sa.Connection, line: str) -> Entry | None:
        chosen = sa.select(rows).where((rows.c.line == line) & (rows.c.state == State.LIVE))
        row = connection.execute(chosen).one_or_none()
        return None if row is None else _read(row)

    def _set(
        self, connection: sa.Connection, entry: Entry, step: Step, state: State, *, replaced: str | None = None
    ) -> None:
        kept = replaced if state is State.LIVE else entry.replaced
        chosen = (rows.c.digest == entry.digest) & (rows.c.state == entry.state)
        if connection.execute(rows.update().where(chosen).values(state=state, replaced=kept)).rowcount != 1:
            raise GateError(f"package {entry.digest[:12]} was changed at this moment by another process; look again")
        self.control.note(connection, Event(self.clock(), "operator", step, entry.digest, state))


def _read(row: Any) -> Entry:
    return Entry(row.digest, row.line, State(row.state), row.created, row.parent, row.replaced, row.metrics)
