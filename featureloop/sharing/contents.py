"""What a record's payloads hold, and that they hold it in the one way in which it is coded.

Many byte strings could decode alike; the choice among them, as the order of rows, would carry something.
"""

from __future__ import annotations

import numpy as np

from featureloop.core.errors import RecordError
from featureloop.core.types import Bag, ChangedBy, UInt8
from featureloop.model.manifest import Manifest
from featureloop.sharing import codec
from featureloop.sharing.anonymize import in_canonical_order
from featureloop.sharing.record import Record

_NO_ROWS = np.zeros((1, 0), np.uint8)


def contents(record: Record, manifest: Manifest) -> Bag:
    """What a record's payloads decode to; without a recognition its rows are (1, 0).

    Parameters
    ----------
    manifest
        Its package's, of the record's task alone.

    Raises
    ------
    RecordError
        A payload is damaged, of another codec or number of rows than the package declares, or not coded as that codec
        codes it; or the rows are not in canonical order.
    """
    released = manifest.released
    if record.codec not in codec.codecs_of(released):
        raise RecordError(f"its codec is '{record.codec}', its package's '{codec.codec_of(released)}'")
    padded = record.codec != codec.PLAIN
    symbols = codec.decode_features(record.features, released, max_vectors=record.vectors)
    if len(symbols) != record.vectors:
        raise RecordError(f"its features hold {len(symbols)} rows for the {record.vectors} vectors that it declares")
    if codec.encode_features(symbols, released, padded=padded) != record.features:
        raise RecordError("its features are not coded as its codec codes them")
    if record.recognition is None and record.changed is not None:
        raise RecordError("it says what a recognition was changed to, and not what was recognized")
    found: dict[str, UInt8] = {}
    expected = rows_of(manifest, record.vectors)
    for name, payload in (("recognition", record.recognition), ("changed", record.changed)):
        if payload is None:
            continue
        rows, again = _rows_and_again(payload, record, manifest, symbols=symbols, before=found.get("recognition"))
        if len(rows) != expected:
            raise RecordError(f"its {name} hold {len(rows)} rows, its package's recognizer gives {expected}")
        if again != payload:
            raise RecordError(f"its {name} is not coded as its codec codes it")
        found[name] = rows
    bag = Bag(
        symbols, found.get("recognition", _NO_ROWS), found.get("changed"), record.changed_by == ChangedBy.SOFTENED
    )
    if not in_canonical_order(bag, unit=released.form.unit(manifest.features.grid)):
        raise RecordError("its vectors are not in canonical order: their order could tell where they stood")
    return bag


def rows_of(manifest: Manifest, vectors: int) -> int:
    """How many rows of targets belong to so many vectors: as many, or the frame's one."""
    return vectors if manifest.recognizer.form == "set" else 1


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
