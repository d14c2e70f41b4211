"""Folders of labelled images, recognized by their layout, and split by group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Skipped, Task
from featureloop.images.box_tables import ANNOTATIONS, BOXES, has_boxes, read_boxes
from featureloop.images.dicom import patient_of
from featureloop.images.sidecar import (
    IMAGES,
    LABELS,
    MASKS,
    Found,
    Groups,
    is_segmentation,
    look_up,
    read_groups,
    read_labels,
    walk,
)
from featureloop.images.source import Kind, recognize
from featureloop.images.truths import LabelledItem, true_frames

LESION: Final = ("lesion",)

_LAYOUTS: Final = (
    "DIR/images and DIR/masks (same stem; segmentation), DIR/annotations.json in COCO form or DIR/boxes.csv "
    "(detection), DIR/labels.csv (several labels), or at least two folders DIR/<class> of images (classification)"
)


@dataclass(frozen=True, slots=True)
class LabelledFolder:
    """What a labelled folder holds.

    Attributes
    ----------
    task
        What its labels are good for.
    classes
        Class names, by label; `('lesion',)` where masks say it.
    items
        The images, in natural order.
    also
        Further tasks that the frames' truth is to serve.
    """

    task: Task
    classes: tuple[str, ...]
    items: tuple[LabelledItem, ...]
    also: tuple[Task, ...] = ()

    def frames(self, items: Sequence[LabelledItem] | None = None) -> Iterator[Frame | Skipped]:
        """Decode items (all of them where None), one frame at a time, with their truth.

        Yields
        ------
        Frame
            With `truth`: a mask bool (H, W) of the frame's size, a label, or boxes.
        Skipped
            An image or mask that can't be read, a missing mask, two sizes that differ, or a box that is wrong.
        """
        for item in self.items if items is None else items:
            yield from true_frames(item, tasks=(self.task, *self.also))

    def with_classes(self, classes: Sequence[str]) -> LabelledFolder:
        """The same images with labels that count in the order of other class names, such as a package's.

        Where both sides know one class only, it is the same one, whatever it is called.

        Raises
        ------
        InputError
            The folder has a class that is not among them, or lacks one where every image must say of each.
        """
        if self.classes == tuple(classes):
            return self
        single = len(self.classes) == len(classes) == 1 and self.task is not Task.CLASSIFICATION
        unknown = [] if single else [name for name in self.classes if name not in classes]
        if unknown:
            raise InputError(
                f"the images are labelled {', '.join(unknown)}, which the package doesn't know; it knows "
                f"{', '.join(classes)}: rename or leave out"
            )
        missing = [name for name in classes if name not in self.classes]
        if missing and self.task is Task.MULTILABEL:
            raise InputError(f"{LABELS} has no column for {', '.join(missing)}, which the package recognizes: add it")
        numbers = [0] if single else [list(classes).index(name) for name in self.classes]
        items = tuple(item.with_labels(numbers) for item in self.items)
        return replace(self, classes=tuple(classes), items=items)


def open_labelled(path: Path, *, task: Task | None = None) -> LabelledFolder:
    """Recognize a labelled folder's layout and list its images.

    Parameters
    ----------
    task
        What to read the labels for, where they are good for several: boxes are
        read from a table of boxes, or drawn around the parts of masks.

    Groups come from `groups.csv` (image,group) or `sequences.csv`
    (frame,sequence); without them a DICOM file's Patient ID is its group, and
    every other image is its own.

    Raises
    ------
    InputError
        The folder is missing or of no known layout, or a table is malformed.
    """
    if not path.is_dir():
        raise InputError(f"{path} is no folder: name a folder that has {_LAYOUTS}")
    groups = read_groups(path)
    chosen = natural_task(path) if task is None else task
    if chosen is Task.DETECTION:
        return _detection(path, groups)
    if chosen is Task.SEGMENTATION:
        return _segmentation(path, groups)
    if chosen is Task.MULTILABEL:
        return _multilabel(path, groups)
    return _classification(path, groups)


def natural_task(path: Path) -> Task:
    """What a folder's layout is first of all good for."""
    if is_segmentation(path):
        return Task.SEGMENTATION
    if (path / ANNOTATIONS).is_file() or ((path / BOXES).is_file() and len(class_folders(path)) < 2):
        return Task.DETECTION
    return Task.MULTILABEL if (path / LABELS).is_file() else Task.CLASSIFICATION


def class_folders(path: Path) -> list[Path]:
    """The folders in it that may each be a class."""
    return [p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]


