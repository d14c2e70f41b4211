"""Between a page and rows of targets: what was recognized comes back the same, and nothing else gets in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from featureloop.core.errors import InputError
from featureloop.core.types import Asked, Frame
from featureloop.device.review.answers import answer_of, mask_of, recognized_json, result_json, runs_of
from featureloop.device.review.cases import Case, CaseState
from featureloop.model.manifest import Manifest
from featureloop.model.runtime import Runtime
from featureloop.sharing.anonymize import release_vectors
from featureloop.testing import tiny_package

SIZE = (96, 128)
SIDELESS = {"label": 0, "x": 0, "y": float("nan"), "width": 1, "height": 1}


def case(tmp: Path, task: str, *, seed: int = 3) -> tuple[Case, Manifest]:
    package = tiny_package(tmp / task, task=task)
    runtime = Runtime(package, threads=1)
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    vectors = release_vectors(runtime.extract(pixels), package.manifest.released)
    asked = Asked(bytes(32), Frame(pixels, "a.png"), vectors, runtime.recognize(vectors), 0.3)
    return Case(1, CaseState.WAITING, asked), package.manifest


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_a_mask_comes_back_from_its_runs(mask: Any) -> None:
    height, width = mask.shape
    np.testing.assert_array_equal(mask_of(runs_of(mask), height=height, width=width), mask)


def test_runs_begin_outside() -> None:
    assert runs_of(np.array([[True, False, False]])) == [0, 1, 2]
    assert runs_of(np.array([[False, True, False]])) == [1, 1, 1]


@pytest.mark.parametrize("task", ["segmentation", "detection", "classification", "multilabel"])
def test_confirming_keeps_the_recognized_rows_exactly(tmp_path: Path, task: str) -> None:
    shown, manifest = case(tmp_path, task)
    answer = answer_of(b'{"kind": "confirmed"}', shown, manifest=manifest)
    np.testing.assert_array_equal(answer.rows, shown.asked.recognition.targets())


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_the_same_classes_are_a_confirmation(tmp_path: Path, task: str) -> None:
    shown, manifest = case(tmp_path, task)
    found = recognized_json(shown.asked.recognition, manifest=manifest, height=SIZE[0], width=SIZE[1])
    body = json.dumps({"kind": "changed", "classes": found["classes"]}).encode()
    assert answer_of(body, shown, manifest=manifest).kind == "confirmed"


def test_another_class_is_a_change(tmp_path: Path) -> None:
    shown, manifest = case(tmp_path, "classification")
    best = int(shown.asked.recognition.probabilities.argmax())
    other = (best + 1) % len(manifest.labels)
    answer = answer_of(json.dumps({"kind": "changed", "classes": [other]}).encode(), shown, manifest=manifest)
    assert answer.kind == "changed"
    assert answer.rows is not None
    assert answer.rows[0].argmax() == other


def test_a_drawn_mask_becomes_rows_and_is_shown_again_where_it_was(tmp_path: Path) -> None:
    shown, manifest = case(tmp_path, "segmentation")
    mask = np.zeros(SIZE, np.bool_)
    mask[24:72, 32:96] = True
    body = json.dumps({"kind": "changed", "runs": runs_of(mask)}).encode()
    answer = answer_of(body, shown, manifest=manifest)
    assert answer.rows is not None
    task = shown.asked.recognition.task
    again = result_json(answer.rows, task, manifest=manifest, height=SIZE[0], width=SIZE[1])
    back = mask_of(again["runs"], height=SIZE[0], width=SIZE[1])
    assert (back & mask).sum() / (back | mask).sum() > 0.9


def test_a_drawn_box_becomes_rows_and_is_shown_again_where_it_was(tmp_path: Path) -> None:
    shown, manifest = case(tmp_path, "detection")
    box = {"label": 0, "x": 0.25, "y": 0.25, "width": 0.5, "height": 0.5}
    answer = answer_of(json.dumps({"kind": "changed", "boxes": [box]}).encode(), shown, manifest=manifest)
    assert answer.rows is not None
    (again,) = result_json(answer.rows, shown.asked.recognition.task, manifest=manifest, height=96, width=128)["boxes"]
    assert {k: pytest.approx(v, abs=0.03) for k, v in box.items()} == again


def test_no_box_and_no_mask_are_answers(tmp_path: Path) -> None:
    for task, body in (
        ("detection", b'{"kind": "changed", "boxes": []}'),
        ("segmentation", b'{"kind": "changed", "runs": [12288]}'),
    ):
        shown, manifest = case(tmp_path, task)
        rows = answer_of(body, shown, manifest=manifest).rows
        assert rows is not None
        assert not rows.any()


@pytest.mark.parametrize(
    ("task", "said", "what"),
    [
        ("segmentation", [], "kind"),
        ("segmentation", {"kind": "approved"}, "approved"),
        ("segmentation", {"kind": "changed"}, "runs"),
        ("segmentation", {"kind": "changed", "runs": [1, 2]}, "12288"),
        ("segmentation", {"kind": "changed", "runs": [12289, -1]}, "12288"),
        ("segmentation", {"kind": "changed", "runs": [True, 12287]}, "12288"),
        ("classification", {"kind": "changed", "classes": [0, 1]}, "one class"),
        ("classification", {"kind": "changed", "classes": [7]}, "from 0 to"),
        ("multilabel", {"kind": "changed", "classes": [1, 1]}, "different"),
        ("detection", {"kind": "changed", "boxes": [{}]}, "label"),
        ("detection", {"kind": "changed", "boxes": [{"label": 5, "x": 0, "y": 0, "width": 1, "height": 1}]}, "5"),
        ("detection", {"kind": "changed", "boxes": [{"label": 0, "x": 2, "y": 2, "width": 1, "height": 1}]}, "inside"),
        ("detection", {"kind": "changed", "boxes": [SIDELESS]}, "finite"),
        ("detection", {"kind": "changed", "boxes": 300 * [{}]}, "at most"),
    ],
)  # fmt: skip
def test_what_is_no_answer_says_what_is_wrong(tmp_path: Path, task: str, said: Any, what: str) -> None:
    shown, manifest = case(tmp_path, task)
    with pytest.raises(InputError, match=what):
        answer_of(json.dumps(said).encode(), shown, manifest=manifest)


def test_what_is_no_json_says_so(tmp_path: Path) -> None:
    shown, manifest = case(tmp_path, "segmentation")
    for body in (b"", b"\xff", b"[" * 100_000):
        with pytest.raises(InputError, match="JSON"):
            answer_of(body, shown, manifest=manifest)
