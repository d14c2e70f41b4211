"""Runs a package over frames, and keeps what it made of them: vectors, logits, and what is true."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featureloop.core.boxes import Box
from featureloop.core.errors import FeatureloopError
from featureloop.core.types import Frame, Skipped, Task, UInt8
from featureloop.model.package import Package
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import rules_of, true_rows
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.views import seen_otherwise

Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Looked:
    """What a package makes of frames: vectors float32 (M, N, C), logits (M, N, T), true rows (M, N, T) or none.

    Of detections also each frame's true boxes. `agreement` is how far the frames' other views agree under the package's
    own calibration, float64 (M,).
    """

    vectors: NDArray[np.float32]
    logits: NDArray[np.float32]
    truths: NDArray[np.uint8] | None
    groups: list[str]
    boxes: list[tuple[Box, ...]]
    agreement: Float64


class Looker:
    """Runs one package over frames, and keeps what it made of them."""

    def __init__(self, package: Package, cache: Path) -> None:
        self.package, self.manifest, self.rules = package, package.manifest, rules_of(package.manifest)
        self._runtime = Runtime(package)
        self._cache = cache / package.short
        self._cache.mkdir(parents=True, exist_ok=True)

    def look(self, name: str, frames: Iterable[Frame | Skipped], *, labelled: bool = True) -> Looked:
        """What the package makes of frames; of what was kept under this name, if there is something."""
        kept = self._cache / f"{name}.npz"
        if not kept.exists():
            np.savez(kept, **self._run(frames, labelled=labelled))
        data = np.load(kept)
        boxes = [boxes_of(each) for each in data["b"]] if "b" in data else []
        truths = data["t"] if labelled else None
        return Looked(data["v"], data["l"], truths, data["g"].tolist(), boxes, data["a"])

    def _run(self, frames: Iterable[Frame | Skipped], *, labelled: bool) -> dict[str, Any]:
        m, found, boxes = self.manifest, [], []
        for frame in frames:
            if isinstance(frame, Skipped):
                continue
            try:
                vectors = release_vectors(self._runtime.extract(frame.pixels), m.released)
                rows = self._rows(frame) if labelled else np.zeros(0, np.uint8)
            except FeatureloopError:
                continue
            own = seen_otherwise(self._runtime, frame.pixels, self._runtime.recognize(vectors), m.calibration)
            found.append((vectors, self._runtime.logits(vectors), rows, frame.group or frame.name, own.agreement))
            boxes.append(() if frame.truth is None else frame.truth.boxes or ())
        v, logits, t, g, a = zip(*found, strict=True)
        known = {"v": np.stack(v), "l": np.stack(logits), "t": np.stack(t), "g": np.array(g), "a": np.array(a)}
        return known | {"b": table_of(boxes)}

    def _rows(self, frame: Frame) -> UInt8:
        m = self.manifest
        return true_rows(frame, task=Task(m.task), labels=len(m.labels), grid=m.features.grid)


def table_of(each: Sequence[tuple[Box, ...]]) -> Float64:
    """Frames' boxes as numbers, float64 (M, most boxes of a frame, 5); NaN where a frame has fewer."""
    table = np.full((len(each), max(map(len, each), default=0), 5), np.nan)
    for row, boxes in zip(table, each, strict=True):
        for at, box in zip(row, boxes, strict=False):
            at[:] = box.x_center, box.y_center, box.width, box.height, box.label
    return table


def boxes_of(row: Float64) -> tuple[Box, ...]:
    """The boxes of one frame of that table."""
    return tuple(Box(*map(float, at[:4]), label=int(at[4])) for at in row if np.isfinite(at).all())
