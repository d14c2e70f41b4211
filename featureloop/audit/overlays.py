"""Synthetic burned-in text: what patients' names, dates and numbers on a frame would look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from featureloop.core.types import Bool, Frame, UInt8

CORNERS = ("top left", "top right", "bottom left", "bottom right")
COLOURS = ("white", "yellow", "lime", "cyan")
NAMES = ("DOE JANE", "ROE RICHARD", "MUSTERMANN E", "NOVAK J", "ROSSI MARIA", "TANAKA Y", "SMITH A", "GARCIA L")
EDGE = 3
"""Pixels between text and the frame's edges."""
LEAST, MOST = 0.035, 0.06
"""Height of a line, as a share of the frame's side."""
NUMBER, LARGE, MARGIN = 4, 0.085, 0.04
"""Digits of the number at a known place, its height and its distance to the edges, as shares of the side."""


@dataclass(frozen=True, slots=True)
class Written:
    """A frame with text on it, and where: `corner` is a number of `CORNERS`."""

    frame: Frame
    corner: int


def write_lines(frame: Frame, rng: np.random.Generator) -> Written:
    """A name, a date and a number in a corner, in a size and a colour that are drawn."""
    size, corner = frame.pixels.shape[0], int(rng.integers(len(CORNERS)))
    lines = [
        str(rng.choice(NAMES)),
        f"{rng.integers(1930, 2020)}-{rng.integers(1, 13):02}-{rng.integers(1, 29):02}",
        f"ID {rng.integers(100_000, 999_999)}",
    ]
    text = "\n".join(lines[: int(rng.integers(1, 4))])
    height = max(7, round(size * rng.uniform(LEAST, MOST)))
    font, colour = ImageFont.load_default(height), str(rng.choice(COLOURS))
    picture = Image.fromarray(frame.pixels)
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font=font, spacing=2)
    x = size - EDGE - right if corner % 2 else EDGE - left
    y = size - EDGE - bottom if corner > 1 else EDGE - top
    draw.multiline_text((x, y), text, fill=colour, font=font, spacing=2)
    return Written(replace(frame, pixels=np.asarray(picture), truth=None), corner)


def write_number(frame: Frame, digits: Sequence[int]) -> Frame:
    """Digits at the place, in the size and the colour that a maker's devices always use."""
    size = frame.pixels.shape[0]
    picture, font = Image.fromarray(frame.pixels), ImageFont.load_default(max(8, round(LARGE * size)))
    at = (round(MARGIN * size), round(MARGIN * size))
    ImageDraw.Draw(picture).text(at, "".join(map(str, digits)), fill="white", font=font)
    return replace(frame, pixels=np.asarray(picture), truth=None)


def number_box(size: int) -> tuple[int, int]:
    """Height and width in pixels, from the top left, of the part of a frame in which the number stands."""
    side = max(8, round(LARGE * size))
    return round(2 * MARGIN * size) + side, round(2 * MARGIN * size) + round(0.75 * side * NUMBER)


def changed_cells(before: UInt8, after: UInt8, grid: int) -> Bool:
    """Which cells of a grid show text: bool (grid * grid,), from two pictures uint8 (S, S, 3)."""
    step = before.shape[0] // grid
    other = (before != after).any(axis=2)[: grid * step, : grid * step]
    return np.asarray(other.reshape(grid, step, grid, step).any(axis=(1, 3)).ravel())
