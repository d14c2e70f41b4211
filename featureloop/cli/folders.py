"""Labelled folders on the command line: the options that name them, their sides, and what to say of them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from featureloop.cli.console import tell
from featureloop.core.errors import InputError
from featureloop.core.types import Skipped, Task
from featureloop.images.labelled import LabelledFolder
from featureloop.images.several import held_groups
from featureloop.images.truths import LabelledItem

Images = Annotated[
    Path, typer.Option("--images", help="A labelled folder: images + masks, boxes, or one folder a class.")
]
HoldOut = Annotated[float, typer.Option("--hold-out", min=0.0, max=0.9, help="Share of the groups to hold out.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the split and of every random choice.")]
FEW = 10
"""Groups of a class below which nothing can be promised of it."""


class Part(StrEnum):
    """Which side of the split."""

    ALL = "all"
    HELD_OUT = "held-out"
    REST = "rest"


def part_of(
    items: Sequence[LabelledItem],
    part: Part,
    *,
    hold_out: float,
    seed: int,
    among: Sequence[LabelledFolder] = (),
) -> Sequence[LabelledItem]:
    """The items on one side of the split by groups.

    Parameters
    ----------
    among
        Folders of several tasks: what the split of one of them holds out is held out of all.

    Raises
    ------
    InputError
        No item is on that side.
    """
    if part is Part.ALL:
        return items
    parts = [folder.items for folder in among]
    held = held_groups(parts or [items], hold_out=hold_out, seed=seed)
    found = tuple(item for item in items if (item.group in held) is (part is Part.HELD_OUT))
    if not found:
        groups = len({item.group for item in items})
        raise InputError(
            f"of {groups} groups a hold-out of {hold_out:g} leaves none on the side '{part}': give another --hold-out, "
            "or --part all"
        )
    return found


def tell_notes(folders: Sequence[LabelledFolder]) -> None:
    """Say what people should know of folders' labels, once."""
    for note in dict.fromkeys(note for folder in folders for note in folder.notes):
        tell(note)


def tell_skipped(skipped: Sequence[Skipped]) -> None:
    """Name what could not be read, and why."""
    for item in skipped[:20]:
        tell(f"skipped {item.name}: {item.reason}")
    if len(skipped) > 20:
        tell(f"... and {len(skipped) - 20} more")


def tell_rare(folder: LabelledFolder, items: Sequence[LabelledItem]) -> None:
    """Say which classes have too few groups to be learned and judged."""
    for label, name in enumerate(folder.classes):
        groups = len({item.group for item in items if item.label == label})
        if folder.task is Task.CLASSIFICATION and groups < FEW:
            tell(f"class '{name}' has {groups} groups to learn from: expect nothing of it, give at least {FEW}")
