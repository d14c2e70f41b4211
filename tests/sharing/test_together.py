"""Records that are coded together: the very same ones come back, in fewer bytes, and nonsense is refused calmly."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featureloop.core.errors import RecordError
from featureloop.core.types import Bag, ChangedBy, Task, UInt8
from featureloop.model.manifest import Manifest
from featureloop.model.package import Package
from featureloop.sharing import codec, together
from featureloop.sharing.anonymize import canonical_order
from featureloop.sharing.record import Record, from_wire, to_wire
from featureloop.sharing.release import coded
from featureloop.sharing.together import (
    ARROW_STREAM,
    LADDER,
    MEDIA_TYPE,
    MOST,
    from_body,
    from_together,
    media_type_of,
    to_together,
)
from featureloop.testing import make_record, tiny_package, tiny_package_of

KINDS = {
    "masks": {"task": "segmentation"},
    "boxes": {"task": "detection"},
    "classes": {"task": "classification"},
    "labels": {"task": "multilabel"},
    "windows": {"task": "segmentation", "release": "window=2"},
    "maps": {"task": "segmentation", "release": "none"},
    "few": {"task": "segmentation", "release": "set subset=6 mix=2"},
}
Made = dict[str, Package]
TAMPERED = max(150, int(os.environ.get("FEATURELOOP_FUZZ", "0")) // 100)
"""Bodies that are tampered with; `make soak` makes ten thousand of them."""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("packages")
    made = {name: tiny_package(root / name, **given) for name, given in KINDS.items()}  # type: ignore[arg-type]  # texts
    return made | {"two": tiny_package_of(root / "two", "segmentation", "classification")}


def known(packages: Made) -> Callable[[bytes], Manifest | None]:
    return {p.digest: p.manifest for p in packages.values()}.get


def record_of(
    package: Package, i: int, *, task: str = "", by: ChangedBy | None = None, recognized: bool = True, **given: Any
) -> Record:
    """A record as a device of this package makes it."""
    manifest = package.manifest.for_task(Task(task or package.manifest.task))
    form, rng = manifest.released, np.random.default_rng(i)
    n = form.form.rows(manifest.features.grid)
    rows, width = n if manifest.recognizer.form == "set" else 1, manifest.recognizer.outputs
    flags = width if form.flags is None else form.flags

    def targets(most: int) -> UInt8:
        out = rng.integers(0, most + 1, (rows, width)).astype(np.uint8)
        out[:, flags:] = np.where(out[:, :flags].any(axis=1)[:, None], rng.integers(0, 256, out[:, flags:].shape), 0)
        return out

    symbols = rng.integers(0, form.levels[0], (n, form.channels)).astype(np.uint8)
    soft = by is ChangedBy.SOFTENED
    bag = Bag(symbols, targets(1), None if by is None else targets(255 if soft else 1), soft)
    bag = canonical_order(bag, unit=form.form.unit(manifest.features.grid)) if recognized else bag
    if not recognized:
        bag = canonical_order(Bag(bag.symbols, np.zeros((1, 0), np.uint8)), unit=form.form.unit(manifest.features.grid))
    told = coded(bag, form) if recognized else None
    return make_record(
        i,
        site="clinic-a",
        device="tower-1",
        package=package.digest,
        extractor=package.extractor_digest,
        task=manifest.task,
        anonymizer=form.anonymizer,
        vectors=n,
        channels=form.channels,
        codec=codec.codec_of(form),
        features=codec.encode_features(bag.symbols, form),
        recognition=told.recognition if told else None,
        changed=told.changed if told else None,
        changed_by=by,
        changed_when=None if by is None else 4 * 2026 + 1,
        **given,
    )


def some_records(packages: Made) -> list[Record]:
    """Of every package and kind of change, with and without group and reliability."""
    found = []
    for i, (name, package) in enumerate(packages.items()):
        for task in package.manifest.tasks:
            changes = (None, None, ChangedBy.CLINICIAN, ChangedBy.SOFTENED)
            found += [record_of(package, 10 * i + j, task=task, by=by) for j, by in enumerate(changes)]
        found.append(record_of(packages[name], 10 * i + 5, recognized=False))
        found.append(record_of(packages[name], 10 * i + 6, group=None, reliability=None, reliability_method=None))
    return found


@pytest.mark.parametrize("across", [False, True])
def test_the_very_same_records_come_back(packages: Made, across: bool) -> None:
    records = some_records(packages)
    body = to_together(records, known(packages), across=across)
    back = from_together(body, known(packages))
    assert sorted(back, key=lambda r: r.id) == sorted(records, key=lambda r: r.id)
    assert len(body) < len(to_wire(records)) / 2


def test_the_body_depends_on_what_is_in_it_and_not_on_the_order_before(packages: Made) -> None:
    records = some_records(packages)
    mixed = [records[i] for i in np.random.default_rng(1).permutation(len(records))]
    assert to_together(records, known(packages)) == to_together(mixed, known(packages))


def test_a_set_after_one_like_it_is_shorter(packages: Made) -> None:
    """Frames of a clip: each record's values are those of one frame, a few of them changed."""
    package, form = packages["masks"], packages["masks"].manifest.released
    first = codec.decode_features(record_of(package, 1).features, form, max_vectors=16)
    records = []
    for i in range(100):
        rng = np.random.default_rng(i)
        symbols = first.copy()
        symbols[rng.integers(0, 16, 2)] = rng.integers(0, form.levels[0], (2, form.channels))
        bag = canonical_order(Bag(symbols, np.zeros((16, 16), np.uint8)))
        records.append(replace(record_of(package, 1), features=codec.encode_features(bag.symbols, form),
                               recognition=codec.encode_rows(bag.recognized, form, symbols=bag.symbols)))  # fmt: skip
    alone, after = (to_together(records, known(packages), across=across) for across in (False, True))
    assert len(after) < 0.8 * len(alone)
    assert {r.id for r in from_together(after, known(packages))} == {r.id for r in records}


