"""Symbols and rows of targets on a code stream, by the model that the tables of their form ask for.

What is put last is taken first, as on any stack. `sharing.codec` makes payloads of it, one stream each;
`sharing.together` puts many records on one stream.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import constriction
import numpy as np

from featureloop.core.errors import RecordError
from featureloop.core.types import UInt8
from featureloop.model.forms import NONE
from featureloop.model.manifest import ReleasedForm
from featureloop.sharing.multiset import MultisetModel
from featureloop.sharing.ordered import OrderModel
from featureloop.sharing.rows import RowsModel
from featureloop.sharing.soft_rows import SoftRowsModel

TOTAL = 4096
"""Every frequency table sums to this; exact in float64, so models are the same everywhere."""


def put_features(coder: Any, symbols: UInt8, form: ReleasedForm, *, like: UInt8 | None = None) -> None:
    """Put symbols uint8 (N, C) on a stack coder.

    Parameters
    ----------
    like
        Of a set without an order: another one, uint8 (M, C), after which it is coded.

    Raises
    ------
    RecordError
        A set's rows are not in canonical order, or rows are no whole windows or maps.
    """
    if form.ordered is not None:
        _ordered(Same(form)).encode(coder, symbols, side_of(form, len(symbols)))
    elif form.bag is not None:
        _multiset(Same(form)).encode(coder, symbols, like)
    else:
        columns = symbols.astype(np.int32)
        for c in reversed(range(form.channels)):
            coder.encode_reverse(np.ascontiguousarray(columns[:, c]), _model(form.frequencies[c]))


def take_features(coder: Any, n: int, form: ReleasedForm, *, like: UInt8 | None = None) -> UInt8:
    """Take the symbols of n vectors from a stack coder, uint8 (n, C); `like` as they were put.

    Raises
    ------
    RecordError
        They are no valid code, or no whole windows or maps.
    """
    if form.ordered is not None:
        return _ordered(Same(form)).decode(coder, n, side_of(form, n))
    if form.bag is not None:
        return _multiset(Same(form)).decode(coder, n, like)
    out = np.empty((n, form.channels), np.uint8)
    for c in range(form.channels):
        out[:, c] = coder.decode(_model(form.frequencies[c]), n)
    return out


def put_rows(
    coder: Any, rows: UInt8, form: ReleasedForm, *, symbols: UInt8 | None = None, before: UInt8 | None = None
) -> None:
    """Put rows of targets uint8 (N, T) on a stack coder; for the rest see `RowsModel.encode`."""
    _rows(Same(form), rows.shape[1]).encode(coder, rows, symbols, before)


def take_rows(
    coder: Any,
    n: int,
    form: ReleasedForm,
    *,
    width: int,
    symbols: UInt8 | None = None,
    before: UInt8 | None = None,
) -> UInt8:
    """Take n rows of targets from a stack coder, uint8 (n, width)."""
    return _rows(Same(form), width).decode(coder, n, symbols, before)


def put_soft_rows(coder: Any, rows: UInt8, form: ReleasedForm, *, before: UInt8) -> None:
    """Put rows of probabilities uint8 (N, T), 0 to 255, on a stack coder; for the rest see `SoftRowsModel.encode`."""
    SoftRowsModel(form, rows.shape[1]).encode(coder, rows, before)


def take_soft_rows(coder: Any, form: ReleasedForm, *, before: UInt8) -> UInt8:
    """Take as many rows of probabilities as `before` has from a stack coder, uint8 (N, T)."""
    return SoftRowsModel(form, before.shape[1]).decode(coder, before)


def side_of(form: ReleasedForm, n: int) -> int:
    """Positions per side of what keeps its order among n vectors of a record: 1 of a set.

    Raises
    ------
    RecordError
        So many vectors are no whole windows or maps.
    """
    leaves = form.form
    side = leaves.window or (max(1, math.isqrt(n // leaves.mix)) if leaves.base == NONE else 1)
    if n % side**2:
        raise RecordError(f"{n} vectors are no whole number of units of {side} x {side} in the form '{leaves}'")
    return side


class Same:
    """A form that is only equal to itself: its many tables need not be compared."""

    __slots__ = ("form",)

    def __init__(self, form: ReleasedForm) -> None:
        self.form = form

    def __hash__(self) -> int:
        return id(self.form)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.form is self.form


@lru_cache(maxsize=4096)
def _model(frequencies: tuple[int, ...]) -> Any:
    return constriction.stream.model.Categorical(np.asarray(frequencies, np.float64) / TOTAL, perfect=False)


@lru_cache(maxsize=32)
def _multiset(same: Same) -> MultisetModel:
    form = same.form
    assert form.bag is not None  # noqa: S101 - whoever asks has looked
    return MultisetModel(form.levels, form.bag.urns, form.frequencies)


@lru_cache(maxsize=32)
def _ordered(same: Same) -> OrderModel:
    form = same.form
    assert form.ordered is not None  # noqa: S101 - whoever asks has looked
    return OrderModel(form.levels, form.ordered, _multiset(same))


@lru_cache(maxsize=32)
def _rows(same: Same, width: int) -> RowsModel:
    return RowsModel(same.form, width)
