"""Frozen values that every room shares: frames, recognitions, bags.

Shapes: H, W pixels of a frame; N position vectors of C channels; T target
values per position vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureloop.core.boxes import LEAST_SCORE, Box, boxes_to_rows, rows_to_boxes

UInt8 = NDArray[np.uint8]
UInt16 = NDArray[np.uint16]
Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]
AnyArray = NDArray[Any]


class Task(StrEnum):
    """What a recognizer recognizes."""

    CLASSIFICATION = "classification"
    DETECTION = "detection"
    MULTILABEL = "multilabel"
    SEGMENTATION = "segmentation"


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What is known to be in a frame: from a labelled folder or a phantom.

    Attributes
    ----------
    mask
        bool (H, W), True inside a lesion; None where no mask is known.
    label
        Class index, in the order of the source's class names; None where unknown.
    labels
        For each of the source's class names whether the frame shows it, where
        several may be true; None where unknown.
    boxes
        The lesions' boxes, empty where it is known that there is none; None where none are known.
    """

    mask: Bool | None = None
    label: int | None = None
    boxes: tuple[Box, ...] | None = None
    labels: tuple[bool, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Deep:
    """A grey frame's values where they are more than 8 bits can show.

    Attributes
    ----------
    values
        uint16 (H, W), rising with the brightness.
    low, high
        The values that the frame's pixels show black and white.
    """

    values: UInt16
    low: int
    high: int


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One image, whatever it came from.

    Attributes
    ----------
    pixels
        uint8 (H, W, 3), RGB.
    name
        The file's path relative to its source. It never leaves the site.
    index
        Frame number inside a multi-frame file or a video, from 0.
    group
        Patient or sequence as the source names it; None where unknown. Only
        its keyed pseudonym leaves the site.
    truth
        Labels, where the source has any (training, evaluation, experiments).
    deep
        Of a grey frame of more than 8 bits its values, for a reader who sets window and level; else None.
    """

    pixels: UInt8
    name: str
    index: int = 0
    group: str | None = None
    truth: Truth | None = None
    deep: Deep | None = None

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise ValueError(f"pixels must be uint8 (H, W, 3) and not empty, not {dtype} {shape}")


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or frame that could not be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Recognition:
    """What a recognizer found in one frame.

    Attributes
    ----------
    task
        What was recognized.
    probabilities
        float32 (N, T) in [0, 1]. Segmentation: one row per position vector,
        one column per sub-cell (row by row inside the cell), the calibrated
        probability of a lesion. Classification, of one label or of several:
        (1, K), one column per class.
        Detection: (N, K), the probability that a box of the class stands
        around the position.
    distances
        Detection: float32 (N, 4), coded distances to the box's left, top,
        right and bottom side (`core.boxes`); else None.
    energy
        Classification: the logarithm of the summed exponentials of the calibrated logits, how much evidence there is
        for any class; of several labels, the sum of each one's own. None where it isn't known.
    outlying
        How far the frame's features are from those of founding frames, in [0, 1] (`model.reference`); None where
        the package has nothing to compare with.
    agreement
        How good the hard result is expected to be by what is found in the frame turned and mirrored, too, in [0, 1]
        (`sharing.views`); None where it was not looked at so. Of a mean of several results, by that mean itself.
    """

    task: Task
    probabilities: Float32
    distances: Float32 | None = None
    energy: float | None = None
    outlying: float | None = None
    agreement: float | None = None

    def boxes(self) -> tuple[Box, ...]:
        """The boxes of a detection whose rows stand in the map's order, the best first."""
        return () if self.distances is None else rows_to_boxes(self.probabilities, self.distances)

    def targets(self) -> UInt8:
        """The hard result as rows of targets, uint8 (N, T).

        Segmentation and several labels: 1 where the probability is at least one half.
        Detection: the rows (in the map's order) of the boxes whose score is.
        Classification: 1 at the most probable class.
        """
        if self.task in {Task.SEGMENTATION, Task.MULTILABEL}:
            return (self.probabilities >= 0.5).astype(np.uint8)
        if self.task is Task.DETECTION:
            n, labels = self.probabilities.shape
            return boxes_to_rows([b for b in self.boxes() if b.score >= 0.5], labels=labels, grid=math.isqrt(n))
        hard = np.zeros(self.probabilities.shape, np.uint8)
        hard[0, int(self.probabilities[0].argmax())] = 1
        return hard

    def soft_targets(self) -> UInt8:
        """The probabilities as rows of targets, uint8 (N, T): 0 to 255 for 0 to 1.

        Detection: a row that is probably in no box is 0, the others hold their coded distances, too.
        """
        soft = np.rint(self.probabilities.astype(np.float64) * 255).astype(np.uint8)
        if self.distances is None:
            return soft
        soft[self.probabilities < LEAST_SCORE] = 0
        coded = np.rint(self.distances.astype(np.float64) * 255).astype(np.uint8)
        return np.concatenate([soft, coded * soft.any(axis=1, keepdims=True)], axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class Opinion:
    """Another result for a frame, as the consensus of its neighbours or a second opinion gives it.

    Attributes
    ----------
    recognition
        Its rows are those of the result in question.
    reliability
        Its own, in [0, 1].
    """

    recognition: Recognition
    reliability: float


class ChangedBy(StrEnum):
    """Who or what replaced a recognition."""

    CLINICIAN = "clinician"
    GROUND_TRUTH = "ground-truth"
    SECOND_OPINION = "second-opinion"
    CONSENSUS = "consensus"
    SOFTENED = "softened"

    @property
    def verified(self) -> bool:
        """Whether a person, or a truth in a person's place, stands behind it."""
        return self in {ChangedBy.CLINICIAN, ChangedBy.GROUND_TRUTH}


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What replaced a recognition: the new rows of targets, and by whom.

    Attributes
    ----------
    targets
        uint8 (N, T), as `Recognition.targets`; of `SOFTENED` as `Recognition.soft_targets`.
    by
        Who or what changed it. `GROUND_TRUTH` stands in the physician's place
        in experiments and says so in every record.
    """

    targets: UInt8
    by: ChangedBy


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A doubtful result that waits for a person.

    Attributes
    ----------
    key
        The keyed name of the frame's result (32 bytes): the same result is asked about once.
    frame
        As it was recognized. Its pixels never leave the site.
    vectors
        float32 (N, C), the position vectors in the map's order; of `pool` the one pooled vector.
    recognition
        What was found; its rows are in the map's order.
    reliability
        In [0, 1], of the recognition.
    package
        SHA-256 (32 bytes) of the package that recognized; empty where that is not known.
    """

    key: bytes
    frame: Frame
    vectors: Float32
    recognition: Recognition
    reliability: float
    package: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class Bag:
    """Quantized position vectors with the rows of results that belong to them, or the one row of the whole frame.

    Attributes
    ----------
    symbols
        uint8 (N, C), quantized channel values.
    recognized
        uint8 (N, T) or (1, T), the recognition as rows of targets.
    changed
        uint8 (N, T), what replaced it; None where nothing did.
    soft
        Whether that are probabilities, 0 to 255, instead of flags.
    """

    symbols: UInt8
    recognized: UInt8
    changed: UInt8 | None = None
    soft: bool = False

    def __post_init__(self) -> None:
        n = self.symbols.shape[0]
        rows = [self.recognized] + ([] if self.changed is None else [self.changed])
        if any(r.ndim != 2 or r.shape != self.recognized.shape for r in rows):
            raise ValueError(f"rows of targets of shapes {[r.shape for r in rows]} don't match")
        if self.recognized.shape[0] not in {n, 1}:
            raise ValueError(f"{self.recognized.shape[0]} rows of targets for {n} position vectors")

    def result(self) -> UInt8:
        """The rows to learn from: the changed ones where there are any."""
        return self.recognized if self.changed is None else self.changed