def test_what_cant_be_coded_is_carried_as_it_is(packages: Made) -> None:
    good, form = record_of(packages["masks"], 1), packages["masks"].manifest.released
    symbols = codec.decode_features(good.features, form, max_vectors=good.vectors)
    strange = [
        make_record(1),  # Of a package that nobody has.
        replace(good, features=good.features[:-1]),
        replace(good, features=codec.encode_features(symbols, form, padded=False)),
        replace(good, codec="uniform/1"),
        replace(good, vectors=good.vectors + 1),
        replace(good, task="multilabel"),
        replace(good, recognition=None, changed=good.recognition, changed_by="clinician", changed_when=8000),
    ]
    records = [good, *strange]
    back = from_together(to_together(records, known(packages)), known(packages))
    assert {r.id for r in back} == {r.id for r in records}


def test_both_types_of_bodies_are_told_apart(packages: Made) -> None:
    record = record_of(packages["masks"], 1)
    for body, kind in ((to_wire([record]), ARROW_STREAM), (to_together([record], known(packages)), MEDIA_TYPE)):
        assert media_type_of(body) == kind
        assert from_body(body, known(packages)) == [record]
    assert from_wire(to_wire([record])) == [record]


def test_a_length_tells_little(packages: Made) -> None:
    """Bodies of one record of a package are all of one size; lengths are few among bodies of many."""
    alone = {len(to_together([record_of(packages["masks"], i)], known(packages))) for i in range(20)}
    assert alone == {LADDER.least}
    records = [record_of(packages["masks"], i) for i in range(60)]
    assert len({len(to_together(records[i : i + 30], known(packages))) for i in range(30)}) <= 2


def test_a_package_that_isnt_known_and_too_many_records(packages: Made) -> None:
    records = [record_of(packages["masks"], 1)]
    body = to_together(records, known(packages))
    with pytest.raises(RecordError, match="unknown"):
        from_together(body, lambda _: None)
    with pytest.raises(RecordError, match="most are"):
        to_together(records * (MOST + 1), known(packages))
    assert from_together(to_together([], known(packages)), known(packages)) == []


def sealed(bare: bytes) -> bytes:
    """A body with the padding and the checksum that belong to it."""
    padded = bare + bytes(LADDER.rung(len(bare) + 4) - len(bare) - 4)
    return padded + struct.pack("<I", zlib.crc32(padded))


def bare_of(body: bytes) -> bytes:
    _, sheet, words = struct.unpack("<4sII", body[:12])
    return body[: 28 + sheet + 4 * words]


