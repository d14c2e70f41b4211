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


def true_frames(item: LabelledItem, *, task: Task) -> Iterator[Frame | Skipped]:
    """Decode an item, with the truth that a task asks for; or what is wrong with it."""
    if item.boxes is not None:
        yield from _detected(item, item.boxes)
    elif item.label is not None or item.labels is not None:
        yield from _classified(item)
    elif task is Task.DETECTION:
        yield from (_boxed(frame) for frame in _segmented(item))
    else:
        yield from _segmented(item)


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


def _classified(item: LabelledItem) -> Iterator[Frame | Skipped]:
    for frame in file_frames(Found(item.image, item.name), group=item.group):
        yield frame if isinstance(frame, Skipped) else replace(frame, truth=Truth(label=item.label, labels=item.labels))


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
    for frame in _single(item, "one list of boxes: save each frame by itself"):
        yield frame if isinstance(frame, Skipped) else replace(frame, truth=truth)
