"""How finely a pooled vector's values are told: by what recognition feels of them, within a budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from featureloop.core.errors import RecordError
from featureloop.core.types import Float32, Task
from featureloop.learner.assembly import plain_form
from featureloop.learner.pooled_tables import centroids, pooled_tables, sensitive_levels, stepped
from featureloop.model.forms import parse_form
from featureloop.model.manifest import ReleasedForm
from featureloop.model.pooling import pooled_bits, turned, turned_back
from featureloop.sharing import codec

CHANNELS = 12


class FirstTwo(nn.Module):
    """Two classes by the first two values alone."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1, 2)."""
        score = 20 * (vectors[..., :1] + vectors[..., 1:2])
        return torch.cat([score, -score], dim=-1)


class Nothing(nn.Module):
    """Says the same of every vector."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1, 2)."""
        return 0 * vectors[..., :2]


def form(text: str = "pool") -> ReleasedForm:
    return plain_form(parse_form(text), (2,) * CHANNELS, ("mean",), flags=2)


def vectors(seed: int = 0, count: int = 400) -> Float32:
    """Values of one spread about means that are no level's middle."""
    rng = np.random.default_rng(seed)
    middle = rng.uniform(-0.5, 0.5, CHANNELS)
    return np.clip(middle + 0.05 * rng.normal(size=(count, CHANNELS)), -1, 1).astype(np.float32)


def entropy(made: ReleasedForm, x: Float32) -> float:
    symbols = codec.quantize(x, made)
    return float(
        sum(
            -(p[p > 0] * np.log2(p[p > 0])).sum()
            for p in (np.bincount(symbols[:, c], minlength=n) / len(x) for c, n in enumerate(made.levels))
        )
    )


@pytest.mark.parametrize("bits", [4.0, 12.0, 40.0])
def test_the_values_bits_are_within_the_budget_and_use_most_of_it(bits: float) -> None:
    x = vectors()
    made = sensitive_levels(form(), FirstTwo(), x, task=Task.CLASSIFICATION, bits=bits, seed=1)
    assert bits - 6 < entropy(made, x) <= bits


def steps(made: ReleasedForm) -> list[float]:
    return [(b - a) / (n - 1) for a, b, n in zip(made.low, made.high, made.levels, strict=True)]


def untold(made: ReleasedForm, x: Float32, of: Float32) -> float:
    """The share of the variance along a direction, float32 (C,), that what is decoded doesn't have."""
    counted = replace(made, pooled=pooled_tables(made, x))
    error = (codec.dequantize(codec.quantize(x, counted), counted) - x) @ of
    return float(error.var() / (x @ of).var())


FELT = np.eye(CHANNELS, dtype=np.float32)[:2].sum(axis=0)


def test_what_recognition_feels_is_told_and_what_it_does_not_is_hardly() -> None:
    x = vectors()
    made = sensitive_levels(form(), FirstTwo(), x, task=Task.CLASSIFICATION, bits=4, seed=1)
    assert untold(made, x, FELT) < 0.05
    assert all(untold(made, x, other) > 0.5 for other in np.eye(CHANNELS, dtype=np.float32)[2:])


def test_what_goes_together_is_told_once() -> None:
    """All values follow one: in as few bits directions tell it, where each value by itself says little."""
    x = vectors()
    x = (0.2 * x + 0.8 * x[:, :1]).astype(np.float32)
    arms = [
        sensitive_levels(form(), FirstTwo(), x, task=Task.CLASSIFICATION, bits=6, seed=1, by_value=v)
        for v in (False, True)
    ]
    everything = np.ones(CHANNELS, np.float32)
    assert untold(arms[0], x, everything) < untold(arms[1], x, everything) / 4
    assert untold(arms[0], x, FELT) < untold(arms[1], x, FELT) / 2


@pytest.mark.parametrize("by_value", [False, True])
def test_where_nothing_is_felt_all_values_of_one_spread_are_told_alike(by_value: bool) -> None:
    x = vectors()
    made = sensitive_levels(form(), Nothing(), x, task=Task.CLASSIFICATION, bits=24, seed=1, by_value=by_value)
    left = [untold(made, x, one) for one in np.eye(CHANNELS, dtype=np.float32)]
    assert max(left) < 2 * min(left)


