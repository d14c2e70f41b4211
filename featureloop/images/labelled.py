"""Folders of labelled images, recognized by their layout, and split by group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from featureloop.core.boxes import Box
from featureloop.core.components import SPECK, lesion_boxes
from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Skipped, Task, Truth
from featureloop.images.box_tables import ANNOTATIONS, BOXES, has_boxes, read_boxes
from featureloop.images.dicom import patient_of
from featureloop.images.files import read_mask
from featureloop.images.sidecar import IMAGES, MASKS, Found, Groups, is_segmentation, read_groups, walk
from featureloop.images.source import Kind, file_frames, recognize

LESION: Final = ("lesion",)

_LAYOUTS: Final = (
    "DIR/images and DIR/masks (same stem; segmentation), DIR/annotations.json in COCO form or DIR/boxes.csv "
    "(detection), or at least two folders DIR/<class> of images (classification)"
)


@dataclass(frozen=True, slots=True)
class LabelledItem:
    """One labelled image, as paths: nothing is decoded.

    Attributes
    ----------
    name
        The image's path relative to the folder, as in `open_source`.
    group
        Its patient or sequence; its own name where no table and no Patient ID says.
    image
        Where the image is.
    mask
        Where its mask is; None where there is none.
    label
        Its class index; None where none is known.
    boxes
        Finds its boxes by its name; None where there is no table of boxes.
    """

    name: str
    group: str
    image: Path
    mask: Path | None = None
    label: int | None = None
    boxes: Callable[[str], tuple[Box, ...]] | None = None


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
    """

    task: Task
    classes: tuple[str, ...]
    items: tuple[LabelledItem, ...]

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
            if item.boxes is not None:
                yield from _detected(item, item.boxes)
            elif item.label is not None:
                yield from _classified(item)
            elif self.task is Task.DETECTION:
                yield from (_boxed(frame) for frame in _segmented(item))
            else:
                yield from _segmented(item)


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
    chosen = _natural_task(path) if task is None else task
    if chosen is Task.DETECTION:
        return _detection(path, groups)
    if chosen is Task.SEGMENTATION:
        return _segmentation(path, groups)
    return _classification(path, groups)


def _natural_task(path: Path) -> Task:
    """What a folder's layout is first of all good for."""
    if is_segmentation(path):
        return Task.SEGMENTATION
    if (path / ANNOTATIONS).is_file() or ((path / BOXES).is_file() and len(_class_folders(path)) < 2):
        return Task.DETECTION
    return Task.CLASSIFICATION


def _class_folders(path: Path) -> list[Path]:
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


def _classification(root: Path, groups: Groups | None) -> LabelledFolder:
    found = [file for file in walk(root) if isinstance(file, Found)]
    inside = [file for file in found if "/" in file.name]
    direct = {file.name.split("/")[0] for file in inside if file.name.count("/") == 1}
    # DIR/train/<class>/* is a split of a data set, whose folders must not become classes.
    nested = {file.name.split("/")[0] for file in inside} - direct
    if len(direct) < 2 or nested:
        raise InputError(f"{root} is no labelled folder: it must have {_LAYOUTS}; found {_found(root)}")
    classes = tuple(sorted(direct))
    items = tuple(
        LabelledItem(
            file.name, _group(file.name, file.path, groups), file.path, label=classes.index(file.name.split("/")[0])
        )
        for file in inside
    )
    return LabelledFolder(Task.CLASSIFICATION, classes, items)


def _segmented(item: LabelledItem) -> Iterator[Frame | Skipped]:
    if item.mask is None:
        yield Skipped(item.name, f"there is no mask of the stem {item.image.stem!r} in {MASKS}: add it, black if empty")
        return
    for index, frame in enumerate(file_frames(Found(item.image, item.name), group=item.group)):
        if isinstance(frame, Skipped):
            yield frame
            continue
        if index:
            yield Skipped(item.name, "the image has several frames and one mask: save each frame with its own mask")
            return
        try:
            mask = read_mask(item.mask)
        except InputError as error:
            yield Skipped(item.name, f"its mask: {error}")
            return
        height, width = frame.pixels.shape[:2]
        if mask.shape != (height, width):
            yield Skipped(
                item.name,
                f"the image is {width} x {height} pixels and its mask {mask.shape[1]} x {mask.shape[0]}: "
                "save both in the same size",
            )
            return
        yield replace(frame, truth=Truth(mask=mask))


def _classified(item: LabelledItem) -> Iterator[Frame | Skipped]:
    for frame in file_frames(Found(item.image, item.name), group=item.group):
        yield frame if isinstance(frame, Skipped) else replace(frame, truth=Truth(label=item.label))


def _boxed(frame: Frame | Skipped) -> Frame | Skipped:
    """A frame with a mask as one with the boxes of the mask's parts, too."""
    if isinstance(frame, Skipped) or frame.truth is None or frame.truth.mask is None:
        return frame
    return replace(frame, truth=replace(frame.truth, boxes=lesion_boxes(frame.truth.mask, least=SPECK)))


def _detected(item: LabelledItem, boxes: Callable[[str], tuple[Box, ...]]) -> Iterator[Frame | Skipped]:
    try:
        truth = Truth(boxes=boxes(item.name))
    except InputError as error:
        yield Skipped(item.name, str(error))
        return
    for index, frame in enumerate(file_frames(Found(item.image, item.name), group=item.group)):
        if isinstance(frame, Skipped):
            yield frame
            continue
        if index:
            yield Skipped(item.name, "the image has several frames and one list of boxes: save each frame by itself")
            return
        yield replace(frame, truth=truth)


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
