"""A record against what its package declares: nothing more may come in than the package says."""

from __future__ import annotations

import numpy as np

from featureloop.core.errors import RecordError
from featureloop.core.types import Bag, ChangedBy, Task, UInt8
from featureloop.model.manifest import Manifest
from featureloop.model.package import EXTRACTOR
from featureloop.sharing import codec
from featureloop.sharing.anonymize import in_canonical_order
from featureloop.sharing.record import Record

_NO_ROWS = np.zeros((1, 0), np.uint8)


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
    _check_payloads(record, manifest)


def _check_payloads(record: Record, manifest: Manifest) -> None:
    released = manifest.released
    if record.codec not in codec.codecs_of(released):
        raise RecordError(f"its codec is '{record.codec}', its package's '{codec.codec_of(released)}'")
    padded = record.codec != codec.PLAIN
    symbols = codec.decode_features(record.features, released, max_vectors=record.vectors)
    if len(symbols) != record.vectors:
        raise RecordError(f"its features hold {len(symbols)} rows for the {record.vectors} vectors that it declares")
    if codec.encode_features(symbols, released, padded=padded) != record.features:
        # Many byte strings could decode alike; the choice among them would carry something.
        raise RecordError("its features are not coded as its codec codes them")
    if record.recognition is None and record.changed is not None:
        raise RecordError("it says what a recognition was changed to, and not what was recognized")
    found: dict[str, UInt8] = {}
    expected = record.vectors if manifest.recognizer.form == "set" else 1
    for name, payload in (("recognition", record.recognition), ("changed", record.changed)):
        if payload is None:
            continue
        rows, again = _rows_and_again(payload, record, manifest, symbols=symbols, before=found.get("recognition"))
        if len(rows) != expected:
            raise RecordError(f"its {name} hold {len(rows)} rows, its package's recognizer gives {expected}")
        if again != payload:
            raise RecordError(f"its {name} is not coded as its codec codes it")
        found[name] = rows
    bag = Bag(symbols, found.get("recognition", _NO_ROWS), found.get("changed"))
    if not in_canonical_order(bag, unit=released.form.unit(manifest.features.grid)):
        raise RecordError("its vectors are not in canonical order: their order could tell where they stood")


def _rows_and_again(
    payload: bytes, record: Record, manifest: Manifest, *, symbols: UInt8, before: UInt8 | None
) -> tuple[UInt8, bytes]:
    """The rows of a payload, and how its codec codes them."""
    released, padded = manifest.released, record.codec != codec.PLAIN
    if before is not None and record.changed_by == ChangedBy.SOFTENED:
        rows = codec.decode_soft_rows(payload, released, before=before)
        return rows, codec.encode_soft_rows(rows, released, before=before, padded=padded)
    width = manifest.recognizer.outputs
    rows = codec.decode_rows(payload, released, width=width, max_vectors=record.vectors, symbols=symbols, before=before)
    return rows, codec.encode_rows(rows, released, symbols=symbols, before=before, padded=padded)


def _shown(value: object) -> str:
    return value.hex()[:12] if isinstance(value, bytes) else f"'{value}'"
