"""A labelled folder that serves several tasks: which ones, its frames with the truth of all, and one split for all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from featureloop.core.types import Task
from featureloop.images.box_tables import has_boxes
from featureloop.images.labelled import LabelledFolder, class_folders, natural_task, open_labelled, split
from featureloop.images.sidecar import LABELS, is_segmentation
from featureloop.images.truths import LabelledItem


def folders_for(path: Path, labels: Mapping[Task, Sequence[str]]) -> tuple[LabelledFolder, ...]:
    """A labelled folder, opened for each of several tasks that it is labelled for.

    Parameters
    ----------
    labels
        The class names of each task, in whose order labels are to count.

    Raises
    ------
    InputError
        It is labelled for none of them, has a class that is not among a task's, or a table is malformed.
    """
    suited = [task for task in labels if path.is_dir() and _is_labelled_for(path, task, labels[task])]
    tasks = suited or list(labels)[:1]
    return tuple(open_labelled(path, task=task, known=labels[task]).with_classes(labels[task]) for task in tasks)


def together(folders: Sequence[LabelledFolder]) -> LabelledFolder:
    """One folder, opened for several tasks, whose frames have the truth of them all.

    Returns
    -------
    LabelledFolder
        Of the first of the tasks, the others in `also`; with every image that is labelled for one of them.
    """
    items: dict[str, LabelledItem] = {}
    for folder in folders:
        for item in folder.items:
            items[item.name] = items[item.name].with_truth_of(item) if item.name in items else item
    return replace(folders[0], items=tuple(items.values()), also=tuple(folder.task for folder in folders[1:]))


def held_groups(parts: Iterable[Sequence[LabelledItem]], *, hold_out: float, seed: int) -> frozenset[str]:
    """The groups that `split` holds out of any of several tasks' items.

    Tasks whose labels name different images are split differently: what one of
    them holds out, the extractor must not learn from by another.
    """
    return frozenset(item.group for items in parts for item in split(items, hold_out=hold_out, seed=seed)[1])


def _is_labelled_for(path: Path, task: Task, labels: Sequence[str]) -> bool:
    """Whether a folder's layout has labels for a task.

    Beside labels of another kind, its folders count as classes only where all have names of classes.
    """
    if task is Task.SEGMENTATION:
        return is_segmentation(path)
    if task is Task.DETECTION:
        return has_boxes(path) or is_segmentation(path)
    if task is Task.MULTILABEL:
        return (path / LABELS).is_file()
    names = {folder.name for folder in class_folders(path)}
    return natural_task(path) is task or (len(names) > 1 and names <= set(labels))