@pytest.mark.parametrize(("by_value", "felt"), [(False, 1), (True, 2)])
def test_what_needs_no_bits_takes_none_wherever_its_mean_is(by_value: bool, felt: int) -> None:
    x = vectors()
    made = sensitive_levels(form(), FirstTwo(), x, task=Task.CLASSIFICATION, bits=2, seed=1, by_value=by_value)
    told = [len(np.unique(column)) for column in codec.quantize(x, made).T]
    assert told[felt:] == [1] * (CHANNELS - felt)
    assert told[0] > 1


@pytest.mark.parametrize("count", [2, 5, 400])
def test_directions_can_be_undone_however_few_frames_there_are(count: int) -> None:
    x = vectors(count=count)
    made = sensitive_levels(form(), FirstTwo(), x, task=Task.CLASSIFICATION, bits=8, seed=1)
    turned_there = turned(x, made.directions)
    np.testing.assert_allclose(turned_back(turned_there, made.directions), x, atol=1e-5)
    symbols = codec.quantize(x, made)
    counted = replace(made, pooled=pooled_tables(made, x))
    np.testing.assert_array_equal(codec.quantize(codec.dequantize(symbols, counted), counted), symbols)


def test_what_is_beyond_a_directions_bounds_is_put_on_them_and_what_is_no_number_refused() -> None:
    x = vectors()
    made = sensitive_levels(form(), FirstTwo(), x, task=Task.CLASSIFICATION, bits=20, seed=1)
    first = codec.quantize(np.stack([20 * FELT, -20 * FELT]).astype(np.float32), made)[:, 0]
    assert set(first.tolist()) == {0, made.levels[0] - 1}
    with pytest.raises(RecordError, match="NaN"):
        codec.quantize(np.full((1, CHANNELS), np.nan, np.float32), made)


@pytest.mark.parametrize(("classes", "bits"), [(1, 4), (2, 4), (5, 10), (14, 28)])
def test_more_classes_have_more_bits(classes: int, bits: float) -> None:
    assert pooled_bits(classes) == bits


@pytest.mark.parametrize("text", ["pool", "pool quantize=2", "pool quantize=3", "pool quantize=9"])
def test_the_bounds_hold_all_that_pooling_can_give(text: str) -> None:
    edges = np.array([[-1.0] * CHANNELS, [1.0] * CHANNELS], np.float32)
    made = stepped(form(text), np.linspace(0.01, 3, CHANNELS), vectors())
    error = np.abs(codec.dequantize(codec.quantize(edges, made), made) - edges).max(axis=0)
    assert (error <= np.array(steps(made)) / 2 + 1e-6).all()
    assert max(made.levels) <= (made.form.quantize or 255)


def test_a_form_that_quantizes_to_few_levels_keeps_them() -> None:
    made = sensitive_levels(form("pool quantize=9"), FirstTwo(), vectors(), task=Task.CLASSIFICATION, bits=90, seed=1)
    assert max(made.levels) <= 9


def test_levels_are_the_same_on_repeat() -> None:
    made = [
        sensitive_levels(form(), FirstTwo(), vectors(), task=Task.CLASSIFICATION, bits=20, seed=1) for _ in range(2)
    ]
    assert made[0] == made[1]


def test_centroids_halve_the_error_of_few_levels_on_other_frames() -> None:
    few = replace(form(), levels=(3,) * CHANNELS, frequencies=codec.flat_tables((3,) * CHANNELS))
    known = replace(few, pooled=pooled_tables(few, vectors()))
    other = vectors(0, 800)[400:]
    errors = [float(np.square(codec.dequantize(codec.quantize(other, f), f) - other).mean()) for f in (few, known)]
    assert errors[1] < errors[0] / 2


def test_levels_without_frames_stand_for_their_middle() -> None:
    few = replace(form(), levels=(5,) * CHANNELS, frequencies=codec.flat_tables((5,) * CHANNELS))
    for table in centroids(few, np.zeros((0, CHANNELS), np.float32)):
        np.testing.assert_allclose(table, [-1, -0.5, 0, 0.5, 1])
