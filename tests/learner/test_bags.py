"""Bags: records decoded, split by group, weighed by who stands behind them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featureloop.core.errors import RecordError
from featureloop.core.types import Bag, ChangedBy, UInt8
from featureloop.learner.bags import ACCEPTED_WEIGHT, CHANGED_WEIGHTS, Bags, load_bags, training_set, weight_of
from featureloop.learner.founding_records import FOUNDING_SITE, HELD_SITE
from featureloop.model.fit import BagSet, FramesAndRows
from featureloop.model.manifest import Manifest
from featureloop.sharing import codec
from featureloop.sharing.anonymize import canonical_order
from featureloop.sharing.record import Record
from featureloop.sharing.release import coded as coded_bag
from featureloop.sharing.release import replayed
from featureloop.testing import make_record, tiny_package

N, C, T = 16, 8, 16
CHANGED = {"changed_by": "clinician", "changed_when": 4 * 2026}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return tiny_package(tmp_path_factory.mktemp("bags") / "package").manifest


def symbols(i: int) -> UInt8:
    drawn = np.random.default_rng(i).integers(0, 8, (N, C)).astype(np.uint8)
    return canonical_order(Bag(drawn, rows(i))).symbols


def rows(i: int, *, n: int = N) -> UInt8:
    return np.random.default_rng(1000 + i).integers(0, 2, (n, T)).astype(np.uint8)


def coded(manifest: Manifest, i: int, targets: UInt8, *, before: UInt8 | None = None) -> bytes:
    return codec.encode_rows(targets, manifest.released, symbols=symbols(i), before=before)


def record(manifest: Manifest, i: int, **overrides: Any) -> Record:
    features = codec.encode_features(symbols(i), manifest.released)
    own = {"features": features, "recognition": coded(manifest, i, rows(i))}
    return make_record(i, **(own | overrides))


def of_groups(manifest: Manifest, members: Iterable[tuple[str, int]]) -> list[Record]:
    return [record(manifest, i, site=s, group=g.to_bytes(16, "big")) for i, (s, g) in enumerate(members)]


def load(records: list[Record], manifest: Manifest) -> Bags:
    return load_bags(iter([records[:3], records[3:]]), manifest)


def test_records_are_decoded_in_their_order(manifest: Manifest) -> None:
    bags = load([record(manifest, i) for i in range(5)], manifest)
    np.testing.assert_array_equal(bags.symbols, np.stack([symbols(i) for i in range(5)]))
    np.testing.assert_array_equal(bags.results, np.stack([rows(i) for i in range(5)]))
    assert bags.unreadable == 0


def test_the_changed_result_is_the_one_to_learn_from(manifest: Manifest) -> None:
    changed = coded(manifest, 0, 1 - rows(0), before=rows(0))
    bags = load([record(manifest, 0, changed=changed, **CHANGED)], manifest)
    np.testing.assert_array_equal(bags.results[0], 1 - rows(0))


@settings(max_examples=40, deadline=None)
@given(
    members=st.lists(st.tuples(st.sampled_from(["a", "b", FOUNDING_SITE, HELD_SITE]), st.integers(0, 7)), min_size=1)
)
def test_a_group_is_never_on_both_sides_and_every_site_with_two_has_one_on_each(
    manifest: Manifest, members: list[tuple[str, int]]
) -> None:
    bags = load(of_groups(manifest, members), manifest)
    for site in set(bags.sites):
        own = bags.sites == site
        held, kept = set(bags.groups[own & bags.held]), set(bags.groups[own & ~bags.held])
        assert not held & kept
        if site == HELD_SITE:
            assert not kept
        elif site == FOUNDING_SITE or len(held | kept) == 1:
            assert not held
        else:
            assert held
            assert kept


def test_about_a_fifth_of_many_groups_is_held_back_and_stays_so(manifest: Manifest) -> None:
    members = [("a", g) for g in range(300)]
    bags = load(of_groups(manifest, members), manifest)
    assert bags.held.mean() == pytest.approx(0.2, abs=0.06)
    fewer = load(of_groups(manifest, members[:200]), manifest)
    np.testing.assert_array_equal(fewer.held, bags.held[:200])


def test_a_record_without_a_group_is_its_own(manifest: Manifest) -> None:
    bags = load([record(manifest, i, group=None, site="a") for i in range(6)], manifest)
    assert len(set(bags.groups)) == 6
    assert 1 <= bags.held.sum() <= 5


def test_damaged_records_are_counted_and_left_out(manifest: Manifest) -> None:
    good = record(manifest, 0)
    bad = [
        record(manifest, 1, features=good.features[:-4]),
        record(manifest, 2, features=b""),
        record(manifest, 3, features=b"noise" * 20),
        record(manifest, 4, recognition=None),
        record(manifest, 5, recognition=b"x" * 40),
        record(manifest, 6, recognition=coded(manifest, 6, rows(6, n=N - 1))),
        record(manifest, 7, vectors=N - 1),
        record(manifest, 8, features=codec.encode_features(symbols(8)[:-1], manifest.released)),
        record(manifest, 9, changed=b"x" * 40, **CHANGED),
    ]
    bags = load([*bad, good], manifest)
    assert bags.unreadable == len(bad)
    np.testing.assert_array_equal(bags.symbols, symbols(0)[None])
    with pytest.raises(RecordError, match="nothing to learn from"):
        load(bad, manifest)


def test_without_any_record_there_is_nothing_to_learn_from(manifest: Manifest) -> None:
    with pytest.raises(RecordError, match="nothing to learn from"):
        load_bags(iter([]), manifest)


def test_a_result_weighs_by_who_stands_behind_it(manifest: Manifest) -> None:
    two, three = (coded(manifest, i, rows(1), before=rows(i)) for i in (2, 3))
    none = {"reliability": None, "reliability_method": None}
    bags = load(
        [
            record(manifest, 0, reliability=0.25),
            record(manifest, 1, **none),
            record(manifest, 2, reliability=0.25, changed=two, **CHANGED),
            record(manifest, 3, reliability=0.25, changed=three, **(CHANGED | {"changed_by": "ground-truth"})),
            record(manifest, 4, site=FOUNDING_SITE, **none),
            record(manifest, 5, site=HELD_SITE, **none),
        ],
        manifest,
    )
    np.testing.assert_allclose(bags.weights, [ACCEPTED_WEIGHT / 4, ACCEPTED_WEIGHT, 1, 1, 1, 1])
    assert bags.verified.tolist() == [False, False, True, True, True, True]


def test_a_persons_word_counts_before_a_second_opinion_a_consensus_an_accepted_and_a_softened_result() -> None:
    assert set(CHANGED_WEIGHTS) == set(ChangedBy)
    order = [ChangedBy.CLINICIAN, ChangedBy.SECOND_OPINION, ChangedBy.CONSENSUS, None, ChangedBy.SOFTENED]
    for trust in (None, 0.1, 0.9, 1.0):
        weights = [weight_of(by, trust) for by in order]
        assert weights == sorted(weights, reverse=True)
        assert len(set(weights)) == len(order)
    assert weight_of(ChangedBy.GROUND_TRUTH, 0.3) == weight_of(ChangedBy.CLINICIAN, 0.3) == 1


@pytest.mark.parametrize("by", list(ChangedBy))
def test_only_what_a_person_or_a_truth_stands_behind_is_verified(manifest: Manifest, by: ChangedBy) -> None:
    payload = (
        codec.encode_soft_rows(rows(0), manifest.released, before=rows(0))
        if by is ChangedBy.SOFTENED
        else coded(manifest, 0, 1 - rows(0), before=rows(0))
    )
    bags = load([record(manifest, 0, changed=payload, changed_by=str(by), changed_when=4 * 2026)], manifest)
    assert bags.unreadable == 0
    assert bags.verified[0] == (by in (ChangedBy.CLINICIAN, ChangedBy.GROUND_TRUTH))


def test_a_softened_result_is_learned_from_as_probabilities(manifest: Manifest) -> None:
    soft = np.random.default_rng(1).integers(0, 256, (N, T)).astype(np.uint8)
    payload = codec.encode_soft_rows(soft, manifest.released, before=rows(0))
    softened = record(manifest, 0, changed=payload, changed_by="softened", changed_when=4 * 2026)
    bags = load([softened, record(manifest, 1)], manifest)
    drawn = training_set(bags, manifest, founding_share=0.5, chosen=np.ones(2, np.bool_))
    targets = drawn.batch(np.array([0, 1])).y
    np.testing.assert_allclose(targets[0], soft / 255, atol=1e-6)
    np.testing.assert_array_equal(targets[1], rows(1))


def test_counts_are_by_site_among_the_chosen(manifest: Manifest) -> None:
    bags = load(of_groups(manifest, [("a", 0), ("b", 0), ("a", 1), (FOUNDING_SITE, 2)]), manifest)
    assert bags.counts(np.ones(4, np.bool_)) == {"a": 2, "b": 1, FOUNDING_SITE: 1}
    assert bags.counts(np.array([True, False, False, False])) == {"a": 1}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_founding_records_make_up_their_share_of_every_batch(manifest: Manifest, share: float) -> None:
    bags = load(of_groups(manifest, [(FOUNDING_SITE, i) for i in range(7)] + [("a", 8), ("b", 9)]), manifest)
    drawn = training_set(bags, manifest, founding_share=share, chosen=np.ones(9, np.bool_))
    assert drawn.shares.sum() == pytest.approx(1.0)
    assert drawn.shares[:7].sum() == pytest.approx(share)
    assert len(set(np.round(drawn.shares[:7], 12))) == len(set(np.round(drawn.shares[7:], 12))) == 1


@pytest.mark.parametrize("site", ["a", FOUNDING_SITE])
def test_records_of_one_kind_alone_are_drawn_alike(manifest: Manifest, site: str) -> None:
    bags = load(of_groups(manifest, [(site, i) for i in range(4)]), manifest)
    drawn = training_set(bags, manifest, founding_share=0.5, chosen=np.array([True, True, False, True]))
    assert len(drawn) == 3
    np.testing.assert_allclose(drawn.shares, 1 / 3)


def test_a_training_value_is_what_the_codec_decodes(manifest: Manifest) -> None:
    bags = load([record(manifest, i) for i in range(3)], manifest)
    drawn = training_set(bags, manifest, founding_share=0.5, chosen=np.ones(3, np.bool_))
    assert isinstance(drawn, BagSet)
    values = drawn.offset + drawn.scale * drawn.values[1].astype(np.float32)
    np.testing.assert_allclose(values, codec.dequantize(symbols(1), manifest.released), atol=1e-6)


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Of a form that lets four balanced rows of a frame leave."""
    return tiny_package(tmp_path_factory.mktemp("parted") / "package", release="set subset=4,balanced").manifest


