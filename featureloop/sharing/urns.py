"""Polya urns as integer frequency tables that are the same on every machine.

Of n balls drawn one after the other from an urn with a light and b dark ones, each put back with another one of its
colour, k are light with the probability of the beta-binomial distribution (Eggenberger & Polya 1923; Johnson, Kotz &
Kemp 2005, section 6.2). It says how many of n alike rows of a frame lie on one side of a split, where frames differ
from each other more than chance alone would have it.

Logarithms and powers are computed in whole numbers, digit by digit, so that both ends of a line build the very same
tables, whatever their processors and libraries.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]

UNIT = 16
"""Parameters are given in sixteenths of a ball."""
MOST = 1 << 12
"""The largest parameter, 256 balls: practically no more scatter than chance."""
TOTAL = 1 << 22
"""Every table sums to this; exact in float64."""
QUICK = 1_024
"""Draws up to which logarithms are looked up: 160 kB."""
_DIGITS = 24
_HALF = _DIGITS // 2
_ONE = 1 << _DIGITS


def urn_frequencies(n: int, light: Int64, dark: Int64) -> Int64:
    """How often 0 to n of n balls are light, of several urns: int64 (U,) and (U,) to (U, n + 1).

    Every entry is at least 1, and a row sums to `TOTAL`.

    Parameters
    ----------
    n
        From 1 to 65,536.
    light, dark
        In sixteenths of a ball, 1 to `MOST`.
    """
    steps = np.arange(n, dtype=np.int64)
    choices = _summed(_log2(steps + 1)[None])
    first, second = (_summed(_log2(x[:, None] + UNIT * steps)) for x in (light, dark))
    # The number of ways, times the light balls' shares, times the dark ones'; what is common to all is left out.
    logs = choices[:, -1:] - choices - choices[:, ::-1] + first + second[:, ::-1]
    weights = _exp2(logs - logs.max(axis=1, keepdims=True))
    room = TOTAL - (n + 1)
    table = 1 + weights * room // weights.sum(axis=1, keepdims=True)
    at = weights.argmax(axis=1)
    table[np.arange(len(table)), at] += TOTAL - table.sum(axis=1)
    return np.asarray(table)


def frequencies_of_each(n: Int64, light: Int64, dark: Int64) -> Int64:
    """What `urn_frequencies` says, of urns that are hardly ever asked again: int64 (U,) each to (U, largest n + 1).

    Each is of its own number of draws, above which its row holds zeros. Logarithms and powers are looked up, so that an
    entry may differ from `urn_frequencies`' in its last digits; it is the same on every machine nevertheless.

    Parameters
    ----------
    n
        From 1 to `QUICK`.
    light, dark
        In sixteenths of a ball, 1 to `MOST`.
    """
    logs_of, choices, coarse, fine = _looked_up()
    most = int(n.max())
    steps = np.arange(most + 1)
    rest = n[:, None] - steps
    beyond = rest < 0
    rest[beyond] = 0
    first, second = (_summed(logs_of.take(x[:, None] + UNIT * steps[:-1])) for x in (light, dark))
    logs = choices.take(n)[:, None] - choices[: most + 1] - choices.take(rest) + first
    logs += second.ravel().take(rest + (most + 1) * np.arange(len(n))[:, None])
    logs[beyond] = -(1 << 62)
    logs -= logs.max(axis=1, keepdims=True)
    part = logs & (_ONE - 1)
    weights = (coarse.take(part >> _HALF) * fine.take(part & ((1 << _HALF) - 1))) >> 31
    weights >>= np.minimum(-(logs >> _DIGITS), 62)
    table = 1 + weights * (TOTAL - 1 - n)[:, None] // weights.sum(axis=1, keepdims=True)
    table[beyond] = 0
    table[np.arange(len(n)), weights.argmax(axis=1)] += TOTAL - table.sum(axis=1)
    return np.asarray(table)


@cache
def _looked_up() -> tuple[Int64, Int64, Int64, Int64]:
    """Logarithms of 0 (none) to all that is asked for, those of 0! to QUICK!, and powers of 2, coarse and fine."""
    logs = np.concatenate([np.zeros(1, np.int64), _log2(np.arange(1, MOST + UNIT * QUICK, dtype=np.int64))])
    halves = np.arange(1 << _HALF, dtype=np.int64)
    return logs, _summed(logs[None, 1 : QUICK + 1])[0], _exp2(halves << _HALF), _exp2(halves)


def _summed(logs: Int64) -> Int64:
    """Sums of the first 0 to n columns, int64 (U, n) to (U, n + 1)."""
    return np.concatenate([np.zeros((len(logs), 1), np.int64), logs.cumsum(axis=1)], axis=1)


def _log2(x: Int64) -> Int64:
    """Of whole numbers from 1 to 2**31, cut to 24 binary digits: int64 of any shape."""
    # The exponent and the mantissa of a float64 of so small a whole number are exact.
    mantissa, exponent = np.frexp(x.astype(np.float64))
    m = (mantissa * 2.0**32).astype(np.uint64)
    out = exponent.astype(np.int64) - 1
    shift, carry = np.uint64(31), np.uint64(32)
    for _ in range(_DIGITS):
        m = (m * m) >> shift
        bit = m >> carry
        m >>= bit
        out = (out << 1) | bit.astype(np.int64)
    return out


def _roots() -> tuple[int, ...]:
    """2**(1/2), 2**(1/4), ... in units of 2**-31."""
    roots, x = [], 2 << 31
    for _ in range(_DIGITS):
        x = math.isqrt(x << 31)
        roots.append(x)
    return tuple(roots)


_ROOTS = _roots()


def _exp2(x: Int64) -> Int64:
    """Of numbers up to 0 in 24 binary digits: int64, in units of 2**-31."""
    whole, part = x >> _DIGITS, x & (_ONE - 1)
    out = np.full(x.shape, 1 << 31, np.int64)
    for i, root in enumerate(_ROOTS):
        bit = (part >> (_DIGITS - 1 - i)) & 1
        out = np.where(bit == 1, (out * root) >> 31, out)
    return np.asarray(out >> np.minimum(-whole, 62))
