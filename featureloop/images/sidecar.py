"""Which files of a folder are images, and the small tables beside them."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, TypeVar

from featureloop.core.errors import InputError
from featureloop.core.types import Skipped
from featureloop.images.guard import reading

IMAGES: Final = "images"
MASKS: Final = "masks"
LABELS: Final = "labels.csv"
ATTRIBUTES: Final = "attributes.csv"

SIDECARS: Final = frozenset({"groups.csv", "sequences.csv", "boxes.csv", LABELS, ATTRIBUTES, "annotations.json"})
"""Files that describe images, so are none themselves."""

_MAX_TABLE_BYTES: Final = 64 * 1024 * 1024
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Found:
    """A file inside a source.

    Attributes
    ----------
    path
        Where it is.
    name
        Its path relative to the source, with forward slashes; a single file's own name.
    """

    path: Path
    name: str


Groups = Callable[[str], str | None]
"""From a frame's name to its group; None where no table names it."""


def natural_key(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """A sort key by which 2 comes before 10, and upper case equals lower case."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return tuple((1, int(part), "") if i % 2 else (0, 0, part) for i, part in enumerate(parts)), name


def walk(root: Path) -> Iterator[Found | Skipped]:
    """The files of a folder, recursively, in natural order, found as they are asked for.

    Hidden files and folders and sidecars are left out; so is `masks` where
    `images` stands beside it. Links to folders are followed, once each.

    Yields
    ------
    Found
        A file.
    Skipped
        A folder that can't be listed.
    """
    return _walk(root, root, frozenset())


def is_segmentation(root: Path) -> bool:
    """Say whether a folder has `images` and `masks` inside."""
    return (root / IMAGES).is_dir() and (root / MASKS).is_dir()


def read_groups(root: Path) -> Groups | None:
    """Read `groups.csv` (image,group), else `sequences.csv` (frame,sequence).

    In `groups.csv` an image is named by its path relative to the folder, by
    its file name or by its stem. In `sequences.csv` frame n is the image whose
    stem is the number n, with or without leading zeros.

    Returns
    -------
    Groups | None
        None where the folder has neither file.

    Raises
    ------
    InputError
        The table can't be read, lacks a column, or puts one image into two groups.
    """
    if (root / "groups.csv").is_file():
        by_image = read_group_table(root / "groups.csv")
        return lambda name: look_up(by_image, name)
    if (root / "sequences.csv").is_file():
        table = _read_table(root / "sequences.csv", "frame", "sequence")
        by_number = {_number(frame): sequence for frame, sequence in table.items()}
        return lambda name: by_number.get(_number(PurePosixPath(name).stem))
    return None


def read_group_table(path: Path) -> dict[str, str]:
    """A table of the columns image and group, the image to the group (see `look_up`).

    Raises
    ------
    InputError
        It can't be read, lacks a column, or puts one image into two groups.
    """
    return _read_table(path, "image", "group")


def _walk(folder: Path, root: Path, above: frozenset[str]) -> Iterator[Found | Skipped]:
    try:
        real = os.path.realpath(folder)
        with reading("the folder"):
            names = sorted((entry.name for entry in folder.iterdir()), key=natural_key)
    except InputError as error:
        yield Skipped(folder.relative_to(root).as_posix(), str(error))
        return
    for name in names:
        path = folder / name
        if name.startswith(".") or (name == MASKS and is_segmentation(folder)):
            continue
        if path.is_dir():
            if os.path.realpath(path) not in above | {real}:
                yield from _walk(path, root, above | {real})
        elif name not in SIDECARS:
            yield Found(path, path.relative_to(root).as_posix())


def look_up(by_image: Mapping[str, Value], name: str) -> Value | None:
    """What a table says of an image: by its path relative to the folder or to `images`, its name, or its stem."""
    return next((by_image[key] for key in names_of(name) if key in by_image), None)


def names_of(name: str) -> tuple[str, ...]:
    """By what a table may name an image: its path relative to the folder or to `images`, its name, or its stem."""
    path = PurePosixPath(name)
    inside = PurePosixPath(*path.parts[1:]).as_posix() if path.parts[0] == IMAGES else name
    return name, inside, path.name, path.stem


def _number(text: str) -> str:
    return text.strip().lstrip("0") or "0"


def _read_table(path: Path, key: str, value: str) -> dict[str, str]:
    """Two columns of a table, the first to the second."""
    table: dict[str, str] = {}
    for line, row in read_rows(path, (key, value)):
        name, group = row[key].replace("\\", "/"), row[value]
        if not name or not group:
            raise InputError(f"{path.name}, line {line}: {key} or {value} is empty: fill in both")
        if table.setdefault(name, group) != group:
            raise InputError(f"{path.name}, line {line}: {name!r} is in {group!r} and in {table[name]!r}: keep one")
    return table


def read_labels(path: Path) -> tuple[tuple[str, ...], dict[str, tuple[bool, ...]]]:
    """Read `labels.csv`: the column image, and a column of 0 and 1 for every class.

    Returns
    -------
    classes, labels
        The classes' names in the columns' order, and of each image which of them it shows.

    Raises
    ------
    InputError
        It can't be read, has no class, holds anything but 0 and 1, or says two things of one image.
    """
    table: dict[str, tuple[bool, ...]] = {}
    classes: tuple[str, ...] = ()
    for line, row in read_rows(path, ("image",)):
        classes = tuple(name for name in row if name != "image")
        values = [row[name] for name in classes]
        if not classes or any(value not in {"0", "1"} for value in values):
            raise InputError(
                f"{path.name}, line {line}: {values} must be 0 or 1 for each of the classes {list(classes)}"
            )
        name, said = row["image"].replace("\\", "/"), tuple(value == "1" for value in values)
        if table.setdefault(name, said) != said:
            raise InputError(f"{path.name}, line {line}: {name!r} has other labels than in a line before: keep one")
    if not table:
        raise InputError(f"{path.name} names no image: give one line per image")
    return classes, table


def read_attributes(path: Path) -> dict[str, dict[str, str]]:
    """Read `attributes.csv`: the column image, and any further ones (sex, age, scanner); an empty value is unknown.

    Returns
    -------
    dict
        Of each image, by the name that the table gives it (`look_up`), the values that are known by column.

    Raises
    ------
    InputError
        It can't be read, has no further column, names no image, or says two things of one image.
    """
    table: dict[str, dict[str, str]] = {}
    for line, row in read_rows(path, ("image",)):
        name, said = row.pop("image").replace("\\", "/"), {k: v for k, v in row.items() if k and v}
        if not name:
            raise InputError(f"{path.name}, line {line}: image is empty: fill it in")
        if not any(row):
            raise InputError(f"{path.name} has no column but 'image': add one for each attribute, such as sex or age")
        if table.setdefault(name, said) != said:
            raise InputError(f"{path.name}, line {line}: {name!r} has other values than in a line before: keep one")
    if not table:
        raise InputError(f"{path.name} names no image: give one line per image")
    return table


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a CSV file in UTF-8, separated by commas, semicolons or tabs, with their numbers.

    Raises
    ------
    InputError
        It can't be read, is too large, or lacks one of `columns`; others may be there.
    """
    lines = read_text(path).splitlines()
    head = lines[0] if lines else ""
    rows = csv.DictReader(lines, delimiter=max(",;\t", key=head.count), skipinitialspace=True)
    found = [(column or "").strip() for column in rows.fieldnames or []]
    rows.fieldnames = found
    if any(column not in found for column in columns):
        wanted = " and ".join(repr(c) for c in columns)
        raise InputError(f"{path.name} has the columns {found}, not {wanted}: write them in line 1")
    for row in rows:
        yield (
            rows.line_num,
            {k: (v or "").strip() for k, v in row.items() if isinstance(k, str) and not isinstance(v, list)},
        )


def read_text(path: Path) -> str:
    """The text of a table in UTF-8, of bounded size.

    Raises
    ------
    InputError
        It can't be read, is too large, or in another encoding.
    """
    with reading(path.name):
        if path.stat().st_size > _MAX_TABLE_BYTES:
            raise InputError(f"{path.name} is larger than {_MAX_TABLE_BYTES} bytes: give one line per image")
        try:
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{path.name} is not in UTF-8 (at byte {error.start}): save it as CSV UTF-8") from error