def kept(of: Manifest, i: int, targets: UInt8, **values: Any) -> Record:
    """A record of those targets' rows, each of the value `i`."""
    bag = canonical_order(Bag(np.full((len(targets), C), i, np.uint8), targets))
    own = coded_bag(bag, of.released)
    anonymizer = of.released.anonymizer
    return make_record(
        i, anonymizer=anonymizer, vectors=len(targets), features=own.features, recognition=own.recognition, **values
    )


@pytest.fixture
def few_and_whole(parted: Manifest) -> Bags:
    """Two founding frames, of whose rows a quarter shows a lesion, and records of four rows, half of them lesion."""
    lesion = np.repeat([1, 0], [N // 4, N - N // 4]).astype(np.uint8)[:, None].repeat(T, axis=1)
    half = lesion[[0, 1, -1, -2]]
    founding = [kept(replayed(parted), i, lesion, site=s) for i, s in enumerate([FOUNDING_SITE] * 2 + [HELD_SITE])]
    some = [kept(parted, 3 + i, half, site="a", group=i.to_bytes(16, "big")) for i in range(4)]
    return load_bags(iter([founding, some]), parted)


def test_founding_frames_are_kept_whole_where_a_part_of_others_leaves(few_and_whole: Bags) -> None:
    assert few_and_whole.unreadable == 0
    assert [len(s) for s in few_and_whole.symbols] == [N, N, N, 4, 4, 4, 4]
    assert few_and_whole.whole is not None
    assert few_and_whole.whole.tolist() == [True] * 3 + [False] * 4


def test_a_site_can_not_say_that_its_whole_frame_is_a_part(parted: Manifest) -> None:
    whole = kept(replayed(parted), 1, rows(1), site="a")
    part = kept(parted, 2, rows(2, n=4), site="a")
    assert load_bags(iter([[whole, part]]), parted).unreadable == 1


def test_loose_rows_are_drawn_as_often_with_a_lesion_as_frames_have_them(few_and_whole: Bags, parted: Manifest) -> None:
    """Half of a balanced record is lesion; a recognizer that learned that would see lesions everywhere."""
    chosen = few_and_whole.sites != HELD_SITE
    made = training_set(few_and_whole, parted, founding_share=0.5, chosen=chosen)
    assert isinstance(made, FramesAndRows)
    assert len(made) == len(made.frames) + 4
    assert made.shares[: len(made.frames)].sum() == pytest.approx(0.5)
    batch = made.batch(np.array([0, *[5] * 300]), rng=np.random.default_rng(1))
    assert batch.x.shape == (301, N, C)
    np.testing.assert_array_equal(batch.y[0], few_and_whole.results[0])
    assert (batch.y[1:].max(axis=2) > 0).mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_allclose(batch.weights, [1.0, *[few_and_whole.weights[3:].mean()] * 300])
    # Every row keeps its own result, and rows of all records come together.
    values = ((batch.x[1:] - made.frames.offset) / made.frames.scale).round()
    assert set(np.unique(values[0])) == {3.0, 4.0, 5.0, 6.0}


def test_without_founding_frames_parts_are_learned_from_as_they_are(few_and_whole: Bags, parted: Manifest) -> None:
    only = training_set(few_and_whole, parted, founding_share=0.5, chosen=few_and_whole.sites == "a")
    assert isinstance(only, BagSet)
    assert only.values.shape == (4, 4, C)
