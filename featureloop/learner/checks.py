"""A record against what its package declares: nothing more may come in than the package says."""

from __future__ import annotations

from featureloop.core.errors import RecordError
from featureloop.core.types import Task
from featureloop.model.manifest import Manifest
from featureloop.model.package import EXTRACTOR
from featureloop.sharing.contents import contents
from featureloop.sharing.record import Record


def check_declared(record: Record, manifest: Manifest) -> None:
    """Check that a record has exactly its package's released form, and that its payloads decode to it.

    Raises
    ------
    RecordError
        Which part carries something else or more than the package declares.
    """
    if record.task not in manifest.tasks:
        raise RecordError(f"its task is '{record.task}', its package declares {', '.join(manifest.tasks)}")
    manifest = manifest.for_task(Task(record.task))
    released = manifest.released
    declared = {
        "extractor": bytes.fromhex(manifest.files[EXTRACTOR]),
        "anonymizer": released.anonymizer,
        "channels": released.channels,
    }
    for name, expected in declared.items():
        found = getattr(record, name)
        if found != expected:
            raise RecordError(f"its {name} is {_shown(found)}, its package declares {_shown(expected)}")
    method = record.reliability_method
    if method not in (None, manifest.calibration.method):
        raise RecordError(f"its reliability is by '{method}', its package's by '{manifest.calibration.method}'")
    declared_rows = released.form.rows(manifest.features.grid)
    if record.vectors != declared_rows:
        raise RecordError(f"it has {record.vectors} vectors, its package declares {declared_rows}")
    if released.form.mix > 1 and record.group is not None:
        raise RecordError(f"it names a group, and its package mixes {released.form.mix} of them in a record")
    contents(record, manifest)


def _shown(value: object) -> str:
    return value.hex()[:12] if isinstance(value, bytes) else f"'{value}'"
