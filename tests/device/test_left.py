"""What left, page by page and day by day, and what a record's own bytes say."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from featureloop.core.errors import InputError
from featureloop.core.ports import Receipt
from featureloop.device.left import PAGE, Shelf, WhatLeft, bag_of, symbols_of
from featureloop.device.outbox import SETTLED, Outbox, State
from featureloop.device.pages.strip import rows_png, strip_png
from featureloop.device.words import outcome_in_words, size_in_words
from featureloop.testing import FakeClock, make_record, tiny_package

DAY_S = 86_400.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1_750_000_000.0)  # 15 June 2025, 15:06 UTC


@pytest.fixture
def outbox(tmp_path: Path, clock: FakeClock) -> Iterator[Outbox]:
    with Outbox(tmp_path / "outbox.sqlite", clock=clock) as opened:
        yield opened


def deliver(outbox: Outbox, n: int) -> None:
    leased = outbox.lease(limit=n, seconds=60)
    outbox.settle(Receipt(frozenset(r.id for r in leased), {}))


def test_pages_go_from_the_newest_to_the_oldest_and_back(outbox: Outbox, tmp_path: Path) -> None:
    n, left = 2 * PAGE + 3, WhatLeft(tmp_path / "outbox.sqlite")
    for i in range(n):
        outbox.put(make_record(i), frame_key=None)
    seen, older, pages = list[int](), None, 0
    while True:
        leaf = left.page(older_than=older)
        seen += [line.number for line in leaf.lines]
        assert (leaf.newer_than is None) == (pages == 0)
        pages, older = pages + 1, leaf.older_than
        if older is None:
            break
    assert (seen, pages) == (list(range(n, 0, -1)), 3)
    back = left.page(newer_than=3)
    assert [line.number for line in back.lines] == list(range(PAGE + 3, 3, -1))
    assert (back.newer_than, back.older_than) == (PAGE + 3, 4)
    assert left.page(newer_than=back.newer_than).newer_than is None


def test_days_hold_what_was_delivered_on_them(outbox: Outbox, clock: FakeClock, tmp_path: Path) -> None:
    left = WhatLeft(tmp_path / "outbox.sqlite")
    for i in range(5):
        outbox.put(make_record(i), frame_key=None)
    deliver(outbox, 2)
    clock.advance(2 * DAY_S)
    deliver(outbox, 1)
    days = left.days(until=date(2025, 6, 17), days=4)
    assert [(day.day.day, day.records) for day in days] == [(14, 0), (15, 2), (16, 0), (17, 1)]
    assert sum(day.size for day in days) == outbox.delivered(since=0.0)[1]
    assert outbox.delivered(since=clock.now - 60)[0] == 1
    assert left.counts()[State.PENDING] == 2
    assert [line.entry.state for line in left.page(state=State.DELIVERED).lines] == [State.DELIVERED] * 3


def test_a_purged_record_keeps_its_line(outbox: Outbox, clock: FakeClock, tmp_path: Path) -> None:
    left, record = WhatLeft(tmp_path / "outbox.sqlite"), make_record(1)
    outbox.put(record, frame_key=None)
    deliver(outbox, 1)
    clock.advance(60)
    outbox.purge(states=SETTLED, older_than_s=0)
    line = left.one(record.id.hex())
    assert line.record is None
    assert line.entry.size > 0
    for wrong in ("", "zz", "00" * 32, record.id.hex()[:12]):
        with pytest.raises(InputError):
            left.one(wrong)


def test_it_changes_nothing_and_waits_for_nobody(outbox: Outbox, tmp_path: Path) -> None:
    """Read in the middle of somebody's writing."""
    left = WhatLeft(tmp_path / "outbox.sqlite")
    outbox.put(make_record(1), frame_key=None)
    with outbox._file.transaction() as db:
        db.execute("DELETE FROM entries")
        assert len(left.page().lines) == 1
        db.execute("ROLLBACK")
        db.execute("BEGIN")
    with left._reading() as db, pytest.raises(Exception, match="readonly"):
        db.execute("DELETE FROM entries")


def test_a_records_picture_is_decoded_from_its_own_bytes(tmp_path: Path) -> None:
    from featureloop.core.types import Bag
    from featureloop.sharing.release import coded

    package = tiny_package(tmp_path / "package")
    manifest, rng = package.manifest, np.random.default_rng(0)
    rows = manifest.released.form.rows(manifest.features.grid)
    symbols = rng.integers(0, 8, (rows, manifest.released.channels)).astype(np.uint8)
    symbols = symbols[np.lexsort(symbols.T[::-1])]
    flags = rng.integers(0, 2, (rows, manifest.recognizer.outputs)).astype(np.uint8)
    bytes_ = coded(Bag(symbols, flags), manifest.released)
    record = make_record(
        1, package=package.digest, vectors=rows, channels=manifest.released.channels, codec="bag/1",
        features=bytes_.features, recognition=bytes_.recognition,
    )  # fmt: skip
    assert (symbols_of(record, manifest) == symbols).all()
    assert bag_of(record, manifest).recognized.sum() == flags.sum()
    shelf = Shelf(tmp_path / "packages", lambda: package)
    assert shelf.manifest(record) == manifest
    assert shelf.manifest(make_record(2)) is None, "its package is not here"
    kept = tmp_path / "packages" / package.digest.hex()
    package.path.rename(kept.parent.parent / "moved")
    (tmp_path / "packages").mkdir()
    (tmp_path / "moved").rename(kept)
    other = tiny_package(tmp_path / "other", seed=3)
    assert Shelf(tmp_path / "packages", lambda: other).manifest(record) == manifest, "one that was taken over before"


def test_a_strip_has_a_column_a_vector_and_a_row_a_channel() -> None:
    import io

    from PIL import Image

    symbols = np.array([[0, 3], [7, 3], [7, 0]], np.uint8)
    picture = Image.open(io.BytesIO(strip_png(symbols, (8, 4))))
    assert picture.size == (3, 2)
    assert np.asarray(picture).tolist() == [[0, 255, 255], [255, 255, 0]]
    assert Image.open(io.BytesIO(strip_png(symbols[:1], (8, 4)))).size == (2, 1)
    assert np.asarray(Image.open(io.BytesIO(rows_png(np.array([[0, 0], [1, 0]], np.uint8))))).tolist() == [[0, 128]]


def test_numbers_and_outcomes_for_people() -> None:
    assert [size_in_words(n) for n in (0, 1, 999, 1_000, 12_345, 3_200_000, 7e9, 5e12)] == [
        "0 bytes", "1 byte", "999 bytes", "1.0 kB", "12.3 kB", "3.2 MB", "7.0 GB", "5000.0 GB",
    ]  # fmt: skip
    assert outcome_in_words("near-duplicate") == "not provided: like one before"
    assert outcome_in_words("some-new-one") == "some new one"
