"""The tables of sets: what the founding frames say, and enough for what they don't."""

from __future__ import annotations

import numpy as np
import pytest

from featureloop.core.types import Bag, UInt8
from featureloop.learner.bag_tables import bag_tables, fit_urn
from featureloop.model.manifest import ReleasedForm
from featureloop.model.manifest_checks import _check_bag
from featureloop.sharing import codec
from featureloop.sharing.anonymize import canonical_order
from featureloop.sharing.urns import UNIT

LEVELS = (16, 8, 5)


def frame(seed: int) -> Bag:
    """Rows that are alike within a frame; the first channel tells of the lesion."""
    rng = np.random.default_rng(seed)
    middle = rng.uniform(0, 1, len(LEVELS))
    values = np.clip(rng.normal(middle, 0.15, (100, len(LEVELS))), 0, 0.999)
    symbols = (values * LEVELS).astype(np.uint8)
    rows = (symbols[:, :1] + rng.integers(0, 3, (100, 4)) > 12).astype(np.uint8)
    return canonical_order(Bag(symbols, rows))


def form(bags: list[Bag], doubted: list[tuple[UInt8, UInt8]]) -> ReleasedForm:
    c = len(LEVELS)
    symbols = np.concatenate([b.symbols for b in bags])
    tables = tuple(codec.frequency_table(np.bincount(symbols[:, i], minlength=n)) for i, n in enumerate(LEVELS))
    made = bag_tables(LEVELS, bags, doubted, flags=4)
    return ReleasedForm("set", c, (-1.0,) * c, (1.0,) * c, LEVELS, tables, flags=4, bag=made)


def test_tables_of_founding_frames_make_other_frames_small() -> None:
    fitted = form([frame(i) for i in range(60)], [])
    assert fitted.bag is not None
    _check_bag(fitted, fitted.bag)
    others = [frame(i) for i in range(60, 90)]
    plain = ReleasedForm(
        "set", 3, fitted.low, fitted.high, LEVELS, fitted.frequencies, target_frequencies=(2048, 1024, 1024), flags=4
    )
    for rows, most in ((False, 0.5), (True, 0.6)):
        small, large = (
            np.mean(
                [
                    len(
                        codec.encode_rows(b.recognized, f, symbols=b.symbols, padded=False)
                        if rows
                        else codec.encode_features(b.symbols, f, padded=False)
                    )
                    for b in others
                ]
            )
            for f in (fitted, plain)
        )
        assert small < most * large


def test_a_change_costs_little_where_what_was_recognized_mostly_stays() -> None:
    rng = np.random.default_rng(0)
    truth = [frame(i) for i in range(40)]
    said = [np.where(rng.random(b.recognized.shape) < 0.02, 1 - b.recognized, b.recognized) for b in truth]
    fitted = form(truth, [(s.astype(np.uint8), b.recognized) for s, b in zip(said, truth, strict=True)])
    other = frame(99)
    first = codec.encode_rows(other.recognized, fitted, symbols=other.symbols, padded=False)
    again = codec.encode_rows(other.recognized, fitted, symbols=other.symbols, before=other.recognized, padded=False)
    assert len(again) < 0.7 * len(first)


@pytest.mark.parametrize(("light", "dark"), [(2.0, 6.0), (0.5, 0.5), (60.0, 60.0)])
def test_an_urn_is_found_again(light: float, dark: float) -> None:
    rng = np.random.default_rng(1)
    n = rng.integers(2, 60, 4000)
    k = rng.binomial(n, rng.beta(light, dark, len(n)))
    a, b = fit_urn(n, k)
    assert a / (a + b) == pytest.approx(light / (light + dark), abs=0.03)
    assert 0.5 < (a + b) / UNIT / (light + dark) < 2


def test_a_split_that_was_never_seen_is_even() -> None:
    none = np.zeros(0, np.int64)
    assert fit_urn(none, none) == (UNIT, UNIT)


def test_one_row_of_results_for_the_whole_frame_has_no_score() -> None:
    bags = [Bag(frame(i).symbols, np.array([[i % 2, 0, 1, 0]], np.uint8)) for i in range(12)]
    made = bag_tables(LEVELS, bags, [], flags=4)
    assert made.thresholds == ()
    assert len(made.kinds) == 1
