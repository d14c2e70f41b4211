"""Recognition tasks, one file each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Task, UInt8
from featureloop.model.manifest import Manifest
from featureloop.model.tasks.base import TaskRules
from featureloop.model.tasks.classification import Classification
from featureloop.model.tasks.detection import Detection
from featureloop.model.tasks.multilabel import Multilabel
from featureloop.model.tasks.segmentation import Segmentation

RULES: Mapping[Task, TaskRules] = {
    Task.CLASSIFICATION: Classification(),
    Task.DETECTION: Detection(),
    Task.MULTILABEL: Multilabel(),
    Task.SEGMENTATION: Segmentation(),
}


def rules_of(manifest: Manifest) -> TaskRules:
    """The rules of a package's task."""
    return RULES[Task(manifest.task)]


def true_rows(frame: Frame, *, task: Task, labels: int, grid: int) -> UInt8:
    """The truth of a frame as rows of targets, uint8 (N, T).

    Raises
    ------
    InputError
        The frame lacks the truth that the task needs.
    """
    rules = RULES[task]
    rows = None if frame.truth is None else rules.truth_rows(frame.truth, labels=labels, grid=grid)
    if rows is None:
        raise InputError(rules.missing(frame))
    return rows


def check_distinct(tasks: Sequence[Task]) -> None:
    """Refuse a task that is named twice.

    Raises
    ------
    InputError
        Which one.
    """
    for i, task in enumerate(tasks):
        if task in tasks[:i]:
            raise InputError(f"the task {task} is named twice: name each task once")
