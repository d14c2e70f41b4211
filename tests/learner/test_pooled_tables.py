"""How finely a pooled vector's values are told: by what recognition feels of them, within a budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from featureloop.core.types import Float32, Task
from featureloop.learner.assembly import plain_form
from featureloop.learner.pooled_tables import centroids, pooled_tables, sensitive_levels, stepped
from featureloop.model.forms import parse_form
from featureloop.model.manifest import ReleasedForm
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


def test_what_recognition_feels_is_told_more_finely() -> None:
    made = sensitive_levels(form(), FirstTwo(), vectors(), task=Task.CLASSIFICATION, bits=16, seed=1)
    assert 2 * max(steps(made)[:2]) < min(steps(made)[2:])


def test_where_nothing_is_felt_all_values_of_one_spread_are_told_alike() -> None:
    made = sensitive_levels(form(), Nothing(), vectors(), task=Task.CLASSIFICATION, bits=24, seed=1)
    assert max(steps(made)) < 1.2 * min(steps(made))


def test_a_value_that_needs_no_bits_takes_none_wherever_its_mean_is() -> None:
    x = vectors()
    made = sensitive_levels(form(), FirstTwo(), x, task=Task.CLASSIFICATION, bits=2, seed=1)
    told = [len(np.unique(column)) for column in codec.quantize(x, made).T]
    assert told[2:] == [1] * (CHANNELS - 2)


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
