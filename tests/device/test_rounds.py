"""Rounds and shuffling: time and order of sending tell nothing of the order of frames, and nothing is lost by it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest, spearmanr

from featureloop.core.errors import TransportError
from featureloop.device.outbox import Outbox, State
from featureloop.device.rounds import AT_ONCE, Rounds
from featureloop.device.uplink import Retry, Uplink
from featureloop.sharing.policy import Sending
from featureloop.sharing.record import Record, from_wire
from featureloop.testing import FakeClock, FakeWire, make_record

HOUR = 3600.0
SENDING = Sending(delay_seconds=3600, batch_records=4, longest_seconds=5 * 3600)


def opened(folder: Path, clock: FakeClock, *, sending: Sending = SENDING, seed: int = 1) -> Outbox:
    return Outbox(folder / "outbox.sqlite", clock=clock, sending=sending, rng=random.Random(seed))  # noqa: S311


def fill(outbox: Outbox, clock: FakeClock, n: int, *, every_s: float = 1.0, start: int = 0) -> list[Record]:
    records = [make_record(i) for i in range(start, start + n)]
    for record in records:
        outbox.put(record, frame_key=None)
        clock.advance(every_s)
    return records


def into_next_round(clock: FakeClock, outbox: Outbox) -> None:
    clock.advance(outbox._rounds.last_end(clock.now) + HOUR + 1.0 - clock.now)


def sent(wire: FakeWire) -> list[list[bytes]]:
    return [[r.id for r in from_wire(body)] for body in wire.bodies]


def order_of(records: Sequence[Record], wire: FakeWire) -> list[int]:
    """The frames' numbers in the order of the wire."""
    number = {r.id: i for i, r in enumerate(records)}
    return [number[key] for body in sent(wire) for key in body]


def test_the_order_on_the_wire_is_uncorrelated_with_the_order_of_the_frames(tmp_path: Path) -> None:
    """Over 40 runs, Spearman's p values are as uniform as chance makes them; so are the frames of every place."""
    p, places = [], []
    for seed in range(40):
        clock, wire = FakeClock(), FakeWire()
        (folder := tmp_path / str(seed)).mkdir()
        with opened(folder, clock, seed=seed) as outbox:
            records = fill(outbox, clock, 60)
            Uplink(outbox, wire, clock=clock, sleep=clock.sleep, batch=25).drain(deadline_s=60)
            assert outbox.counts()[State.DELIVERED] == 60
        order = order_of(records, wire)
        assert sorted(order) == list(range(60))
        assert len(wire.bodies) == 3
        p.append(float(spearmanr(range(60), order).pvalue))
        places.append(order[0])
    assert kstest(p, "uniform").pvalue > 1e-3
    assert kstest((np.array(places) + 0.5) / 60, "uniform").pvalue > 1e-3


def test_that_test_would_see_the_order_of_the_frames(tmp_path: Path) -> None:
    """With a generator that draws the first ones in their order, and bodies shuffled inside, it fails."""

    class InOrder(random.Random):
        def sample(self, population: Any, k: int, **_: Any) -> list[Any]:
            return super().sample(population[:k], k)

    clock, wire = FakeClock(), FakeWire()
    with Outbox(tmp_path / "o", clock=clock, rng=InOrder(1)) as outbox:
        records = fill(outbox, clock, 60)
        Uplink(outbox, wire, clock=clock, sleep=clock.sleep, batch=25).drain(deadline_s=60)
    assert spearmanr(range(60), order_of(records, wire)).pvalue < 1e-6


def test_nothing_leaves_before_its_round_ends(tmp_path: Path) -> None:
    clock, wire = FakeClock(), FakeWire()
    with opened(tmp_path, clock) as outbox:
        uplink = Uplink(outbox, wire, clock=clock, sleep=clock.sleep)
        into_next_round(clock, outbox)
        first = fill(outbox, clock, 6)
        assert uplink.send_once().waiting == 6
        into_next_round(clock, outbox)
        later = fill(outbox, clock, 5, start=6)
        assert uplink.send_once().delivered == 6
        assert {key for body in sent(wire) for key in body} == {r.id for r in first}
        assert uplink.send_once().waiting == 5
        into_next_round(clock, outbox)
        assert uplink.send_once().delivered == len(later)


