"""Between a page and rows of targets: results as JSON for the editors, and what a reader drew as an answer.

A mask travels as runs: how many pixels are outside, then inside, then outside, row by row. Boxes are shares of the
image, classes are numbers in the order of the package's labels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from featureloop.core.boxes import Box, box_between
from featureloop.core.errors import InputError
from featureloop.core.types import Bool, Recognition, Task, Truth, UInt8
from featureloop.device.review.cases import Answer, Case
from featureloop.model.manifest import Manifest
from featureloop.model.preprocess import probability_map
from featureloop.model.tasks import rules_of

MOST_BYTES = 4 << 20
"""Of an answer: runs of the most ragged mask that anybody draws take far less."""
MOST_BOXES = 256
SMALLEST = 1e-3
"""Side of a box as a share of the image."""


def result_json(rows: UInt8, task: Task, *, manifest: Manifest, height: int, width: int) -> dict[str, Any]:
    """Rows of targets as the editors have them."""
    grid, labels = manifest.features.grid, len(manifest.labels)
    if task is Task.SEGMENTATION:
        return {"runs": runs_of(probability_map(rows.astype(np.float32), grid, height=height, width=width) >= 0.5)}
    if task is Task.DETECTION:
        return {"boxes": boxes_json(_boxes_of_rows(rows, labels))}
    return {"classes": [int(i) for i in np.flatnonzero(rows[0])]}


def recognized_json(recognition: Recognition, *, manifest: Manifest, height: int, width: int) -> dict[str, Any]:
    """A recognition as the editors have it, with its probabilities where there are few of them."""
    task, p = recognition.task, recognition.probabilities
    if task is Task.SEGMENTATION:
        return {"runs": runs_of(probability_map(p, manifest.features.grid, height=height, width=width) >= 0.5)}
    if task is Task.DETECTION:
        return {"boxes": boxes_json([b for b in recognition.boxes() if b.score >= 0.5])}
    return {
        "classes": [int(i) for i in np.flatnonzero(recognition.targets()[0])],
        "probabilities": [round(float(v), 4) for v in p[0]],
    }


def boxes_json(boxes: Sequence[Box]) -> list[dict[str, Any]]:
    """Boxes as shares of the image."""
    return [
        {
            "label": b.label,
            "x": round(b.x_center - b.width / 2, 5),
            "y": round(b.y_center - b.height / 2, 5),
            "width": round(b.width, 5),
            "height": round(b.height, 5),
        }
        for b in boxes
    ]


def _boxes_of_rows(rows: UInt8, labels: int) -> tuple[Box, ...]:
    return Recognition(
        Task.DETECTION, rows[:, :labels].astype(np.float32), (rows[:, labels:] / np.float32(255)).astype(np.float32)
    ).boxes()


def runs_of(mask: Bool) -> list[int]:
    """A mask bool (H, W) as runs: pixels outside, inside, outside, ..., row by row."""
    flat = mask.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs: list[int] = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat.size and flat[0] else runs


def mask_of(runs: Any, *, height: int, width: int) -> Bool:
    """A mask bool (H, W) of its runs.

    Raises
    ------
    InputError
        They are none of such an image.
    """
    whole = isinstance(runs, list) and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in runs)
    if not whole or sum(runs) != height * width:
        raise InputError(f"a mask of {width} x {height} pixels is a list of runs that sum to {height * width}")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, np.array(runs, np.int64)).reshape(height, width)


def answer_of(body: bytes, case: Case, *, manifest: Manifest) -> Answer:
    """What a reader said, from a page's JSON.

    `{"kind": "confirmed"}`, `{"kind": "rejected"}`, or `{"kind": "changed", ...}` with `runs`, `boxes` or `classes`.

    Raises
    ------
    InputError
        It says something else, or something that the case can't be.
    """
    try:
        said = json.loads(body)
        kind = said["kind"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError('an answer is JSON with a "kind": confirmed, changed or rejected') from error
    recognized = case.asked.recognition.targets()
    if kind == "confirmed":
        return Answer("confirmed", recognized)
    if kind == "rejected":
        return Answer("rejected", None)
    if kind != "changed":
        raise InputError(f"an answer can't be {kind!r:.40}: confirmed, changed or rejected")
    truth = _truth(said, case, labels=len(manifest.labels))
    rows = rules_of(manifest).truth_rows(truth, labels=len(manifest.labels), grid=manifest.features.grid)
    if rows is None:
        raise InputError(f"the answer lacks what {case.asked.recognition.task} needs: runs, boxes or classes")
    return Answer("confirmed" if np.array_equal(rows, recognized) else "changed", rows)


def _truth(said: dict[str, Any], case: Case, *, labels: int) -> Truth:
    task, (height, width) = case.asked.recognition.task, case.asked.frame.pixels.shape[:2]
    if task is Task.SEGMENTATION:
        return Truth(mask=mask_of(said.get("runs"), height=height, width=width))
    if task is Task.DETECTION:
        return Truth(boxes=_boxes(said.get("boxes"), labels))
    chosen: Any = said.get("classes")
    whole = isinstance(chosen, list) and all(isinstance(c, int) and not isinstance(c, bool) for c in chosen)
    if not whole or not all(0 <= c < labels for c in chosen) or len(set(chosen)) != len(chosen):
        raise InputError(f"classes are different numbers from 0 to {labels - 1}, not {chosen!r:.60}")
    if task is Task.MULTILABEL:
        return Truth(labels=tuple(i in chosen for i in range(labels)))
    if len(chosen) != 1:
        raise InputError(f"one class is right, not {len(chosen)}")
    return Truth(label=chosen[0])


def _boxes(said: Any, labels: int) -> tuple[Box, ...]:
    if not isinstance(said, list) or len(said) > MOST_BOXES:
        raise InputError(f"boxes are a list of at most {MOST_BOXES}")
    return tuple(_box(box, labels) for box in said)


def _box(said: Any, labels: int) -> Box:
    try:
        label, sides = said["label"], [float(said[k]) for k in ("x", "y", "width", "height")]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("a box has label, x, y, width and height") from error
    if not (isinstance(label, int) and not isinstance(label, bool) and 0 <= label < labels):
        raise InputError(f"a box's label is a number from 0 to {labels - 1}, not {label!r:.40}")
    if not np.isfinite(sides).all():
        raise InputError("a box's sides are finite numbers")
    x, y, width, height = sides
    box = box_between(min(x, x + width), min(y, y + height), max(x, x + width), max(y, y + height), label=label)
    if box.width < SMALLEST or box.height < SMALLEST:
        raise InputError("a box lies inside the image and is wider and higher than a thousandth of it")
    return box
