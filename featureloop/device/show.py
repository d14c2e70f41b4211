"""What a clinician sees of a result: the lesion's outline drawn on the frame, and a line of JSON."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from featureloop.core.boxes import Box
from featureloop.core.errors import StorageError
from featureloop.core.types import Frame, Recognition, Task, UInt8
from featureloop.model.package import Package
from featureloop.model.preprocess import probability_map
from featureloop.sharing.reliability import reliability

OUTLINE = (60, 230, 120)
NAME_CHARACTERS = 120


def draw_mask(pixels: UInt8, mask: UInt8, *, colour: tuple[int, int, int] = OUTLINE) -> UInt8:
    """A frame uint8 (H, W, 3) with the outline of a mask (H, W) drawn on it, its inside tinted."""
    inside = Image.fromarray((mask > 0).astype(np.uint8) * 255)
    wide = max(3, 2 * (min(mask.shape) // 160) + 1)
    edge = (np.asarray(inside.filter(ImageFilter.MaxFilter(wide))) > 0) & (
        np.asarray(inside.filter(ImageFilter.MinFilter(wide))) == 0
    )
    out = pixels.astype(np.float32)
    out[mask > 0] = 0.8 * out[mask > 0] + 0.2 * np.array(colour, np.float32)
    out[edge] = colour
    return out.astype(np.uint8)


def draw_boxes(pixels: UInt8, boxes: Sequence[Box], *, colour: tuple[int, int, int] = OUTLINE) -> UInt8:
    """A frame uint8 (H, W, 3) with boxes drawn on it."""
    picture = Image.fromarray(pixels)
    height, width = pixels.shape[:2]
    pen = ImageDraw.Draw(picture)
    for box in boxes:
        x0, y0, x1, y1 = box.corners()
        corners = (x0 * (width - 1), y0 * (height - 1), x1 * (width - 1), y1 * (height - 1))
        pen.rectangle(corners, outline=colour, width=max(2, min(height, width) // 160))
    return np.asarray(picture)


class ResultWriter:
    """Writes `results.jsonl` and one picture a frame into a directory."""

    def __init__(self, path: Path, package: Package) -> None:
        self._path = path
        self._package = package
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lines = (path / "results.jsonl").open("a", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"results can't be written to '{path}': {error}; choose another --out") from error

    def show(self, frame: Frame, recognition: Recognition) -> None:
        """Write one result.

        Raises
        ------
        StorageError
            The disk is full or not writable.
        """
        manifest = self._package.manifest.for_task(recognition.task)
        name = _picture_name(frame, recognition.task if self._package.manifest.heads else None)
        line: dict[str, object] = {
            "name": frame.name,
            "index": frame.index,
            "task": str(recognition.task),
            "status": "UNVERIFIED",
            "package": self._package.digest.hex(),
            "reliability": round(reliability(recognition, manifest.calibration), 4),
        }
        try:
            if recognition.task is Task.SEGMENTATION:
                h, w = frame.pixels.shape[:2]
                picture = probability_map(recognition.probabilities, manifest.features.grid, height=h, width=w)
                mask = (picture >= 0.5).astype(np.uint8)
                line |= {"lesion_share": round(float(mask.mean()), 5), "picture": name}
                Image.fromarray(draw_mask(frame.pixels, mask)).save(self._path / name, quality=90)
            elif recognition.task is Task.DETECTION:
                found = [b for b in recognition.boxes() if b.score >= 0.5]
                line |= {"boxes": [_box_line(b, manifest.labels) for b in found], "picture": name}
                Image.fromarray(draw_boxes(frame.pixels, found)).save(self._path / name, quality=90)
            elif recognition.task is Task.MULTILABEL:
                p = recognition.probabilities[0]
                line |= {
                    "labels": [name for name, v in zip(manifest.labels, p, strict=True) if v >= 0.5],
                    "probabilities": {k: round(float(v), 4) for k, v in zip(manifest.labels, p, strict=True)},
                }
            else:
                p = recognition.probabilities[0]
                line |= {
                    "label": manifest.labels[int(p.argmax())],
                    "probabilities": {k: round(float(v), 4) for k, v in zip(manifest.labels, p, strict=True)},
                }
            self._lines.write(json.dumps(line) + "\n")
            self._lines.flush()
        except OSError as error:
            raise StorageError(f"a result can't be written to '{self._path}': {error}; free some space") from error

    def close(self) -> None:
        """Close the file of results."""
        self._lines.close()


def _box_line(box: Box, labels: Sequence[str]) -> dict[str, object]:
    """A box as shares of the frame, for JSON."""
    sides = {k: round(getattr(box, k), 4) for k in ("x_center", "y_center", "width", "height")}
    return {"label": labels[box.label], "score": round(box.score, 4), **sides}


def _picture_name(frame: Frame, task: Task | None) -> str:
    """A file name for a frame's picture; with the task where there are several."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", frame.name)[-NAME_CHARACTERS:]
    if plain != frame.name:
        # 'a/b' and 'a_b' are two frames, so a name that had to be changed gets a mark of its own.
        plain += "." + hashlib.sha256(frame.name.encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{plain}.{frame.index:05d}{f'.{task}' if task else ''}.jpg"
