"""One moment of the live page as bytes: the frame as JPEG, and what was recognized, to be drawn over it.

Layout of a message: the header's length (uint32, little-endian), the header (JSON), the cells of every mask that the
header names, and the JPEG. The page draws outlines itself, so that they are sharp at any size of its window.
"""

from __future__ import annotations

import io
import json
import struct
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from featureloop.core.types import Task, UInt8
from featureloop.device.feed import Result, Shown
from featureloop.model.preprocess import rows_to_cells
from featureloop.sharing.reliability import is_unlike, reliability

QUALITY = 85
MOST_SIDE = 1920
"""A frame whose longer side has more pixels is sent reduced."""
LIKELY = 0.5


class Moments:
    """The newest moment as bytes, made once for all that look at it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number, self._made = 0, b""

    def of(self, shown: Shown, *, facts: dict[str, Any], now: float) -> bytes:
        """The message of a frame; as `message`."""
        with self._lock:
            if shown.number != self._number:
                self._number, self._made = shown.number, message(shown, facts=facts, now=now)
            return self._made


def message(shown: Shown, *, facts: dict[str, Any], now: float) -> bytes:
    """A frame and its results as one message.

    Parameters
    ----------
    facts
        Goes into the header as it is.
    now
        By `time.monotonic`: how old the frame is.
    """
    cells: list[bytes] = []
    results = [_result(result, cells) for result in shown.results]
    height, width = shown.frame.pixels.shape[:2]
    header = {
        "number": shown.number,
        "name": shown.frame.name,
        "index": shown.frame.index,
        "width": width,
        "height": height,
        "age_ms": None if shown.came_at is None else round(1e3 * (now - shown.came_at), 1),
        "recognized_ms": None if shown.came_at is None else round(1e3 * (shown.at - shown.came_at), 1),
        "results": results,
        **facts,
    }
    text = json.dumps(header).encode()
    return b"".join((struct.pack("<I", len(text)), text, *cells, jpeg(shown.frame.pixels)))


def jpeg(pixels: UInt8) -> bytes:
    """A frame uint8 (H, W, 3) as JPEG, reduced by a whole number where it is large."""
    picture, file = Image.fromarray(pixels), io.BytesIO()
    if (times := -(-max(picture.size) // MOST_SIDE)) > 1:
        picture = picture.reduce(times)
    picture.save(file, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return file.getvalue()


def _result(result: Result, cells: list[bytes]) -> dict[str, Any]:
    """One task's result for the page; a mask's cells (uint8, row by row) are put to the others."""
    found, manifest = result.recognition, result.manifest
    trust = reliability(found, manifest.calibration)
    shared = {
        "task": str(found.task),
        "reliability": round(trust, 4),
        "threshold": round(result.threshold, 4),
        "doubtful": trust < result.threshold,
        "unlike": is_unlike(found, manifest.calibration),
    }
    if found.task is Task.SEGMENTATION:
        map_ = rows_to_cells(found.probabilities, manifest.features.grid)
        cells.append(np.rint(map_ * 255).astype(np.uint8).tobytes())
        return {**shared, "side": len(map_), "words": _mask_words(float((map_ >= LIKELY).mean()), manifest.labels)}
    if found.task is Task.DETECTION:
        boxes = [b for b in found.boxes() if b.score >= LIKELY]
        drawn = [
            {
                "corners": [round(v, 4) for v in b.corners()],
                "label": manifest.labels[b.label],
                "score": round(b.score, 3),
            }
            for b in boxes
        ]
        return {**shared, "boxes": drawn, "words": _boxes_words([manifest.labels[b.label] for b in boxes])}
    p = [round(float(v), 4) for v in found.probabilities[0]]
    labels = [[name, v] for name, v in zip(manifest.labels, p, strict=True)]
    if found.task is Task.MULTILABEL:
        words = (
            ", ".join(name for name, v in zip(manifest.labels, p, strict=True) if v >= LIKELY) or "none of the labels"
        )
    else:
        words = manifest.labels[int(np.argmax(p))]
    return {**shared, "labels": labels, "words": words}


def _mask_words(share: float, labels: Sequence[str]) -> str:
    what = labels[0] if labels else "lesion"
    if share == 0:
        return f"no {what}"
    percent = 100 * share
    return f"{what}, {'less than 1' if percent < 1 else f'{percent:.0f}'}% of the frame"


def _boxes_words(labels: Sequence[str]) -> str:
    if not labels:
        return "nothing in a box"
    counts = {label: labels.count(label) for label in labels}
    return ", ".join(f"{n} {label}" if n > 1 else label for label, n in counts.items())
