"""The review's queue: least reliable first, nothing decided is lost, images are encrypted and erased."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from featureloop.core.errors import InputError, StorageError
from featureloop.core.types import Asked, Deep, Frame, Recognition, Task, UInt8
from featureloop.device.review.cases import TRANSITIONS, Answer, CaseState, agree
from featureloop.device.review.queue import DAY_S, HOLD_S, ReviewQueue
from featureloop.testing import FakeClock

KEY = bytes(range(32))
YES = Answer("confirmed", np.ones((4, 16), np.uint8))
NO = Answer("changed", np.zeros((4, 16), np.uint8))
USELESS = Answer("rejected", None)


def asked(i: int, *, reliability: float = 0.5, deep: bool = False) -> Asked:
    rng = np.random.default_rng(i)
    pixels = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    values = Deep(rng.integers(0, 5000, (20, 30)).astype(np.uint16), 10, 4000) if deep else None
    found = Recognition(Task.SEGMENTATION, rng.random((4, 16)).astype(np.float32))
    frame = Frame(pixels, f"{i}.png", i, group="patient 7", deep=values)
    return Asked(bytes([i]) * 32, frame, rng.random((4, 8)).astype(np.float32), found, reliability, bytes(32))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "review.sqlite"


@pytest.fixture
def queue(path: Path, clock: FakeClock) -> Iterator[ReviewQueue]:
    opened = ReviewQueue(path, key=KEY, clock=clock)
    yield opened
    opened.close()


def number(queue: ReviewQueue, reader: str, *, after: int | None = None) -> int:
    case = queue.next(reader, after=after)
    assert case is not None
    return case.number


def settle(queue: ReviewQueue) -> None:
    """All answers become records."""
    for taken in queue.take_answered(longer_ago_s=0):
        queue.settle(taken)


def test_the_least_reliable_comes_first_whole_as_it_was_put(queue: ReviewQueue) -> None:
    for i, trust in enumerate((0.5, 0.2, 0.4)):
        queue.keep(asked(i, reliability=trust, deep=i == 1))
    case, put = queue.next("anna"), asked(1, reliability=0.2, deep=True)
    assert case is not None
    got = case.asked
    assert (got.key, got.reliability, got.package) == (put.key, put.reliability, put.package)
    assert (got.frame.name, got.frame.index, got.frame.group) == ("1.png", 1, "patient 7")
    np.testing.assert_array_equal(got.frame.pixels, put.frame.pixels)
    np.testing.assert_array_equal(got.vectors, put.vectors)
    np.testing.assert_array_equal(got.recognition.probabilities, put.recognition.probabilities)
    assert got.frame.deep is not None
    assert put.frame.deep is not None
    np.testing.assert_array_equal(got.frame.deep.values, put.frame.deep.values)
    assert (got.frame.deep.low, got.frame.deep.high) == (10, 4000)
    assert number(queue, "anna", after=case.number) == 3


def test_a_result_is_asked_about_once(queue: ReviewQueue) -> None:
    """Also after it was decided: a crash may keep it again."""
    queue.keep(asked(1))
    queue.keep(asked(1))
    one = number(queue, "anna")
    queue.decide(one, reader="anna", answer=YES)
    settle(queue)
    queue.keep(asked(1))
    assert queue.next("anna") is None
    assert queue.counts()[CaseState.SETTLED] == 1


def test_a_decision_survives_a_device_that_ends_at_once(queue: ReviewQueue, path: Path, clock: FakeClock) -> None:
    queue.keep(asked(1))
    assert queue.decide(number(queue, "anna"), reader="anna", answer=NO) is CaseState.ANSWERED
    other = ReviewQueue(path, key=KEY, clock=clock)  # The first is never closed.
    assert other.take_answered(longer_ago_s=0) == [1]
    answer = other.answer_of(1)
    assert answer.kind == "changed"
    np.testing.assert_array_equal(answer.rows, NO.rows)
    other.close()


def test_what_is_on_the_disk_shows_no_image_and_no_name(queue: ReviewQueue, path: Path) -> None:
    put = asked(1)
    queue.keep(put)
    on_disk = b"".join(p.read_bytes() for p in path.parent.iterdir())
    assert b"PNG" not in on_disk
    assert b"patient 7" not in on_disk
    assert put.vectors.tobytes()[:16] not in on_disk


def test_a_settled_case_leaves_no_image(queue: ReviewQueue, path: Path) -> None:
    queue.keep(asked(1))
    with sqlite3.connect(path) as db:
        (sealed,) = db.execute("SELECT sealed FROM cases").fetchone()
    queue.decide(number(queue, "anna"), reader="anna", answer=YES)
    settle(queue)
    with pytest.raises(InputError, match="erased"):
        queue.case(1)
    assert sealed[100:164] not in b"".join(p.read_bytes() for p in path.parent.iterdir())


def test_another_key_opens_nothing_and_says_so(queue: ReviewQueue, path: Path) -> None:
    queue.keep(asked(1))
    other = ReviewQueue(path, key=bytes(32))
    with pytest.raises(StorageError, match=r"review\.key"):
        other.next("anna")
    other.close()


def test_an_image_cannot_be_put_in_anothers_place(queue: ReviewQueue, path: Path) -> None:
    queue.keep(asked(1))
    queue.keep(asked(2))
    with sqlite3.connect(path) as db:
        db.execute("UPDATE cases SET sealed = (SELECT sealed FROM cases WHERE number = 2) WHERE number = 1")
    with pytest.raises(StorageError, match="damaged"):
        queue.case(1)


def test_two_readers_at_once_get_different_cases_until_one_goes_away(queue: ReviewQueue, clock: FakeClock) -> None:
    queue.keep(asked(1, reliability=0.1))
    queue.keep(asked(2, reliability=0.2))
    assert number(queue, "anna") == 1
    assert number(queue, "anna") == 1  # A reload shows it again.
    assert number(queue, "bert") == 2
    clock.now += HOLD_S + 1
    assert number(queue, "bert") == 1


def test_what_is_decided_meanwhile_says_so(queue: ReviewQueue) -> None:
    queue.keep(asked(1))
    queue.decide(1, reader="anna", answer=YES)
    with pytest.raises(InputError, match="already"):
        queue.decide(1, reader="bert", answer=NO)
    with pytest.raises(InputError, match="no case 7"):
        queue.decide(7, reader="bert", answer=NO)


def test_the_last_answer_can_be_taken_back_until_it_is_settled(queue: ReviewQueue) -> None:
    for i in (1, 2):
        queue.keep(asked(i))
        queue.decide(i, reader="anna", answer=YES)
    back = queue.undo("anna")
    assert back is not None
    assert back.number == 2
    assert queue.undo("bert") is None
    assert queue.counts()[CaseState.WAITING] == 1
    queue.decide(2, reader="anna", answer=NO)
    assert queue.take_answered(longer_ago_s=0) == [1, 2]
    assert queue.undo("anna") is None  # Their records may be on their way.
    settle(queue)
    assert queue.undo("anna") is None


def test_answers_wait_a_moment_before_they_are_settled(queue: ReviewQueue, clock: FakeClock) -> None:
    queue.keep(asked(1))
    queue.decide(1, reader="anna", answer=YES)
    assert queue.take_answered(longer_ago_s=20) == []
    clock.now += 21
    assert queue.take_answered(longer_ago_s=20) == [1]


def test_what_nobody_answers_expires_with_its_image(queue: ReviewQueue, clock: FakeClock) -> None:
    for i in (1, 2):
        queue.keep(asked(i))
    queue.decide(1, reader="anna", answer=YES)
    clock.now += 3 * DAY_S
    queue.keep(asked(3))
    assert queue.expire(older_than_s=2 * DAY_S) == 2  # An answer that can't be provided is not kept for ever either.
    assert number(queue, "anna") == 3
    with pytest.raises(InputError, match="expired"):
        queue.case(2)
    with pytest.raises(InputError, match="expired"):
        queue.decide(2, reader="anna", answer=YES)


@pytest.mark.parametrize(
    ("answers", "state", "holds"),
    [
        ([YES], CaseState.WAITING, None),
        ([YES, YES], CaseState.ANSWERED, YES),
        ([USELESS, USELESS], CaseState.ANSWERED, USELESS),
        ([YES, NO], CaseState.DISPUTED, None),
        ([YES, USELESS], CaseState.DISPUTED, None),
        ([YES, NO, NO], CaseState.ANSWERED, NO),
        ([YES, NO, USELESS], CaseState.ANSWERED, USELESS),
    ],
)
def test_two_readers_and_a_third_where_they_differ(
    path: Path, answers: list[Answer], state: CaseState, holds: Answer | None
) -> None:
    queue = ReviewQueue(path, key=KEY, readers=2)
    queue.keep(asked(1))
    for reader, answer in zip(("anna", "bert", "carl"), answers, strict=False):
        case = queue.next(reader)
        assert case is not None
        assert len(case.answers) == (2 if case.state is CaseState.DISPUTED else 0)
        queue.decide(1, reader=reader, answer=answer)
        assert queue.next(reader) is None
    assert queue.counts()[state] == 1
    if holds is not None:
        found = queue.answer_of(1)
        assert found.kind == holds.kind
        assert (found.rows is None) if holds.rows is None else np.array_equal(found.rows, holds.rows)  # type: ignore[arg-type]  # None was told apart
    queue.close()


def test_an_undo_reopens_a_dispute(path: Path) -> None:
    queue = ReviewQueue(path, key=KEY, readers=2)
    queue.keep(asked(1))
    for reader, answer in (("anna", YES), ("bert", NO), ("carl", NO)):
        queue.decide(1, reader=reader, answer=answer)
    assert queue.undo("carl") is not None
    assert queue.counts()[CaseState.DISPUTED] == 1
    assert queue.undo("bert") is not None
    assert queue.counts()[CaseState.WAITING] == 1
    queue.close()


def test_every_transition_that_is_not_in_the_table_is_refused(path: Path) -> None:
    for old, new in product(CaseState, CaseState):
        queue = ReviewQueue(path, key=KEY)
        queue.keep(asked(1))
        with sqlite3.connect(path) as db:
            db.execute("UPDATE cases SET state = ?", (old,))
        with queue._file.transaction() as db:
            if (old, new) in TRANSITIONS:
                queue._move(db, 1, old, new)
            else:
                with pytest.raises(InputError):
                    queue._move(db, 1, old, new)
        queue.close()
        path.unlink()


def test_progress_counts_a_day_and_the_median(queue: ReviewQueue, clock: FakeClock) -> None:
    for i in range(4):
        queue.keep(asked(i))
    for i, seconds in ((1, 2.0), (2, 4.0), (3, 9e9)):
        queue.decide(i, reader="anna", answer=YES, seconds=seconds)
    found = queue.progress("anna")
    assert (found.open, found.mine, found.median_s) == (1, 3, 3.0)
    clock.now += DAY_S + 1
    assert queue.progress("anna").mine == 0


def test_a_newer_file_is_not_touched(queue: ReviewQueue, path: Path) -> None:
    queue.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(StorageError, match="newer"):
        ReviewQueue(path, key=KEY)


def rows(*flags: int) -> UInt8:
    return np.array(flags, np.uint8).reshape(-1, 1)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (np.array([[0, 1]], np.uint8), np.array([[0, 1]], np.uint8), True),
        (np.array([[0, 1]], np.uint8), np.array([[1, 0]], np.uint8), False),
        (rows(*[1] * 20, *[0] * 20), rows(*[1] * 19, *[0] * 21), True),
        (rows(*[1] * 20, *[0] * 20), rows(*[1] * 15, *[0] * 25), False),
        (rows(0, 0), rows(0, 0), True),
        (rows(0, 0), rows(0, 1), False),
    ],
)
def test_readers_agree_about_classes_wholly_and_about_lines_nearly(one: UInt8, other: UInt8, same: bool) -> None:
    assert agree(Answer("changed", one), Answer("changed", other), flags=one.shape[1]) is same


def test_a_full_disk_keeps_nothing_says_so_and_ends(queue: ReviewQueue) -> None:
    """What was put before is there, and the next result is kept as soon as there is room."""
    queue.keep(asked(1))
    with queue._file.reading() as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="disk is full"):
        queue.keep(asked(2, deep=True))
    with queue._file.reading() as db:
        db.execute("PRAGMA max_page_count = 100000")
    queue.keep(asked(2, deep=True))
    assert queue.counts()[CaseState.WAITING] == 2
