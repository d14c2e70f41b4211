"""Rounds: when records leave, as a rule that knows the clock and how many wait, and nothing of a single record.

A timed mix (Serjantov, Dingledine & Syverson 2002, "From a Trickle to a
Flood"): what was put during a round leaves after it, in random order. The ends
of rounds are set when the outbox is opened, not by what is put, so that the
time of sending tells no more than in which round something came.
"""

from __future__ import annotations

import math
import sqlite3
from dataclasses import dataclass

from featureloop.device.outbox_file import State
from featureloop.sharing.policy import Sending

AT_ONCE = Sending(delay_seconds=0, batch_records=0, longest_seconds=0)
"""Whatever waits may leave."""
DRAWN_FROM = 65_536
"""Of more that wait, the oldest so many are drawn from."""
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


def ready(db: sqlite3.Connection, rounds: Rounds, *, now: float, room: int) -> list[tuple[int, bytes, int]]:
    """Number, id and bytes of what waits in an outbox's file and may leave now, at most `room` bytes each."""
    end = rounds.last_end(now)
    # What was put in a far future was put by a clock that has been set back since.
    waits = (State.PENDING, end, now + rounds.sending.longest_seconds)
    count, first, last = db.execute("SELECT count(*), min(put_at), max(put_at)" + _WAITING, waits).fetchone()
    if not count or not rounds.leaves(count=count, oldest=math.inf if last > waits[2] else end - first):
        return []
    fields = "SELECT seq, id, bytes" + _WAITING + " AND bytes <= ? ORDER BY put_at LIMIT ?"
    return db.execute(fields, (*waits, room, DRAWN_FROM)).fetchall()
