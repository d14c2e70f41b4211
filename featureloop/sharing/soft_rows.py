"""Rows of probabilities as bytes: what a doubtful recognition is softened to.

A value of 0 to 255 is coded around the mean of those beside it in the cell, the first of a row around what was
recognized there, under tables that are calculated in whole numbers, so that they are the same on every
machine and no package has to carry them. In a row whose probabilities are all 0 nothing else is coded.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import constriction
import numpy as np

from featureloop.core.errors import RecordError
from featureloop.core.types import UInt8
from featureloop.model.manifest import ReleasedForm
from featureloop.sharing.rows import Int64, beside_in_cell

LEVELS = 256
_TOTAL = 4096
_ALONE = LEVELS
"""The context of a value that none stands beside."""
_BYTE = constriction.stream.model.Uniform(LEVELS)


class SoftRowsModel:
    """The coding of rows of probabilities, of which coded values may follow.

    Parameters
    ----------
    width
        T, values of a row.
    """

    def __init__(self, form: ReleasedForm, width: int) -> None:
        self.width, self.flags = width, width if form.flags is None else form.flags

    def encode(self, coder: Any, rows: UInt8, before: UInt8) -> None:
        """Put rows uint8 (N, T) on a stack coder.

        Parameters
        ----------
        before
            uint8 (N, T), what was recognized.

        Raises
        ------
        RecordError
            There are more or fewer rows than were recognized, or a row without a probability holds something.
        """
        if rows.shape != before.shape:
            raise RecordError(f"rows of probabilities {rows.shape} for what was recognized {before.shape}")
        told = rows[:, : self.flags].any(axis=1)
        if rows[~told].any():
            raise RecordError("a row of targets holds distances without a probability; the frame can't be shared")
        if self.flags < self.width:
            coder.encode_reverse(rows[told, self.flags :].reshape(-1).astype(np.int32), _BYTE)
        for i in reversed(range(self.flags)):
            hard, near = before[:, i] != 0, self._near(rows, i)
            for context in reversed(_contexts(hard, near)):
                own = (hard == context[0]) & (near == context[1])
                coder.encode_reverse(rows[own, i].astype(np.int32), _model(*context))

    def decode(self, coder: Any, before: UInt8) -> UInt8:
        """Take as many rows from a stack coder as were recognized, uint8 (N, T)."""
        rows = np.zeros((len(before), self.width), np.uint8)
        for i in range(self.flags):
            hard, near = before[:, i] != 0, self._near(rows, i)
            for context in _contexts(hard, near):
                own = (hard == context[0]) & (near == context[1])
                rows[own, i] = coder.decode(_model(*context), int(own.sum()))
        if self.flags < self.width:
            told = rows[:, : self.flags].any(axis=1)
            coded = coder.decode(_BYTE, int(told.sum()) * (self.width - self.flags))
            rows[told, self.flags :] = coded.reshape(-1, self.width - self.flags)
        return rows

    def _near(self, rows: UInt8, at: int) -> Int64:
        """The mean of the values beside one, int64 (N,)."""
        beside = sorted({i for i in beside_in_cell(self.flags)[at] if i >= 0})
        if not beside:
            return np.full(len(rows), _ALONE, np.int64)
        return np.asarray(rows[:, beside].sum(axis=1, dtype=np.int64) // len(beside))


def _contexts(hard: Any, near: Int64) -> list[tuple[bool, int]]:
    """The contexts that occur, in one order at both ends."""
    return [(bool(c >= 2 * LEVELS), int(c % (2 * LEVELS))) for c in np.unique(near + 2 * LEVELS * hard).tolist()]


@lru_cache(maxsize=2 * LEVELS + 2)
def _model(hard: bool, near: int) -> Any:
    return constriction.stream.model.Categorical(np.array(_table(hard, near), np.float64) / _TOTAL, perfect=False)


def _table(hard: bool, near: int) -> list[int]:
    """Frequencies of 0 to 255 that sum to 4096: falling from what is expected, least on the other side of a half."""
    center = (LEVELS - 1 if hard else 0) if near == _ALONE else near
    spread = 12 if near == _ALONE else 1 + min(center, LEVELS - 1 - center) // 12
    fall = 65_536 * spread // (spread + 1)
    weights, weight = [0] * LEVELS, 1 << 24
    for away in range(LEVELS):
        for value in {center - away, center + away}:
            if 0 <= value < LEVELS:
                weights[value] = weight if (value >= LEVELS // 2) == hard else 0
        weight = weight * fall >> 16
    total = sum(weights)
    table = [1 + (w * (_TOTAL - LEVELS) // total if total else 0) for w in weights]
    table[table.index(max(table))] += _TOTAL - sum(table)
    return table
