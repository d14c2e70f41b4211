"""Figures of classes: scikit-learn's, with torchmetrics as the second opinion, and classes that no frame shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional import classification as oracle

from featureloop.core.intervals import Figure, MakeFigure, Statistic
from featureloop.learner.class_figures import (
    confusion_matrix,
    label_confusions,
    one_label_figures,
    several_label_figures,
)

LABELS = ("a", "b", "c")


def value_alone(frames: int) -> MakeFigure:
    """Figures without their intervals: these are looked at elsewhere, and take time."""

    def figure(name: str, statistic: Statistic, *, needs: object = (), most: float = 1.0) -> Figure:
        return Figure(name, statistic(np.arange(frames)), float("nan"), float("nan"), frames)

    return figure


def classes(rng: np.random.Generator, n: int, known: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of three classes, with plateaus, and labels of the first `known` of them, each at least once."""
    true = np.r_[np.arange(known), rng.integers(0, known, n - known)]
    p = np.round(rng.dirichlet(np.ones(3), n) + 0.3 * np.eye(3)[true], 1) + np.array([0, 1e-3, 2e-3])
    return (p / p.sum(axis=1, keepdims=True)).astype(np.float32), true


@settings(max_examples=25)
@given(st.integers(0, 2**31))
def test_figures_of_classes_are_those_of_torchmetrics(seed: int) -> None:
    p, true = classes(np.random.default_rng(seed), 40, 3)
    found = {f.name: f.value for f in one_label_figures(p, true, LABELS, value_alone(40))}
    x, y = torch.from_numpy(p), torch.from_numpy(true)
    assert found["accuracy"] == pytest.approx(oracle.multiclass_accuracy(x, y, 3, average="micro").item())
    assert found["balanced accuracy"] == pytest.approx(oracle.multiclass_accuracy(x, y, 3, average="macro").item())
    assert found["auc"] == pytest.approx(oracle.multiclass_auroc(x, y, 3).item(), abs=1e-6)
    each = oracle.multiclass_auroc(x, y, 3, average="none")
    sensitivity = oracle.multiclass_recall(x, y, 3, average="none")
    for k, name in enumerate(LABELS):
        assert found[f"auc of {name}"] == pytest.approx(each[k].item(), abs=1e-6)
        assert found[f"sensitivity of {name}"] == pytest.approx(sensitivity[k].item())
    np.testing.assert_array_equal(confusion_matrix(p, true), oracle.multiclass_confusion_matrix(x, y, 3).numpy())


def test_an_absent_class_is_not_determined_and_the_means_are_of_the_others() -> None:
    p, true = classes(np.random.default_rng(5), 40, 2)
    found = {f.name: f.value for f in one_label_figures(p, true, LABELS, value_alone(40))}
    x, y = torch.from_numpy(p), torch.from_numpy(true)
    assert np.isnan([found["auc of c"], found["sensitivity of c"]]).all()
    each = [oracle.binary_auroc(x[:, k], (y == k).int()).item() for k in range(2)]
    assert found["auc"] == pytest.approx(np.mean(each), abs=1e-6)
    # torchmetrics gives an absent class an area of 0, which would pull the mean down.
    with pytest.warns(UserWarning, match="No positive samples"):
        assert oracle.multiclass_auroc(x, y, 3, average="none").tolist() == pytest.approx([*each, 0.0], abs=1e-6)
    recalls = [(p[true == k].argmax(1) == k).mean() for k in range(2)]
    assert found["balanced accuracy"] == pytest.approx(np.mean(recalls))
    alone = {f.name: f.value for f in one_label_figures(p, np.zeros(40, np.intp), LABELS, value_alone(40))}
    assert np.isnan([alone["auc"], alone["auc of a"]]).all()
    assert alone["balanced accuracy"] == alone["accuracy"] == alone["sensitivity of a"]


@settings(max_examples=25)
@given(st.integers(0, 2**31))
def test_figures_of_several_labels_are_those_of_torchmetrics(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = np.concatenate([np.eye(3, dtype=np.bool_), rng.random((40, 3)) < 0.4])
    p = np.round(0.6 * rng.random((43, 3)) + 0.3 * true, 2).astype(np.float32)
    found = {f.name: f.value for f in several_label_figures(p, true, LABELS, value_alone(43))}
    # At one half itself, the label is told here and isn't in torchmetrics.
    x, y = torch.from_numpy(np.nextafter(p, np.float32(1))), torch.from_numpy(true).int()
    assert found["accuracy of labels"] == pytest.approx(oracle.multilabel_accuracy(x, y, 3, average="micro").item())
    assert found["f1"] == pytest.approx(oracle.multilabel_f1_score(x, y, 3, average="micro").item())
    assert found["auc"] == pytest.approx(oracle.multilabel_auroc(x, y, 3).item(), abs=1e-6)
    assert found["average precision"] == pytest.approx(oracle.multilabel_average_precision(x, y, 3).item(), abs=1e-6)
    np.testing.assert_array_equal(label_confusions(p, true), oracle.multilabel_confusion_matrix(x, y, 3).numpy())


def test_a_label_that_no_frame_shows_has_a_confusion_and_no_area() -> None:
    true = np.array([[True, False], [False, False], [True, False]])
    p = np.array([[0.9, 0.1], [0.6, 0.7], [0.2, 0.3]], np.float32)
    assert label_confusions(p, true).tolist() == [[[0, 1], [1, 1]], [[2, 1], [0, 0]]]
    assert label_confusions(p[:, :1], true[:, :1]).tolist() == [[[0, 1], [1, 1]]]
    found = {f.name: f.value for f in several_label_figures(p, true, ("a", "b"), value_alone(3))}
    assert np.isnan([found["auc of b"], found["sensitivity of b"]]).all()
    assert found["auc"] == found["auc of a"] == 0.5
    assert found["average precision"] == pytest.approx((1 + 2 / 3) / 2)
