from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from featureloop.audit.linking import search_of
from featureloop.audit.retrieval import Search, measures_of, pairs_of, precision_of, top1_of


@pytest.fixture
def search() -> Search:
    rng = np.random.default_rng(1)
    return search_of([{f"p{k}"} for k in rng.integers(0, 6, 60)])


def similarity(search: Search, strength: float) -> np.ndarray:
    noise = np.random.default_rng(2).normal(size=search.mates.shape)
    return (noise + strength * search.mates).astype(np.float32)


def test_a_record_neither_finds_itself_nor_counts_itself_as_right(search):
    identity = np.eye(60, dtype=np.float32)
    assert not search.mates.diagonal().any()
    # All others are tied, so each query is right by the share of its mates: chance.
    assert np.nanmean(top1_of(identity, search)) == pytest.approx(search.chance_top1)


def test_a_query_without_a_mate_decides_nothing():
    alone = search_of([{"a"}, {"a"}, {"b"}])
    assert np.isnan(top1_of(np.zeros((3, 3), np.float32), alone)).tolist() == [False, False, True]
    assert alone.chance_top1 == 0.5


def test_records_of_several_patients_are_mates_where_one_is_in_both():
    mixed = search_of([{"a", "b"}, {"b", "c"}, {"d"}])
    assert mixed.mates.tolist() == [[False, True, False], [True, False, False], [False, False, False]]


def test_precision_and_area_agree_with_scikit_learn(search):
    s = similarity(search, 1.0)
    off = ~np.eye(60, dtype=bool)
    precision = [average_precision_score(search.mates[q, off[q]], s[q, off[q]]) for q in range(60)]
    assert precision_of(s, search) == pytest.approx(precision)
    area = pairs_of(s, search).area(np.arange(60))
    assert area == pytest.approx(roc_auc_score(search.mates[off], s[off]), abs=2e-3)


def test_true_positives_are_counted_above_one_wrong_pair_in_a_thousand(search):
    off = ~np.eye(60, dtype=bool)
    s = similarity(search, 3.0)
    wrong = np.sort(s[off & ~search.mates])[::-1]
    exact = (s[off & search.mates] > wrong[int(1e-3 * len(wrong))]).mean()
    assert pairs_of(s, search).found(np.arange(60)) == pytest.approx(exact, abs=0.03)


def test_measures_have_chance_and_intervals_by_patient(search):
    found = {m.figure: m for m in measures_of([similarity(search, 2.0)], search, arm="release", by="x", seed=1)}
    assert set(found) == {"top-1", "mAP", "AUC", "TPR at 1e-3 FPR"}
    assert found["top-1"].groups == 6
    for m in found.values():
        assert m.low <= m.value <= m.high
        assert m.value > m.chance


def test_figures_of_several_draws_are_their_means() -> None:
    search = search_of([{f"g{i % 6}"} for i in range(60)])
    each = [np.random.default_rng(seed).normal(size=(60, 60)).astype(np.float32) for seed in range(3)]
    alone = [{m.figure: m.value for m in measures_of([s], search, arm="release", by="x", seed=1)} for s in each]
    both = measures_of(each, search, arm="release", by="x", seed=1)
    for m in both:
        assert m.value == pytest.approx(np.mean([values[m.figure] for values in alone]))
        assert m.low <= m.value <= m.high
