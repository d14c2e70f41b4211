"""An evaluation as a page: figures, curves, and the best and the worst cases drawn."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image, ImageDraw

from featureloop.core.boxes import Box
from featureloop.core.errors import StorageError
from featureloop.core.types import Frame, Skipped, Task, UInt8
from featureloop.images.labelled import LabelledFolder
from featureloop.learner.charts import charts_of
from featureloop.learner.evaluation import Evaluation
from featureloop.learner.figures import Seen, lesion_mask
from featureloop.model.card import guarantee_words
from featureloop.model.charts import Chart, picture_url
from featureloop.model.package import Package, write_atomically

CASES = 6
LONGEST = 480
"""Pixels of a drawn case's longer side."""
TRUE = (255, 210, 60)
FOUND = (60, 230, 120)
Place = tuple[str, int]
"""A frame's file, and its number inside it."""


def write_report(found: Evaluation, package: Package, folder: LabelledFolder, out: Path) -> Path:
    """Write `report.html` and `evaluation.json` into the directory `out`; return the page's path.

    Raises
    ------
    StorageError
        The directory can't be written.
    """
    order = np.argsort(-found.values, kind="stable")
    n = min(CASES, len(order) // 2)
    best, worst = ([found.seen[i] for i in at] for at in (order[:n], order[::-1][:n]))
    films = frozenset(name for name, count in Counter(found.names).items() if count > 1)
    cases = _cases([*best, *worst], package, folder, films)
    environment = Environment(loader=PackageLoader("featureloop.learner"), autoescape=select_autoescape())
    page = environment.get_template("evaluation.html").render(
        package=package.short,
        task=str(found.task),
        labels=found.labels,
        frames=found.frames,
        groups=found.groups,
        skipped=found.skipped,
        figures=found.figures,
        cautions=found.cautions,
        guarantee=found.guarantee,
        guaranteed=guarantee_words(found.guarantee) if found.guarantee else "",
        charts=charts_of(found),
        best=[cases[s.name, s.index] for s in best if (s.name, s.index) in cases],
        worst=[cases[s.name, s.index] for s in worst if (s.name, s.index) in cases],
    )
    data = {"package": package.digest.hex(), **found.as_dict()}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the report can't be written to '{out}': {error}; choose another --out") from error
    write_atomically(out / "report.html", page.encode())
    write_atomically(out / "evaluation.json", json.dumps(data, indent=1).encode())
    return out / "report.html"


def _cases(
    chosen: Sequence[Seen], package: Package, folder: LabelledFolder, films: frozenset[str]
) -> dict[Place, Chart]:
    """Frames with their truth and their result drawn on them, and a line of text; `films` are files of many frames.

    Every file is decoded once, as far as its last case, and only what is drawn is kept.
    """
    wanted = {(seen.name, seen.index): seen for seen in chosen}
    last: dict[str, int] = {}
    for name, index in wanted:
        last[name] = max(index, last.get(name, 0))
    cases = {}
    for item in folder.items:
        for frame in folder.frames([item]) if item.name in last else ():
            if isinstance(frame, Skipped):
                continue
            seen = wanted.get((item.name, frame.index))
            if seen is not None:
                drawn = _DRAWN[seen.recognition.task](frame, seen, package)
                which = f"{seen.name}, frame {seen.index}" if seen.index or seen.name in films else seen.name
                cases[seen.name, seen.index] = Chart(picture_url(drawn), f"{which}: {_words(seen, package)}")
            if frame.index >= last[item.name]:
                break
    return cases


def _words(seen: Seen, package: Package) -> str:
    trust = f"reliability {seen.reliability:.2f}"
    if seen.masks is not None:
        return f"Dice {seen.masks.dice:.2f}, {trust}"
    if seen.recognition.task is Task.DETECTION:
        return f"{len(seen.boxes())} boxes, {len(seen.truth.boxes or ())} true ones, {trust}"
    labels = package.manifest.labels
    if seen.recognition.task is Task.MULTILABEL:
        found = seen.recognition.targets()[0].tolist()
        return f"{_names(found, labels)}, in truth {_names(seen.truth.labels or (), labels)}, {trust}"
    true = "unknown" if seen.truth.label is None else labels[seen.truth.label]
    return f"{labels[int(seen.recognition.probabilities[0].argmax())]}, in truth {true}, {trust}"


def _names(flags: Sequence[int], labels: Sequence[str]) -> str:
    return " and ".join(name for name, flag in zip(labels, flags, strict=False) if flag) or "nothing"


def _small(pixels: UInt8) -> Image.Image:
    picture = Image.fromarray(pixels)
    picture.thumbnail((LONGEST, LONGEST))
    return picture


def _masks(frame: Frame, seen: Seen, package: Package) -> Image.Image:
    picture = _small(frame.pixels)
    width, height = picture.size
    found = lesion_mask(seen.recognition, package.manifest.features.grid, height=height, width=width) > 0
    masks = [(found, FOUND)]
    if frame.truth is not None and frame.truth.mask is not None:
        true = Image.fromarray(frame.truth.mask).resize((width, height), Image.Resampling.NEAREST)
        masks.insert(0, (np.asarray(true), TRUE))
    pixels = np.array(picture)
    for mask, colour in masks:
        padded = np.pad(mask, 2)
        inside = padded[:-4, 2:-2] & padded[4:, 2:-2] & padded[2:-2, :-4] & padded[2:-2, 4:]
        pixels[mask & ~inside] = colour
    return Image.fromarray(pixels)


def _boxes(frame: Frame, seen: Seen, _package: Package) -> Image.Image:
    picture = _small(frame.pixels)
    pen = ImageDraw.Draw(picture)

    def draw(boxes: Sequence[Box], colour: tuple[int, int, int]) -> None:
        for box in boxes:
            x0, y0, x1, y1 = box.corners()
            w, h = picture.width - 1, picture.height - 1
            pen.rectangle((x0 * w, y0 * h, x1 * w, y1 * h), outline=colour, width=2)

    draw(seen.truth.boxes or (), TRUE)
    draw(seen.boxes(), FOUND)
    return picture


def _frame(frame: Frame, _seen: Seen, _package: Package) -> Image.Image:
    return _small(frame.pixels)


_DRAWN: Mapping[Task, Callable[[Frame, Seen, Package], Any]] = {
    Task.CLASSIFICATION: _frame,
    Task.DETECTION: _boxes,
    Task.MULTILABEL: _frame,
    Task.SEGMENTATION: _masks,
}
