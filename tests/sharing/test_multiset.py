"""Bags without an order: exact for every bag and table, the same bytes everywhere, and calm with hostile payloads."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln
from scipy.stats import betabinom

from featureloop.core.errors import RecordError
from featureloop.core.types import Bag, UInt8
from featureloop.model.manifest import BagTables, ReleasedForm
from featureloop.sharing import codec
from featureloop.sharing.anonymize import canonical_order
from featureloop.sharing.splits import FEW, tree_of
from featureloop.sharing.urns import MOST, TOTAL, UNIT, urn_frequencies

# Of `urn_frequencies` of some urns, as 64-bit little-endian numbers.
URNS = "834a37555439d47f3ce16fff5e58788cb60eabcdc46cf5136a8aa516d5b764ea"
# Of all payloads of `test_payloads_are_what_they_were_when_the_format_was_written`.
PAYLOADS = "2928ca090fc892ec78e336eb85bb062efdb11f1725daa578519495704e157f6a"
SEEDS = st.integers(0, 2**32 - 1)


def set_form(levels: list[int], *, flags: int = 16, seed: int = 0) -> ReleasedForm:
    """A form of sets whose tables are drawn by lot."""
    rng, c = np.random.default_rng(seed), len(levels)
    draw = lambda *shape: rng.integers(1, 4096, shape).tolist()  # noqa: E731
    kinds = [codec.frequency_table(rng.exponential(9.0, 3)) for _ in range(6)]
    tables = BagTables(
        urns=tuple(tuple((int(a), int(b)) for a, b in rng.integers(1, MOST + 1, (n - 1, 2))) for n in levels),
        weights=tuple(rng.integers(-9, 9, c).tolist()),
        thresholds=(-3, 20),
        kinds=tuple(kinds[:3]),
        flags=tuple(map(tuple, draw(flags, 16))),
        changed_kinds=tuple(kinds[3:]),
        changed_flags=tuple(map(tuple, draw(flags, 32))),
    )
    return ReleasedForm(
        "set",
        c,
        (-1.0,) * c,
        (1.0,) * c,
        tuple(levels),
        tuple(codec.frequency_table(rng.exponential(50.0, n)) for n in levels),
        coded_frequencies=(16,) * 256,
        flags=flags,
        bag=tables,
    )


def drawn_bag(form: ReleasedForm, n: int, seed: int, *, changed: bool = False, width: int | None = None) -> Bag:
    """A bag with many equal rows, in canonical order."""
    rng, flags = np.random.default_rng(seed), form.flags or 0
    few = np.stack([rng.integers(0, k, max(1, n // 3)) for k in form.levels], axis=1)
    symbols = few[rng.integers(0, len(few), n)].astype(np.uint8)

    def rows() -> UInt8:
        out = (rng.random((n, width or flags)) < rng.choice([0.0, 0.5, 1.0], (n, 1))).astype(np.uint8)
        told = out[:, :flags].any(axis=1)[:, None]
        out[:, flags:] = np.where(told, rng.integers(0, 256, out[:, flags:].shape), 0)
        return out

    return canonical_order(Bag(symbols, rows(), rows() if changed else None))


LEVELS = st.lists(st.integers(2, 256), min_size=1, max_size=6)


@settings(max_examples=80, deadline=None)
@given(LEVELS, st.integers(0, 300), SEEDS)
def test_a_bag_comes_back_exactly_and_its_bytes_are_the_same_again(levels: list[int], n: int, seed: int) -> None:
    form = set_form(levels, seed=seed)
    bag = drawn_bag(form, n, seed)
    payload = codec.encode_features(bag.symbols, form)
    np.testing.assert_array_equal(codec.decode_features(payload, form, max_vectors=n), bag.symbols)
    assert codec.encode_features(bag.symbols, form) == payload


def test_payloads_are_what_they_were_when_the_format_was_written() -> None:
    """Bit for bit, of small and large parts, many and few levels: what a site has sent stays readable."""
    told = hashlib.sha256()
    shapes = [([69, 11, 9, 5, 3], 400), ([255, 35, 29] + [3] * 20, 400), ([3] * 12, 60), ([256, 2], 300), ([2], 1)]
    for i, (levels, n) in enumerate([*shapes, ([5, 4, 3, 2], 2000), ([17] * 6, 0), ([200], 900)]):
        form = set_form(levels, seed=i)
        for seed in range(3):
            bag = drawn_bag(form, n, seed, changed=True)
            assert bag.changed is not None
            few = np.unique(bag.symbols, axis=0)[:3]
            rest = few[np.sort(np.random.default_rng(seed).integers(0, len(few), n))] if len(few) else bag.symbols
            for symbols in (bag.symbols, rest):
                payload = codec.encode_features(symbols, form)
                np.testing.assert_array_equal(codec.decode_features(payload, form, max_vectors=n), symbols)
                told.update(payload)
            told.update(codec.encode_rows(bag.recognized, form, symbols=bag.symbols))
            told.update(codec.encode_rows(bag.changed, form, symbols=bag.symbols, before=bag.recognized))
    assert told.hexdigest() == PAYLOADS


@settings(max_examples=40, deadline=None)
@given(LEVELS, st.integers(1, 200), SEEDS, st.sampled_from([1, 2, 9, 16]), st.integers(0, 4))
def test_rows_of_targets_and_their_changes_come_back_exactly(
    levels: list[int], n: int, seed: int, flags: int, coded: int
) -> None:
    form = set_form(levels, flags=flags, seed=seed)
    bag = drawn_bag(form, n, seed, changed=True, width=flags + coded)
    assert bag.changed is not None
    first = codec.encode_rows(bag.recognized, form, symbols=bag.symbols)
    second = codec.encode_rows(bag.changed, form, symbols=bag.symbols, before=bag.recognized)
    shape = {"width": flags + coded, "max_vectors": n, "symbols": bag.symbols}
    rows = codec.decode_rows(first, form, **shape)  # type: ignore[arg-type]
    np.testing.assert_array_equal(rows, bag.recognized)
    np.testing.assert_array_equal(codec.decode_rows(second, form, before=rows, **shape), bag.changed)  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), SEEDS)
def test_the_order_in_which_rows_came_leaves_no_trace(n: int, seed: int) -> None:
    form, rng = set_form([69, 11, 9, 5]), np.random.default_rng(seed)
    bag, order = drawn_bag(form, n, seed), rng.permutation(n)
    again = canonical_order(Bag(bag.symbols[order], bag.recognized[order]))
    assert codec.encode_features(again.symbols, form) == codec.encode_features(bag.symbols, form)


def test_rows_that_are_not_in_order_are_refused() -> None:
    form = set_form([8, 8])
    with pytest.raises(RecordError, match="canonical order"):
        codec.encode_features(np.array([[1, 0], [0, 7]], np.uint8), form)


def test_what_an_order_would_cost_is_saved() -> None:
    """Of independent rows whose shares are known, what their order would tell is saved, and hardly anything lost."""
    n, levels = 400, 64
    form = set_form([levels])
    # An urn of many equal balls at every split: all levels equally likely, and independent.
    form = replace(form, bag=replace(form.bag, urns=(((MOST, MOST),) * (levels - 1),)), frequencies=((64,) * levels,))
    sizes, ideal = [], []
    for seed in range(30):
        symbols = np.sort(np.random.default_rng(seed).integers(0, levels, (n, 1)), axis=0).astype(np.uint8)
        sizes.append(8 * len(codec.encode_features(symbols, form, padded=False)) - 64)
        counts = np.bincount(symbols[:, 0])
        ideal.append(n * 6 - (gammaln(n + 1) - gammaln(counts + 1).sum()) / math.log(2))
    assert np.mean(sizes) < np.mean(ideal) + 64
    assert np.mean(sizes) < 0.15 * n * 6


@pytest.mark.parametrize("n", [1, 2, FEW, FEW + 1, 400])
@pytest.mark.parametrize(("light", "dark"), [(1, 1), (8, 200), (16, 16), (4096, 3), (4096, 4096)])
def test_an_urn_is_the_beta_binomial_distribution(n: int, light: int, dark: int) -> None:
    table = urn_frequencies(n, np.array([light]), np.array([dark]))[0]
    assert table.sum() == TOTAL
    assert table.min() >= 1
    exact = betabinom.pmf(np.arange(n + 1), n, light / UNIT, dark / UNIT)
    assert (exact * np.log2(exact / (table / TOTAL))).sum() < 1e-3


def test_urns_are_the_same_on_every_machine() -> None:
    """Bit for bit what they were when this was written; nothing in them depends on a processor or a library."""
    light, dark = np.array([1, 7, 100, 4096]), np.array([4096, 20, 3, 4096])
    told = b"".join(urn_frequencies(n, light, dark).astype("<i8").tobytes() for n in (1, 2, 15, 400, 5000))
    assert hashlib.sha256(told).hexdigest() == URNS


@pytest.mark.parametrize("levels", [2, 3, 5, 69, 255, 256])
def test_splits_part_every_level_from_all_others(levels: int) -> None:
    """Of a bag with one row of each level: a split's sizes are those of its levels, and all are found again."""
    tree = tree_of(levels)
    first, size, below, ends = tree.asked(np.ones((levels, 1), np.int64))
    assert sorted(first // (FEW + 1)) == list(range(levels - 1))
    np.testing.assert_array_equal(size, tree.high - tree.low)
    np.testing.assert_array_equal(below, size // 2)
    assert len(ends) == math.ceil(math.log2(levels))
    assert len(set(tree.leaves.tolist())) == levels


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_payload_is_refused_or_of_the_declared_shape(data: st.DataObject) -> None:
    """Under a right checksum too: whatever decodes is a bag in order, and nothing hangs."""
    form = set_form([69, 11, 9, 5])
    bag = drawn_bag(form, 100, 1)
    body = bytearray(codec.encode_features(bag.symbols, form)[4:-4])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    sealed = codec.seal(100, _Words(bytes(body)), codec.ladders_of(form)[0])
    try:
        found = codec.decode_features(sealed, form, max_vectors=100)
    except RecordError:
        return
    assert found.shape == (100, 4)
    assert codec.encode_features(found, form) is not None


class _Words:
    """Stands for a coder that holds these bytes."""

    def __init__(self, words: bytes) -> None:
        self._words = words

    def get_compressed(self) -> np.ndarray:  # type: ignore[type-arg]
        words = np.frombuffer(self._words, "<u4")
        return words[: int(words.nonzero()[0].max(initial=-1)) + 1]
