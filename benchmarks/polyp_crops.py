"""Colonoscopies for classes: a crop of each image that shows a polyp, or none, as the image's mask says.

Kvasir-SEG and CVC-ClinicDB have a polyp on every image, so their crops are all that classes have of colonoscopies
of two sites. A crop is a square of 0.4 of the shorter side, inside the field of view but for a twentieth. One that
shows a polyp is covered by it to a quarter, or holds three quarters of it; one that shows none holds no position of its
mask. Each image gives one crop at most, so that none is on two sides. The classes differ in more than polyps: those are
in the middle more often, and what a machine writes into a corner is more often in a crop without one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featureloop.core.types import Bool, Frame, Task, UInt8
from featureloop.images.labelled import LabelledFolder, open_labelled

CLASSES = ("mucosa", "polyp")
SIDE = 0.4
"""Of a crop, as a share of the image's shorter side."""
PLACES = 5
"""Along either axis, where a crop may be."""
COVERED, HELD = 0.25, 0.75
"""Shares of the crop, and of the polyp, one of which makes it a polyp's."""
DARK, MOST_DARK = 25, 0.05
"""The level below which a pixel is outside the field of view, and the most of a crop that may be."""
NONE_FIRST = 0.7
"""Of the images that could show none, so many are asked for that: then the classes are about as frequent."""


def polyp_crops(polyps: Path, site: str, folder: Path) -> LabelledFolder:
    """One crop of each image of a site, written to the folder where it is not there yet, with the images' groups."""
    if not (folder / "groups.csv").exists():
        rng, rows = np.random.default_rng(1), []
        whole = open_labelled(polyps / site, task=Task.SEGMENTATION)
        for frame in whole.frames(whole.items):
            if not isinstance(frame, Frame) or frame.truth is None or frame.truth.mask is None:
                continue
            found = crop_of(frame.pixels, frame.truth.mask > 0, rng)
            if found is None:
                continue
            label, pixels = found
            place = folder / CLASSES[label] / f"{Path(frame.name).stem}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place)
            rows.append((place.name, frame.group or frame.name))
        with (folder / "groups.csv").open("w", newline="") as sink:
            csv.writer(sink).writerows([("image", "group"), *rows])
    return open_labelled(folder)


def crop_of(pixels: UInt8, mask: Bool, rng: np.random.Generator) -> tuple[int, UInt8] | None:
    """The number of its name, and the pixels uint8 (S, S, 3) of a crop; None where none can be told."""
    places: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
    side = int(SIDE * min(mask.shape))
    for y, x in corners(mask.shape, side):
        own = mask[y : y + side, x : x + side]
        if (pixels[y : y + side, x : x + side].max(2) < DARK).mean() > MOST_DARK:
            continue
        if not own.any():
            places[0].append((y, x))
        elif own.mean() >= COVERED or own.sum() >= HELD * mask.sum():
            places[1].append((y, x))
    label = 0 if rng.random() < NONE_FIRST else 1
    label = label if places[label] else 1 - label
    if not places[label]:
        return None
    y, x = places[label][rng.integers(len(places[label]))]
    return label, pixels[y : y + side, x : x + side]


def corners(shape: tuple[int, ...], side: int) -> Iterator[tuple[int, int]]:
    """Of all crops that are looked at."""
    places: list[NDArray[np.intp]] = [np.linspace(0, edge - side, PLACES).round().astype(int) for edge in shape]
    for y in places[0].tolist():
        for x in places[1].tolist():
            yield y, x