def split(
    items: Sequence[LabelledItem], *, hold_out: float, seed: int
) -> tuple[tuple[LabelledItem, ...], tuple[LabelledItem, ...]]:
    """Hold out a share of the groups; a group is never on both sides.

    The sorted distinct groups are shuffled by numpy's `default_rng(seed)`; the
    first `round(hold_out * number of groups)` of them are held out.

    Parameters
    ----------
    items
        What to split.
    hold_out
        The share of the groups to hold out, in [0, 1].
    seed
        The same seed gives the same split.

    Returns
    -------
    rest, held_out
        Both in the order of `items`.

    Raises
    ------
    InputError
        `hold_out` is outside [0, 1].
    """
    if not 0 <= hold_out <= 1:
        raise InputError(f"hold_out is {hold_out}, not a share in [0, 1]: give 0.2 for a fifth of the groups")
    groups = sorted({item.group for item in items})
    order = np.random.default_rng(seed).permutation(len(groups))
    held = {groups[i] for i in order[: round(hold_out * len(groups))]}
    rest = tuple(item for item in items if item.group not in held)
    return rest, tuple(item for item in items if item.group in held)


def _detection(root: Path, groups: Groups | None) -> LabelledFolder:
    if not has_boxes(root):
        if not is_segmentation(root):
            raise InputError(f"{root} is not labelled for detection: it must have {_LAYOUTS}; found {_found(root)}")
        return replace(_segmentation(root, groups), task=Task.DETECTION)
    table = read_boxes(root)
    items = []
    for found in walk(root):
        if isinstance(found, Found):
            group = _group(found.name, found.path, groups)
            items.append(LabelledItem(found.name, group, found.path, boxes=table.of))
    if not items:
        raise InputError(f"{root} holds no image: put the images beside the table of boxes")
    return LabelledFolder(Task.DETECTION, table.classes, tuple(items))


def _segmentation(root: Path, groups: Groups | None) -> LabelledFolder:
    if not is_segmentation(root):
        raise InputError(f"{root} is not labelled for segmentation: it must have {_LAYOUTS}; found {_found(root)}")
    images = [found for found in walk(root / IMAGES) if isinstance(found, Found)]
    masks = {_key(found.name): found.path for found in walk(root / MASKS) if isinstance(found, Found)}
    if not images:
        raise InputError(f"{root / IMAGES} holds no image: put the images there, with masks of the same stem in masks")
    items = []
    for found in images:
        name = f"{IMAGES}/{found.name}"
        items.append(LabelledItem(name, _group(name, found.path, groups), found.path, masks.get(_key(found.name))))
    return LabelledFolder(Task.SEGMENTATION, LESION, tuple(items))


def _multilabel(root: Path, groups: Groups | None) -> LabelledFolder:
    if not (root / LABELS).is_file():
        raise InputError(f"{root} is not labelled for several labels: it must have {_LAYOUTS}; found {_found(root)}")
    classes, table = read_labels(root / LABELS)
    items = []
    for found in walk(root):
        labels = look_up(table, found.name) if isinstance(found, Found) else None
        if isinstance(found, Found) and labels is not None:
            group = _group(found.name, found.path, groups)
            items.append(LabelledItem(found.name, group, found.path, labels=labels))
    if not items:
        raise InputError(f"{LABELS} names no image that is in {root}: name images by path, name or stem")
    return LabelledFolder(Task.MULTILABEL, classes, tuple(items))


def _classification(root: Path, groups: Groups | None) -> LabelledFolder:
    found = [file for file in walk(root) if isinstance(file, Found)]
    inside = [file for file in found if "/" in file.name]
    direct = {file.name.split("/")[0] for file in inside if file.name.count("/") == 1}
    # DIR/train/<class>/* is a split of a data set, whose folders must not become classes.
    nested = {file.name.split("/")[0] for file in inside} - direct
    if len(direct) < 2 or nested:
        wanting = (
            "no labelled folder" if natural_task(root) is Task.CLASSIFICATION else "not labelled for classification"
        )
        raise InputError(f"{root} is {wanting}: it must have {_LAYOUTS}; found {_found(root)}")
    classes = tuple(sorted(direct))
    items = tuple(
        LabelledItem(
            file.name, _group(file.name, file.path, groups), file.path, label=classes.index(file.name.split("/")[0])
        )
        for file in inside
    )
    return LabelledFolder(Task.CLASSIFICATION, classes, items)


def _group(name: str, path: Path, groups: Groups | None) -> str:
    if groups is not None:
        return groups(name) or name
    try:
        return (patient_of(path) if recognize(path) is Kind.DICOM else None) or name
    except InputError:
        return name


def _key(name: str) -> str:
    """A file's relative path without its extension: what an image and its mask have in common."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{Path(file).stem}"


def _found(root: Path) -> str:
    """The first entries of a folder, for a message."""
    entries = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in root.iterdir())
    more = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
    return (", ".join(entries[:5]) + more) or "nothing"
