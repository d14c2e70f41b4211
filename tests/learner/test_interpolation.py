"""How far a candidate goes from the live weights: chosen on groups that were not learned from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featureloop.core.types import Bool, Task
from featureloop.learner.bags import Bags
from featureloop.learner.founding_records import FOUNDING_SITE
from featureloop.learner.interpolation import (
    DEFAULT,
    SHARES,
    Choice,
    best_share,
    choose_share,
    harmless_share,
)

LIVE = {"threshold": torch.tensor(0.2)}


class Threshold(nn.Module):
    """A position is lesion where its one value is above the threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(0.0))

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits of the positions."""
        return 20 * (vectors - self.threshold)


def some_bags(*, verified: bool = True, sites: tuple[str, ...] = ("a", "b"), groups: int = 8, n: int = 64) -> Bags:
    """Bags of one channel, in which what is above 0.5 is lesion; eight founding ones and one group each of the rest."""
    rng = np.random.default_rng(1)
    names = [FOUNDING_SITE] * 8 + [site for site in sites for _ in range(groups)]
    symbols = rng.integers(0, 256, (len(names), n, 1)).astype(np.uint8)
    site_names = np.array(names)
    return Bags(
        symbols,
        (symbols > 127).astype(np.uint8),
        site_names,
        np.array([f"{i:02x}" for i in range(len(names))]),
        np.full(len(names), verified) | (site_names == FOUNDING_SITE),
        np.ones(len(names), np.float32),
        np.zeros(len(names), bool),
        0,
    )


def choose(bags: Bags, trained: float, chosen: Bool | None = None) -> tuple[float, list[Bool]]:
    choice, asked = cross_validate(bags, lambda _some: trained, chosen)
    return choice.share, asked


def cross_validate(
    bags: Bags, trained: Callable[[Bool], float], chosen: Bool | None = None
) -> tuple[Choice, list[Bool]]:
    asked = []

    def train(some: Bool) -> dict[str, Tensor]:
        asked.append(some)
        return {"threshold": torch.tensor(trained(some))}

    choice = choose_share(
        bags,
        np.full(len(bags.sites), True) if chosen is None else chosen,
        live=LIVE,
        recognizer=Threshold(),
        train=train,
        values=lambda i: (bags.symbols[i] / 255).astype(np.float32),
        task=Task.SEGMENTATION,
    )
    return choice, asked


@pytest.mark.parametrize(("trained", "best"), [(1.4, 0.25), (0.8, 0.5), (0.6, 0.75), (0.5, 1.0), (0.0, 0.25)])
def test_the_share_is_the_best_one_for_groups_that_were_not_learned_from(trained: float, best: float) -> None:
    """The right threshold is 0.5, the live one 0.2: the share that comes nearest wins."""
    assert choose(some_bags(), trained)[0] == best


def test_no_group_is_judged_by_what_learned_from_it() -> None:
    bags = some_bags()
    chosen = np.arange(len(bags.sites)) % 5 != 0
    _, asked = choose(bags, 0.5, chosen)
    founding = bags.sites == FOUNDING_SITE
    assert len(asked) == 2
    for some in asked:
        assert (some[founding] == chosen[founding]).all(), "founding records are replayed in every part"
        assert not some[~chosen].any(), "what is held back stays held back"
    own = chosen & ~founding
    assert ((asked[0] ^ asked[1]) == own).all(), "each group is learned from in one part and judged in the other"
    assert asked[0][own].any()
    assert asked[1][own].any()


def test_every_verified_record_is_judged_once_by_what_did_not_learn_from_it() -> None:
    bags = some_bags()
    choice, _ = cross_validate(bags, lambda _some: 0.5)
    assert sorted(choice.at.tolist()) == np.flatnonzero(bags.sites != FOUNDING_SITE).tolist()
    assert choice.before.max() < 1.0
    assert choice.after.min() == 1.0


def test_how_a_part_is_judged_is_chosen_by_the_other_part() -> None:
    """Two parts that would choose opposite ends of the way: each is judged at the other one's."""
    bags, parts = some_bags(), list[bytes]()

    def trained(some: Bool) -> float:
        parts.append(some.tobytes())
        return 0.5 if len(parts) == 1 else 1.7  # the first part's best share is 1, the second one's 0.25

    choice, asked = cross_validate(bags, trained)
    first = np.isin(choice.at, np.flatnonzero(~asked[0]))
    best = [quality_at(0.2 + 0.25 * 0.3), quality_at(1.7)]
    assert choice.after[first].mean() == pytest.approx(best[0], abs=0.03)
    assert choice.after[~first].mean() == pytest.approx(best[1], abs=0.03)


