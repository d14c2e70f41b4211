"""The words for how a reliability's score is calculated, by task; each task's own score comes first."""

from __future__ import annotations

from collections.abc import Mapping

from featureloop.core.errors import InputError
from featureloop.core.types import Task

AUTO = "auto"
"""No score of its own: what is best on held-out frames."""
COMBINED = "combined"
"""Several of a task's scores, weighed on held-out frames."""
AGREEMENT = "agreement"
"""The one score for which a frame is looked at more than once: turned and mirrored, as `sharing.views` has it."""
SCORES: Mapping[Task, tuple[str, ...]] = {
    Task.CLASSIFICATION: ("max-probability", "margin", "entropy", "energy", "distance", AGREEMENT),
    Task.DETECTION: ("expected-f1", "box-score", "box-stability", "max-probability", "distance", AGREEMENT),
    Task.MULTILABEL: ("mean-probability", "margin", "entropy", "energy", "distance", AGREEMENT),
    Task.SEGMENTATION: ("expected-dice", "lesion-score", "max-probability", "distance", AGREEMENT),
}
METHODS = tuple(sorted({COMBINED, *(word for words in SCORES.values() for word in words)}))


def check_score(task: Task, word: str) -> None:
    """Refuse a score that a task doesn't have.

    Raises
    ------
    InputError
        Which ones it has.
    """
    known = (AUTO, COMBINED, *SCORES[task])
    if word not in known:
        raise InputError(f"{task} has no score '{word}'; choose among {', '.join(known)}")