def test_the_time_of_sending_is_the_same_whenever_in_a_round_something_was_put(tmp_path: Path) -> None:
    """Somebody on the line sees which round it was, and nothing finer."""
    times = []
    for i, wait in enumerate((0.0, 700.0, 3500.0)):
        clock, wire = FakeClock(), FakeWire()
        (folder := tmp_path / str(i)).mkdir()
        with opened(folder, clock) as outbox:
            uplink = Uplink(outbox, wire, clock=clock, sleep=clock.sleep)
            into_next_round(clock, outbox)
            clock.advance(wait)
            fill(outbox, clock, 4)
            while not wire.bodies:
                uplink.send_once()
                clock.advance(5.0)
            times.append(round((clock.now - outbox._rounds.last_end(clock.now)) / 5.0))
    assert max(times) - min(times) <= 1


def test_few_records_wait_for_others_but_not_for_ever(tmp_path: Path) -> None:
    clock, wire = FakeClock(), FakeWire()
    with opened(tmp_path, clock) as outbox:
        uplink = Uplink(outbox, wire, clock=clock, sleep=clock.sleep)
        fill(outbox, clock, 3)
        for _ in range(4):
            into_next_round(clock, outbox)
            assert uplink.send_once().waiting == 3
        for _ in range(2):
            into_next_round(clock, outbox)
        assert uplink.send_once().delivered == 3


def test_the_end_of_a_run_sends_what_is_left(tmp_path: Path) -> None:
    clock, wire = FakeClock(), FakeWire()
    with opened(tmp_path, clock) as outbox:
        fill(outbox, clock, 3)
        assert Uplink(outbox, wire, clock=clock, sleep=clock.sleep).drain(deadline_s=10).delivered == 3


def test_a_round_that_fails_is_sent_again(tmp_path: Path) -> None:
    clock, wire = FakeClock(), FakeWire([TransportError("away")])
    with opened(tmp_path, clock) as outbox:
        uplink = Uplink(outbox, wire, clock=clock, sleep=clock.sleep, retry=Retry(attempts=1))
        records = fill(outbox, clock, 8)
        into_next_round(clock, outbox)
        with pytest.raises(TransportError):
            uplink.send_once()
        assert uplink.send_once().delivered == len(records)


def test_a_clock_that_was_set_back_holds_nothing_for_ever(tmp_path: Path) -> None:
    clock, wire = FakeClock(), FakeWire()
    with opened(tmp_path, clock) as outbox:
        fill(outbox, clock, 2)
        clock.advance(-400 * 86_400.0)
        assert Uplink(outbox, wire, clock=clock, sleep=clock.sleep).send_once().delivered == 2


@given(st.floats(0, 4e9), st.integers(0, 100_000), st.floats(0, 1, exclude_max=True))
def test_rounds_follow_each_other_without_gaps(now: float, length: int, phase: float) -> None:
    rounds = Rounds(Sending(delay_seconds=length), phase)
    end = rounds.last_end(now)
    if length == 0:
        assert end == np.inf
    else:
        assert now - length - 1e-3 <= end <= now + 1e-3
        # Just at a round's end, rounding decides on which side of it a moment is.
        if 1e-3 < (now - phase * length) % length < length - 1e-3:
            assert rounds.last_end(now + length) == pytest.approx(end + length, abs=1e-3)


def test_without_rounds_everything_leaves_at_once(tmp_path: Path) -> None:
    clock, wire = FakeClock(), FakeWire()
    with opened(tmp_path, clock, sending=AT_ONCE) as outbox:
        fill(outbox, clock, 1)
        assert Uplink(outbox, wire, clock=clock, sleep=clock.sleep).send_once().delivered == 1
