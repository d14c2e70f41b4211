"""Tables of boxes beside images: `annotations.json` in COCO form, or `boxes.csv`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from featureloop.core.boxes import Box, box_between
from featureloop.core.errors import InputError
from featureloop.images.sidecar import look_up, names_of, read_rows, read_text

ANNOTATIONS: Final = "annotations.json"
BOXES: Final = "boxes.csv"
LESION: Final = "lesion"
MOST_BOXES: Final = 1_000
"""Boxes of one image."""
_ROUNDING: Final = 0.01
"""Share of the image by which a box may stick out, as rounded drawings do; it is cut off there."""
_COLUMNS: Final = ("image", "x_center", "y_center", "width", "height")


@dataclass(frozen=True, slots=True)
class BoxTable:
    """The boxes of a folder's images.

    Attributes
    ----------
    classes
        Class names, by label.
    """

    classes: tuple[str, ...]
    _boxes: Mapping[str, tuple[Box, ...]]
    _faults: Mapping[str, str] = field(default_factory=dict)
    _unlisted: str | None = None

    def of(self, name: str) -> tuple[Box, ...]:
        """The boxes of an image by its name in the folder; none where the table doesn't name it.

        Raises
        ------
        InputError
            A box of the image is wrong, or the table must name every image and doesn't name this one.
        """
        if fault := look_up(self._faults, name):
            raise InputError(fault)
        boxes = look_up(self._boxes, name)
        if boxes is None and self._unlisted is not None:
            raise InputError(self._unlisted)
        return boxes or ()

    def check_names(self, images: Iterable[str]) -> None:
        """Refuse a table of which rows are for images that aren't there: theirs would count as showing no lesion.

        Raises
        ------
        InputError
            How many, and one of them. A table that must name every image may name others too.
        """
        if self._unlisted is not None:
            return
        there = {name for image in images for name in names_of(image)}
        if lost := [name for name in (*self._boxes, *self._faults) if name not in there]:
            raise InputError(
                f"{BOXES} has boxes of {len(lost)} images that aren't in the folder, {lost[0]!r} for one: name images "
                "by path, file name or stem, or take those lines out"
            )


def has_boxes(root: Path) -> bool:
    """Say whether a folder has a table of boxes."""
    return (root / ANNOTATIONS).is_file() or (root / BOXES).is_file()


def read_boxes(root: Path) -> BoxTable:
    """Read `annotations.json`, else `boxes.csv`.

    `annotations.json` is in COCO form and lists every image; one without
    annotations holds no lesion. `boxes.csv` has the columns image, x_center,
    y_center, width, height (shares of the image's sides) and, where there is
    more than one class, label; an image that it doesn't name holds no lesion.

    Raises
    ------
    InputError
        The table can't be read, or is malformed as a whole. What is wrong with
        one image's boxes is told when that image is asked for.
    """
    return _read_coco(root / ANNOTATIONS) if (root / ANNOTATIONS).is_file() else _read_csv(root / BOXES)


def _read_csv(path: Path) -> BoxTable:
    rows = list(read_rows(path, _COLUMNS))
    classes = tuple(sorted({row.get("label") or LESION for _, row in rows})) or (LESION,)
    boxes: dict[str, list[Box]] = {}
    faults: dict[str, str] = {}
    for line, row in rows:
        name = row["image"].replace("\\", "/")
        try:
            x, y, width, height = (float(row[column]) for column in _COLUMNS[1:])
            label = classes.index(row.get("label") or LESION)
            sides = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            boxes.setdefault(name, []).append(_checked(sides, label=label))
        except ValueError:
            faults[name] = f"{path.name}, line {line}: {row} holds no four numbers"
        except InputError as error:
            faults[name] = f"{path.name}, line {line}: {error}"
    return BoxTable(classes, {name: tuple(found) for name, found in boxes.items()}, faults)


def _read_coco(path: Path) -> BoxTable:
    try:
        data = json.loads(read_text(path))
        images = {image["id"]: image for image in data["images"]}
        categories = sorted(data["categories"], key=lambda c: c["id"])
        number = {category["id"]: i for i, category in enumerate(categories)}
        classes = tuple(str(category["name"]) for category in categories)
        boxes: dict[str, list[Box]] = {str(image["file_name"]): [] for image in images.values()}
        annotations = list(data["annotations"])
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path.name} is not valid JSON: {error}") from error
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path.name} is not in COCO form ({type(error).__name__}: {error}): "
            "it needs images, annotations and categories"
        ) from error
    if not classes:
        raise InputError(f"{path.name} has no categories: name at least one")
    faults: dict[str, str] = {}
    for annotation in annotations:
        if not isinstance(annotation, dict) or annotation.get("image_id") not in images:
            raise InputError(f"{path.name}: an annotation names no image of the file: {str(annotation)[:80]}")
        image = images[annotation["image_id"]]
        name = str(image["file_name"])
        try:
            boxes[name].append(_checked(_coco_sides(annotation, image), label=number[annotation["category_id"]]))
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            faults[name] = f"{path.name}: annotation {annotation.get('id')} is malformed ({error!r})"
        except InputError as error:
            faults[name] = f"{path.name}: annotation {annotation.get('id')}: {error}"
    unlisted = f"{path.name} doesn't list it: add it to the images, without annotations if it shows no lesion"
    return BoxTable(classes, {name: tuple(found) for name, found in boxes.items()}, faults, unlisted)


def _coco_sides(annotation: dict[str, Any], image: dict[str, Any]) -> tuple[float, float, float, float]:
    """Pixels (x, y, width, height) to shares of the image (left, top, right, bottom)."""
    x, y, width, height = (float(v) for v in annotation["bbox"])
    w, h = float(image["width"]), float(image["height"])
    return x / w, y / h, (x + width) / w, (y + height) / h


def _checked(sides: tuple[float, float, float, float], *, label: int) -> Box:
    left, top, right, bottom = sides
    if not all(math.isfinite(v) for v in sides) or left >= right or top >= bottom:
        raise InputError(f"a box from {left:.4g}, {top:.4g} to {right:.4g}, {bottom:.4g} has no area")
    if min(left, top) < -_ROUNDING or max(right, bottom) > 1 + _ROUNDING:
        raise InputError(
            f"a box from {left:.4g}, {top:.4g} to {right:.4g}, {bottom:.4g} reaches outside the image "
            "(shares of its sides, 0 to 1): correct it"
        )
    return box_between(left, top, right, bottom, label=label)
