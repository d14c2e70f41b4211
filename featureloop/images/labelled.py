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
    notes
        What people should know of the labels, in sentences.
    """

    task: Task
    classes: tuple[str, ...]
    items: tuple[LabelledItem, ...]
    also: tuple[Task, ...] = ()
    notes: tuple[str, ...] = ()

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

        Where both sides know one class only, and one of them has no name of its own for it but `lesion`, it is
        the same one, and a note says so.

        Raises
        ------
        InputError
            The folder has a class that is not among them, or lacks one where every image must say of each.
        """
        if self.classes == tuple(classes):
            return self
        alone = len(self.classes) == len(classes) == 1 and self.task is not Task.CLASSIFICATION
        single = alone and LESION in (self.classes, tuple(classes))
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
        said = (f"'{self.classes[0]}' of the images is taken for '{classes[0]}'",) if single else ()
        return replace(self, classes=tuple(classes), items=items, notes=(*self.notes, *said))


def open_labelled(path: Path, *, task: Task | None = None, known: Sequence[str] = ()) -> LabelledFolder:
    """Recognize a labelled folder's layout and list its images.

    Parameters
    ----------
    task
        What to read the labels for, where they are good for several: boxes are
        read from a table of boxes, or drawn around the parts of masks.
    known
        Names of classes: a single folder of one of them is a class too, where
        others need a second one to be recognized.

    Groups come from `groups.csv` (image,group) or `sequences.csv`
    (frame,sequence); without them a DICOM file's Patient ID is its group, and
    every other image is its own.

    Raises
    ------
    InputError
        The folder is missing or of no known layout, or a table is malformed or
        of other images.
    """
    if not path.is_dir():
        raise InputError(f"{path} is no folder: name a folder that has {_LAYOUTS}")
    groups = read_groups(path)
    chosen = natural_task(path) if task is None else task
    if chosen is Task.DETECTION:
        found = _detection(path, groups)
    elif chosen is Task.SEGMENTATION:
        found = _segmentation(path, groups)
    elif chosen is Task.MULTILABEL:
        found = _multilabel(path, groups)
    else:
        found = _classification(path, groups, known)
    return found if groups is None else _grouped(found, groups)


def _grouped(folder: LabelledFolder, groups: Groups) -> LabelledFolder:
    """Look at what the table of groups says of the images.

    Raises
    ------
    InputError
        It names none of them: patients would stand on both sides of a split.
    """
    unlisted = [item.name for item in folder.items if groups(item.name) is None]
    if len(unlisted) == len(folder.items):
        raise InputError(
            f"the table of groups names none of the {len(unlisted)} images, '{unlisted[0]}' for one: name images by "
            "path, file name or stem (sequences.csv: by number), or remove the table"
        )
    if not unlisted:
        return folder
    said = f"{len(unlisted)} images are in no group, '{unlisted[0]}' for one: each counts as its own"
    return replace(folder, notes=(*folder.notes, said))


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
    table.check_names(item.name for item in items)
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
    items, unlisted = [], []
    for found in walk(root):
        if not isinstance(found, Found):
            continue
        labels = look_up(table, found.name)
        if labels is None:
            unlisted.append(found.name)
            continue
        items.append(LabelledItem(found.name, _group(found.name, found.path, groups), found.path, labels=labels))
    if not items:
        raise InputError(f"{LABELS} names no image that is in {root}: name images by path, name or stem")
    said = [f"{LABELS} doesn't name {len(unlisted)} images, '{at}' for one: they are left out" for at in unlisted[:1]]
    return LabelledFolder(Task.MULTILABEL, classes, tuple(items), notes=tuple(said))


def _classification(root: Path, groups: Groups | None, known: Sequence[str]) -> LabelledFolder:
    found = [file for file in walk(root) if isinstance(file, Found)]
    inside = [file for file in found if "/" in file.name]
    direct = {file.name.split("/")[0] for file in inside if file.name.count("/") == 1}
    # DIR/train/<class>/* is a split of a data set, whose folders must not become classes.
    nested = {file.name.split("/")[0] for file in inside} - direct
    if nested or not direct or (len(direct) < 2 and not direct <= set(known)):
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
