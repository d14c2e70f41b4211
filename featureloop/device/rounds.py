"""Rounds: when records leave, as a rule that knows the clock and how many wait, and nothing of a single record.

A timed mix (Serjantov, Dingledine & Syverson 2002, "From a Trickle to a
Flood"): what was put during a round leaves after it, in random order. The ends
of rounds are set when the outbox is opened, not by what is put, so that the
time of sending tells no more than in which round something came.
"""

from __future__ import annotations

import math
import random
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from featureloop.device.outbox_file import State
from featureloop.sharing.policy import Sending

AT_ONCE = Sending(delay_seconds=0, batch_records=0, longest_seconds=0)
"""Whatever waits may leave."""
DRAWN_FROM = 65_536
"""Of more that wait, so many of the largest priority, the oldest of them first, are drawn from."""
Ready = tuple[int, bytes, int, float]
"""Number, id, bytes and priority of a record that may leave."""
_WAITING = " FROM entries WHERE state = ? AND (put_at <= ? OR put_at > ?)"


@dataclass(frozen=True, slots=True)
class Rounds:
    """The rounds of one opened outbox.

    Attributes
    ----------
    sending
        The site's settings.
    phase
        In [0, 1): where in a round the epoch is, so that not all devices send at the full hour.
    """

    sending: Sending
    phase: float = 0.0

    def last_end(self, now: float) -> float:
        """When the last round ended, seconds since the epoch; what was put until then may leave."""
        length = self.sending.delay_seconds
        if length == 0:
            return math.inf
        shift = self.phase * length
        return (now - shift) // length * length + shift

    def leaves(self, *, count: int, oldest: float) -> bool:
        """Whether what is ready leaves.

        Parameters
        ----------
        count
            Records that were put until the end of the last round.
        oldest
            Seconds from when the first of them was put to the end of that round.
        """
        return count >= self.sending.batch_records or oldest >= self.sending.longest_seconds


def ready(db: sqlite3.Connection, rounds: Rounds, *, now: float, room: int) -> list[Ready]:
    """What waits in an outbox's file and may leave now, at most `room` bytes each; of many the first by priority."""
    end = rounds.last_end(now)
    # What was put in a far future was put by a clock that has been set back since.
    waits = (State.PENDING, end, now + rounds.sending.longest_seconds)
    count, first, last = db.execute("SELECT count(*), min(put_at), max(put_at)" + _WAITING, waits).fetchone()
    if not count or not rounds.leaves(count=count, oldest=math.inf if last > waits[2] else end - first):
        return []
    fields = "SELECT seq, id, bytes, priority" + _WAITING + " AND bytes <= ? ORDER BY priority DESC, put_at LIMIT ?"
    return db.execute(fields, (*waits, room, DRAWN_FROM)).fetchall()


def most_informative(found: Sequence[Ready], *, room: int, rng: random.Random) -> list[Ready]:
    """All of what may leave where it fits into `room` bytes, else what has the largest priorities, in no order.

    What is chosen is drawn from as anything is: only that something leaves today, and not when, tells that it was
    rather informative.
    """
    if sum(size for _, _, size, _ in found) <= room:
        return list(found)
    chosen = []
    # Shuffled first, so that among equal ones the order of processing has no say.
    for one in sorted(rng.sample(found, len(found)), key=lambda one: -one[3]):
        if one[2] <= room:
            room -= one[2]
            chosen.append(one)
    return chosen
