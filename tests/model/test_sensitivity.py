"""Fisher information of a recognizer's results, against its closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from featureloop.core.types import Float32, Task
from featureloop.model.sensitivity import fisher_information

D, K = 5, 3
WEIGHT = torch.from_numpy(np.random.default_rng(3).normal(size=(K, D)).astype(np.float32))


def rows(joined: Tensor) -> Tensor:
    return joined.flatten(2).transpose(1, 2)


def batches(n: int, *, grid: int, each: int = 100) -> list[Float32]:
    rng = np.random.default_rng(1)
    return [rng.normal(size=(each, D, grid, grid)).astype(np.float32) for _ in range(n)]


def test_of_bernoulli_cells_it_is_the_weighted_outer_product() -> None:
    """For logits W x: F = mean over positions of W' diag(p (1 - p)) W."""
    data = batches(20, grid=4)
    found = fisher_information(lambda x: rows(x) @ WEIGHT.T, data, task=Task.SEGMENTATION, seed=1)
    x = torch.from_numpy(np.concatenate(data))
    p = torch.sigmoid(rows(x) @ WEIGHT.T).reshape(-1, K).double()
    expected = torch.einsum("kd,nk,ke->de", WEIGHT.double(), p * (1 - p), WEIGHT.double()) / len(p)
    np.testing.assert_allclose(found, expected.numpy(), atol=0.03 * float(expected.trace()))
    np.testing.assert_array_equal(found, found.T)


def test_of_classes_it_is_the_softmax_s_own() -> None:
    """For one pooled vector of a 1 x 1 map: F = mean of W' (diag(p) - p p') W."""
    data = batches(60, grid=1)
    found = fisher_information(lambda x: rows(x) @ WEIGHT.T, data, task=Task.CLASSIFICATION, seed=1)
    p = torch.softmax(rows(torch.from_numpy(np.concatenate(data)))[:, 0] @ WEIGHT.T, dim=-1).double()
    w = WEIGHT.double()
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    expected = (w.T @ middle.mean(0) @ w).numpy()
    np.testing.assert_allclose(found, expected, atol=0.05 * float(np.trace(expected)))


@pytest.mark.parametrize("task", [Task.SEGMENTATION, Task.CLASSIFICATION])
def test_directions_that_are_not_used_count_nothing(task: Task) -> None:
    weight = WEIGHT.clone()
    weight[:, 2] = 0
    grid = 3 if task is Task.SEGMENTATION else 1
    found = fisher_information(lambda x: rows(x) @ weight.T, batches(1, grid=grid), task=task, seed=2)
    assert np.abs(found[2]).max() == 0
    assert found[0, 0] > 0
