"""Folders of labelled images, recognized by their layout, and split by group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Skipped, Task, Truth
from featureloop.images.dicom import patient_of
from featureloop.images.files import read_mask
from featureloop.images.sidecar import IMAGES, MASKS, Found, Groups, is_segmentation, read_groups, walk
from featureloop.images.source import Kind, file_frames, recognize

LESION: Final = ("lesion",)

_LAYOUTS: Final = (
    "either DIR/images and DIR/masks (same stem; segmentation), "
    "or at least two folders DIR/<class> of images (classification)"
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
        Its class index; None in a segmentation.
    """

    name: str
    group: str
    image: Path
    mask: Path | None = None
    label: int | None = None


@dataclass(frozen=True, slots=True)
class LabelledFolder:
    """What a labelled folder holds.

    Attributes
    ----------
    task
        What its labels are good for.
    classes
        Class names, by label; `('lesion',)` in a segmentation.
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
            With `truth`: a mask bool (H, W) of the frame's size, or a label.
        Skipped
            An image or mask that can't be read, a missing mask, or two sizes that differ.
        """
        for item in self.items if items is None else items:
            yield from _segmented(item) if self.task is Task.SEGMENTATION else _classified(item)


def open_labelled(path: Path) -> LabelledFolder:
    """Recognize a labelled folder's layout and list its images.

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
    if is_segmentation(path):
        return _segmentation(path, groups)
    return _classification(path, groups)


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


def _segmentation(root: Path, groups: Groups | None) -> LabelledFolder:
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
