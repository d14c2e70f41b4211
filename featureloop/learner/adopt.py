"""Adopting a founding package: sign it, make it live, and take its founding records into the store."""

from __future__ import annotations

from dataclasses import dataclass

from featureloop.core.errors import GateError, RecordError
from featureloop.core.ports import Progress, silent
from featureloop.learner.founding_records import founding_records_path, load_records
from featureloop.learner.service import Learner
from featureloop.model.package import Package

_BATCH = 512


@dataclass(frozen=True, slots=True)
class Adopted:
    """The package that is live now, and the founding records in the store."""

    package: Package
    records: int


def adopt(learner: Learner, package: Package, *, progress: Progress = silent) -> Adopted:
    """Make a founding package the live one of its line; a repeat changes nothing.

    Where the line has a live package already, that one stays, unless the package is the live one with further tasks.

    Raises
    ------
    RecordError
        The founding records beside the package are missing or of another extractor.
    """
    path = founding_records_path(package.path)
    records = load_records(path)
    if strangers := sum(r.extractor != package.extractor_digest for r in records):
        raise RecordError(f"{strangers} records in '{path}' were made by another extractor than the package's")
    for start in range(0, len(records), _BATCH):
        learner.store.add(records[start : start + _BATCH])
        progress("founding records", min(start + _BATCH, len(records)), len(records))
    live = learner.registry.live(package.line)
    if live is None or _adds_tasks(package, live):
        candidate = learner.registry.add(package, metrics={}, state="candidate")
        live = learner.registry.promote(candidate.digest.hex())
    return Adopted(live, len(records))


def _adds_tasks(package: Package, live: Package) -> bool:
    """Whether a package was made of the live one by adding tasks, so that nothing of it can get worse."""
    own, before = set(package.manifest.tasks), set(live.manifest.tasks)
    return package.manifest.lineage.parent == live.digest.hex() and before < own


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
