"""Generated endoscopic frames with exact truth: for the demo, for tests, and to share freely.

Three kinds of pictures, by label (`KINDS`): without lesion, with a polyp, with
a flat lesion. Everything is a function of a `SiteLook` and a seed.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from featureloop.core.components import lesion_boxes
from featureloop.core.errors import InputError, StorageError
from featureloop.core.types import Frame, Truth
from featureloop.images.phantom_look import HOSPITAL_A, HOSPITAL_B, FieldOfView, SiteLook
from featureloop.images.phantom_render import Rendered, View, render
from featureloop.images.phantom_scene import KINDS, make_scene
from featureloop.images.sidecar import IMAGES, MASKS

__all__ = [
    "HOSPITAL_A",
    "HOSPITAL_B",
    "KINDS",
    "FieldOfView",
    "SiteLook",
    "phantom_frame",
    "phantom_set",
    "phantom_video",
    "write_phantom_folder",
]

SIZE: Final = (192, 192)
_SMALLEST: Final = 32
_FRAMES_PER_SECOND: Final = 25.0


def phantom_frame(look: SiteLook, *, seed: int, size: tuple[int, int] = SIZE) -> Frame:
    """Generate one frame.

    Parameters
    ----------
    look
        The site.
    seed
        The same look, seed and size give the same bytes.
    size
        (H, W) in pixels, at least 32 each.

    Returns
    -------
    Frame
        Named and grouped by the seed; `truth` holds the exact mask, the boxes
        of its connected parts, and the label (an index into `KINDS`).

    Raises
    ------
    InputError
        The size is too small.
    """
    return next(phantom_video(look, seed=seed, frames=1, size=size))


def phantom_video(look: SiteLook, *, seed: int, frames: int, size: tuple[int, int] = SIZE) -> Iterator[Frame]:
    """Generate a short, coherent sequence: one scene, a smooth camera motion and light.

    Its first frame is `phantom_frame` of the same look, seed and size.

    Parameters
    ----------
    look, seed, size
        As in `phantom_frame`.
    frames
        How many, at 25 a second.

    Yields
    ------
    Frame
        `index` from 0, group `seqSEED`.

    Raises
    ------
    InputError
        The size is too small.
    """
    if min(size) < _SMALLEST:
        raise InputError(f"a phantom of {size[0]} x {size[1]} pixels is too small: take at least {_SMALLEST} each")
    scene = make_scene(look, seed=seed)
    for index, view in enumerate(_path(seed, frames)):
        rendered = render(scene, look, view=view, size=size, noise_seed=[seed, index, 0x40])
        yield _frame(rendered, seed, index)


def phantom_set(
    look: SiteLook, *, seed: int, sequences: int, frames_each: int, size: tuple[int, int] = SIZE
) -> Iterator[Frame]:
    """Generate several sequences, one after the other; each is a group.

    Sets of different seeds share no sequence.

    Parameters
    ----------
    look, size
        As in `phantom_frame`.
    seed
        Of the whole set.
    sequences, frames_each
        How many sequences, and frames in each.
    """
    for number in range(sequences):
        yield from phantom_video(look, seed=_sequence_seed(seed, number), frames=frames_each, size=size)


def write_phantom_folder(
    folder: Path, look: SiteLook, *, seed: int, sequences: int, frames_each: int = 1, size: tuple[int, int] = SIZE
) -> int:
    """Write a set as a labelled folder: `images`, `masks` (same stem, PNG) and `groups.csv`.

    Parameters
    ----------
    folder
        Created where missing; files of the same names are replaced.
    look, seed, sequences, frames_each, size
        As in `phantom_set`.

    Returns
    -------
    int
        The number of frames written.

    Raises
    ------
    StorageError
        The folder can't be written.
    """
    try:
        for name in (IMAGES, MASKS):
            (folder / name).mkdir(parents=True, exist_ok=True)
        rows: list[tuple[str, str]] = []
        frames = phantom_set(look, seed=seed, sequences=sequences, frames_each=frames_each, size=size)
        for number, frame in enumerate(frames, start=1):
            name = f"{number:05d}.png"
            Image.fromarray(frame.pixels).save(folder / IMAGES / name, compress_level=3)
            if frame.truth is not None and frame.truth.mask is not None:
                Image.fromarray(frame.truth.mask.astype(np.uint8) * np.uint8(255)).save(folder / MASKS / name)
            rows.append((f"{IMAGES}/{name}", str(frame.group)))
        with (folder / "groups.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("image", "group"), *rows])
    except OSError as error:
        raise StorageError(f"{folder} can't be written ({error.strerror}): choose another folder") from error
    return len(rows)


def _frame(rendered: Rendered, seed: int, index: int) -> Frame:
    truth = Truth(mask=rendered.mask, label=rendered.kind, boxes=lesion_boxes(rendered.mask))
    return Frame(rendered.pixels, name=f"phantom-{seed}", index=index, group=f"seq{seed}", truth=truth)


def _path(seed: int, frames: int) -> Iterator[View]:
    """A hand-held camera: slow sways of a few seconds each, starting at the first view."""
    rng = np.random.default_rng([seed, 0x9A])
    rate = rng.uniform(0.15, 0.45, 5) * 2 * np.pi / _FRAMES_PER_SECOND
    phase = rng.uniform(0, 2 * np.pi, 5)
    reach = np.array([0.22, 0.18, 0.30, 0.20, 0.12]) * rng.uniform(0.5, 1, 5)
    for index in range(frames):
        x, y, roll, advance, light = (reach * (np.sin(rate * index + phase) - np.sin(phase))).tolist()
        yield View(x=x, y=y, roll=roll, advance=float(np.exp(advance)), light=1 + light)


def _sequence_seed(seed: int, number: int) -> int:
    """A seed of its own for every sequence of every set."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> np.uint64(16))