def quality_at(threshold: float) -> float:
    """Expected Dice of what is above `threshold` with what is above 0.5, both of uniform values."""
    found = max(0.0, 1 - threshold)
    return 2 * min(found, 0.5) / (found + 0.5)


def test_without_a_verified_result_there_is_nothing_to_choose_by() -> None:
    share, asked = choose(some_bags(verified=False), 0.5)
    assert (share, asked) == (DEFAULT, [])


def test_a_single_group_is_judged_by_the_part_that_did_not_learn_from_it() -> None:
    share, asked = choose(some_bags(sites=("a",), groups=1), 0.5)
    assert share == 1.0
    assert len(asked) == 1


def test_every_site_counts_alike() -> None:
    """Ten times as many groups of a site that the training serves don't outweigh those of a site that it harms."""
    bags = some_bags(sites=("a",) * 10 + ("b",), groups=2)
    harmed = bags.sites == "b"
    symbols = np.where(harmed[:, None, None], 51 + bags.symbols // 10, bags.symbols)  # b's values are from 0.2 to 0.3
    results = np.where(harmed[:, None, None], symbols > 51, symbols > 127)
    changed = replace(bags, symbols=symbols.astype(np.uint8), results=results.astype(np.uint8))
    assert choose(changed, 0.5, ~harmed)[0] == 1.0
    assert choose(changed, 0.5)[0] == 0.25


@pytest.mark.parametrize(("groups", "chosen"), [(10, DEFAULT), (2000, 1.0)])
def test_a_share_that_only_luck_may_have_favoured_is_not_taken(groups: int, chosen: float) -> None:
    """A gain of 0.02 with a deviation of 0.2 between groups is nothing in ten groups, and clear in two thousand."""
    rng = np.random.default_rng(5)
    noise = rng.normal(0.0, 0.2, groups)
    qualities = {share: 0.5 + (noise + 0.02 - noise.mean() if share == 1.0 else np.zeros(groups)) for share in SHARES}
    names = np.array([f"{i}" for i in range(groups)])
    assert best_share(qualities, np.full(groups, "a"), names) == chosen


@pytest.mark.parametrize(
    ("fallen", "most", "share"),
    [
        ({"founding-held": 0.0, "b": 0.0}, 1.0, 1.0),
        ({"founding-held": 0.018, "b": -0.1}, 1.0, 0.25),
        ({"founding-held": -0.1, "b": 0.009}, 1.0, 0.5),
        ({"founding-held": 0.018, "b": 0.0}, 0.25, 0.25),
        ({"founding-held": 0.3, "b": 0.0}, 0.75, 0.75),
    ],
)
def test_a_candidate_goes_no_further_than_harms_nobody(fallen: dict[str, float], most: float, share: float) -> None:
    """Each site falls in proportion to the share; where a quarter of the way harms already, the gate is to say so."""
    sites = np.array(["founding-held"] * 3 + ["b"] * 2)

    def qualities(share: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([0.8 - share * fallen[site] for site in sites.tolist()])

    assert harmless_share(most, sites, qualities=qualities, margin=0.005) == share


def test_what_goes_less_far_is_judged_less_far() -> None:
    choice, _ = cross_validate(some_bags(), lambda _some: 0.5)
    less = choice.at_most(0.25)
    assert (choice.share, less.share) == (1.0, 0.25)
    assert (less.before == choice.before).all()
    assert less.after.mean() == pytest.approx(quality_at(0.275), abs=0.03)
    assert choice.at_most(1.0).after.mean() == choice.after.mean() == 1.0


def test_what_goes_as_far_as_before_is_judged_as_before() -> None:
    """One part's best share may be above what is taken: only one that is lowered lowers it."""
    at, judged = np.arange(2), np.array([1.0, 0.25])
    choice = Choice(0.5, at, {s: np.array([s, 10 + s]) for s in (0.0, *SHARES)}, judged)
    assert choice.at_most(0.5).after.tolist() == choice.after.tolist() == [1.0, 10.25]
    assert choice.at_most(0.25).after.tolist() == [0.25, 10.25]