def with_sheet(body: bytes, change: Callable[[bytes], bytes]) -> bytes:
    _, length, words = struct.unpack("<4sII", body[:12])
    sheet = zlib.compress(change(zlib.decompress(body[28 : 28 + length])))
    head = struct.pack("<4sII", b"FLT1", len(sheet), words)
    return sealed(head + body[12:28] + sheet + body[28 + length : 28 + length + 4 * words])


def head_with(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def changed(sheet: bytes) -> bytes:
        (length,) = struct.unpack("<I", sheet[:4])
        head = json.loads(sheet[4 : 4 + length])
        change(head)
        text = json.dumps(head).encode()
        return struct.pack("<I", len(text)) + text + sheet[4 + length :]

    return changed


SHEETS: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda s: s[:-3],
    "longer": lambda s: s + b"\0",
    "nothing": lambda _: b"",
    "no head": lambda s: b"\xff\xff\xff\xff" + s[4:],
    "no JSON": lambda s: s[:4] + b"[" * (len(s) - 4),
    "too many": head_with(lambda h: h.update(records=10**6)),
    "negative": head_with(lambda h: h.update(records=-1)),
    "half a record": head_with(lambda h: h.update(records=1.5)),
    "many groups": head_with(lambda h: h.update(groups=10**12)),
    "no kinds": head_with(lambda h: h.update(kinds=[])),
    "a kind that is none": head_with(lambda h: h.update(kinds=[7])),
    "another site": head_with(lambda h: h["kinds"][0].__setitem__(0, "clinic-b")),
    "free text": head_with(lambda h: h["kinds"][0].__setitem__(0, "Jane Doe, born 1950")),
    "an object": head_with(lambda h: h["kinds"][0].__setitem__(4, {"a": 1})),
    "a list": head_with(lambda h: h["kinds"][0].__setitem__(4, ["segmentation"])),
    "no digest": head_with(lambda h: h["kinds"][0].__setitem__(2, "xyz")),
    "another task": head_with(lambda h: h["kinds"][0].__setitem__(4, "classification")),
}


@pytest.mark.parametrize("name", SHEETS)
def test_a_sheet_of_nonsense_is_refused(packages: Made, name: str) -> None:
    body = to_together([record_of(packages["masks"], 1), record_of(packages["masks"], 2)], known(packages))
    assert sealed(bare_of(body)) == body  # So that what is refused is the change alone.
    with pytest.raises(RecordError):
        from_together(with_sheet(body, SHEETS[name]), known(packages))


def test_a_sheet_that_unpacks_without_end_is_refused(packages: Made) -> None:
    body = to_together([record_of(packages["masks"], 1)], known(packages))
    with pytest.raises(RecordError, match="longer than"):
        from_together(with_sheet(body, lambda _: bytes(80 << 20)), known(packages))


@pytest.fixture(scope="module")
def written(packages: Made) -> tuple[set[bytes], bytes]:
    """Ids of some records, and their body."""
    records = [record_of(packages[name], 3) for name in ("masks", "boxes", "classes", "windows")]
    records += [replace(records[0], period=8000 + i) for i in range(3)]
    return {r.id for r in records}, to_together(records, known(packages), across=True)


@pytest.mark.timeout(0 if TAMPERED > 1_000 else 300)
@settings(max_examples=TAMPERED, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=6), st.booleans())
def test_no_altered_body_is_taken_for_other_records(
    packages: Made, written: tuple[set[bytes], bytes], flips: list[tuple[float, int]], resealed: bool
) -> None:
    """Whoever alters a body, and its checksum with it, gets it refused, or the same records."""
    ids, body = written
    bare = bytearray(bare_of(body) if resealed else body)
    for at, bit in flips:
        bare[int(at * len(bare))] ^= 1 << bit
    try:
        back = from_together(sealed(bytes(bare)) if resealed else bytes(bare), known(packages))
    except RecordError:
        return
    assert {r.id for r in back} == ids


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading(packages: Made, raw: bytes) -> None:
    with pytest.raises(RecordError):
        from_together(raw, known(packages))
    with pytest.raises(RecordError):
        from_together(sealed(together._MAGIC + raw), known(packages))
