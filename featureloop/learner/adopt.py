"""Adopting a founding package: sign it, make it live, and take its founding records into the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featureloop.core.errors import GateError, RecordError
from featureloop.core.ports import Progress, silent
from featureloop.learner.founding_records import FOUNDING_SITE, founding_records_path, load_records
from featureloop.learner.service import Learner
from featureloop.model.package import Package
from featureloop.sharing.record import Record

_BATCH = 512


@dataclass(frozen=True, slots=True)
class Adopted:
    """The package that is live now, and the founding records in the store."""

    package: Package
    records: int


def adopt(learner: Learner, package: Package, *, progress: Progress = silent) -> Adopted:
    """Make a founding package the live one of its line; a repeat changes nothing.

    Where the line has a live package already, that one stays, unless the package is new here and is the live one with
    further tasks.

    Raises
    ------
    RecordError
        The founding records beside the package are missing, of another extractor, or lack a task.
    GateError
        It has further tasks, but was not made of the live package: devices would lose what was learned since.
    """
    path = founding_records_path(package.path)
    records = load_records(path)
    _check_records(learner, package, records, path)
    live, adds = learner.registry.live(package.line), False
    if live is not None and not learner.registry.knows(package.digest):
        adds = _adds_tasks(package, live)
    for start in range(0, len(records), _BATCH):
        learner.store.add(records[start : start + _BATCH])
        progress("founding records", min(start + _BATCH, len(records)), len(records))
    if live is None or adds:
        candidate = learner.registry.add(package, metrics={}, state="candidate")
        live = learner.registry.promote(candidate.digest.hex())
    return Adopted(live, len(records))


def _check_records(learner: Learner, package: Package, records: Sequence[Record], path: Path) -> None:
    """A task without founding records could not be trained without forgetting, nor judged."""
    if strangers := sum(r.extractor != package.extractor_digest for r in records):
        raise RecordError(f"{strangers} records in '{path}' were made by another extractor than the package's")
    missing = {str(task) for task in package.manifest.tasks} - {r.task for r in records}
    if missing:
        missing -= learner.store.tasks(extractor=package.extractor_digest, site=FOUNDING_SITE)
    if missing:
        raise RecordError(
            f"'{path}' holds no founding record for {', '.join(sorted(missing))}, and this learner has none; "
            "give 'model add-task' the package that its founding records lie beside"
        )


def _adds_tasks(package: Package, live: Package) -> bool:
    """Whether a package was made of the live one by adding tasks, so that nothing of it can get worse."""
    further = [task for task in package.manifest.tasks if task not in live.manifest.tasks]
    if further and package.manifest.lineage.parent != live.digest.hex():
        raise GateError(
            f"package {package.short} recognizes {', '.join(further)}, but was not made of package {live.short}, "
            f"which is live; add the task to that one: 'model add-task {live.path}'"
        )
    return bool(further)


def live_package(learner: Learner, line: str | None) -> Package:
    """The live package of a line, named by its first digits; of the only line where None.

    Raises
    ------
    GateError
        There is no live package, or more than one line fits.
    """
    lines = sorted({e.line for e in learner.registry.list() if e.line.startswith(line or "")})
    live = [p for p in (learner.registry.live(x) for x in lines) if p is not None]
    if not live:
        raise GateError("no package is live here; adopt one with 'learner serve --package P'")
    if len(live) > 1:
        names = ", ".join(p.line[:12] for p in live)
        raise GateError(f"{len(live)} package lines fit ({names}); name one with --line")
    return live[0]
