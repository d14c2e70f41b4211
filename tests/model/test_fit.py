"""How a recognizer is fitted: batches and weights."""

import pytest
import torch

from featureloop.model.fit import FitSettings, interpolate


def test_interpolation_goes_from_the_weights_before_to_those_after() -> None:
    before, after = {"threshold": torch.tensor(0.2)}, {"threshold": torch.tensor(1.0)}
    found = [float(interpolate(before, after, share)["threshold"]) for share in (0.0, 0.25, 1.0)]
    assert found == pytest.approx([0.2, 0.4, 1.0])


def test_passes_are_so_many_batches_and_at_least_one() -> None:
    assert FitSettings(epochs=2.0, batch=16).steps(80) == 10
    assert FitSettings(epochs=0.01, batch=16).steps(80) == 1
