"""A labelled image with its truth: the frame, and what is known to be in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featureloop.core.boxes import Box
from featureloop.core.components import SPECK, lesion_boxes
from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Skipped, Task, Truth
from featureloop.images.files import read_mask
from featureloop.images.sidecar import MASKS, Found
from featureloop.images.source import file_frames


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
    labels
        Its labels, for each of the classes whether it shows it; None where there is no table of labels.
    """

    name: str
    group: str
    image: Path
    mask: Path | None = None
    label: int | None = None
    boxes: Callable[[str], tuple[Box, ...]] | None = None
    labels: tuple[bool, ...] | None = None

    def with_truth_of(self, other: LabelledItem) -> LabelledItem:
        """The same with what another folder's item says of the image, where this one says nothing."""
        return replace(
            self,
            mask=self.mask or other.mask,
            label=other.label if self.label is None else self.label,
            boxes=self.boxes or other.boxes,
            labels=self.labels or other.labels,
        )

    def with_labels(self, numbers: Sequence[int]) -> LabelledItem:
        """The same with label i called `numbers[i]`."""
        boxes, labels = self.boxes, self.labels

        def renumbered(name: str) -> tuple[Box, ...]:
            found = () if boxes is None else boxes(name)
            return tuple(replace(box, label=numbers[box.label]) for box in found)

        return replace(
            self,
            label=None if self.label is None else numbers[self.label],
            boxes=None if boxes is None else renumbered,
            labels=None if labels is None else tuple(labels[i] for i in np.argsort(numbers)),
        )


def true_frames(item: LabelledItem, *, tasks: Sequence[Task]) -> Iterator[Frame | Skipped]:
    """Decode an item, with the truth that tasks ask for; or what is wrong with it."""
    if item.mask is not None or (item.boxes is None and item.label is None and item.labels is None):
        frames = _segmented(item)
    elif item.boxes is not None:
        frames = _single(item, "one list of boxes: save each frame by itself")
    else:
        frames = file_frames(Found(item.image, item.name), group=item.group)
    for frame in frames:
        yield frame if isinstance(frame, Skipped) else _with_truth(frame, item, tasks)


def _with_truth(frame: Frame, item: LabelledItem, tasks: Sequence[Task]) -> Frame | Skipped:
    """A frame, maybe with its mask, with what else is known of it; boxes are drawn around a mask's parts."""
    mask = None if frame.truth is None else frame.truth.mask
    boxes = None
    if item.boxes is not None:
        try:
            boxes = item.boxes(item.name)
        except InputError as error:
            return Skipped(item.name, str(error))
    elif mask is not None and Task.DETECTION in tasks:
        boxes = lesion_boxes(mask, least=SPECK)
    return replace(frame, truth=Truth(mask=mask, label=item.label, labels=item.labels, boxes=boxes))


def _segmented(item: LabelledItem) -> Iterator[Frame | Skipped]:
    if item.mask is None:
        yield Skipped(item.name, f"there is no mask of the stem {item.image.stem!r} in {MASKS}: add it, black if empty")
        return
    for frame in _single(item, "one mask: save each frame with its own mask"):
        if isinstance(frame, Skipped):
            yield frame
            continue
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


def _single(item: LabelledItem, truth: str) -> Iterator[Frame | Skipped]:
    """The one frame of an image; where there are several, the others have no truth of their own."""
    for index, frame in enumerate(file_frames(Found(item.image, item.name), group=item.group)):
        if index and not isinstance(frame, Skipped):
            yield Skipped(item.name, f"the image has several frames and {truth}")
            return
        yield frame
