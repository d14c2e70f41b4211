"""A generated piece of bowel: textures, folds, vessels and lesions, before any camera.

A scene lies in the plane around the lumen's centre: r is the distance from it,
and `-log(r)` the depth into the tube, so that textures on (angle, depth) shrink
towards the lumen as in perspective.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from featureloop.core.types import Float32
from featureloop.images.phantom_look import SiteLook

KINDS: Final = ("none", "polyp", "flat")
"""The phantoms' class names, by label."""

_TILE: Final = 256
_VESSEL_TILE: Final = 512


@dataclass(frozen=True, slots=True, eq=False)
class Lesion:
    """One lesion, in the scene's plane.

    Attributes
    ----------
    kind
        Index into `KINDS`: 1 rises steeply, 2 is a rough plateau.
    x, y, half_axis, aspect, turn
        Its ellipse: centre, longer half axis, ratio of the axes, angle in radians.
    waves, phases
        Amplitudes and phases of the outline's harmonics 2, 3, 4 and 5.
    shade
        Brightness of its colour against the site's usual one.
    """

    kind: int
    x: float
    y: float
    half_axis: float
    aspect: float
    turn: float
    waves: tuple[float, ...]
    phases: tuple[float, ...]
    shade: float


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What a camera can look at.

    Attributes
    ----------
    mottle, bumps
        float32 (256, 256), coarse and fine noise of unit variance; both repeat.
    vessels
        float32 (512, 512) in [0, 1]; repeats.
    lumen_x, lumen_y
        Where the lumen is seen from the camera's first position.
    fold_waves, fold_phases
        The folds' deviation from circles: harmonics 1, 2 and 3 of the angle.
    lesions
        The lesions, empty in some scenes.
    bubbles
        (x, y, radius) of each.
    """

    mottle: Float32
    bumps: Float32
    vessels: Float32
    lumen_x: float
    lumen_y: float
    fold_waves: tuple[float, ...]
    fold_phases: tuple[float, ...]
    lesions: tuple[Lesion, ...]
    bubbles: tuple[tuple[float, float, float], ...]


def make_scene(look: SiteLook, *, seed: int) -> Scene:
    """Draw a scene of a site; the same look and seed give the same scene."""
    rng = np.random.default_rng([seed, 0x5C])
    distance, direction = float(rng.uniform(0.05, 1.15)), float(rng.uniform(0, 2 * np.pi))
    lumen = (distance * np.cos(direction), distance * np.sin(direction))
    empty = rng.random() < look.empty_share
    lesions = () if empty else _lesions(look, rng, lumen)
    return Scene(
        mottle=_noise(rng, slope=1.8, low=2),
        bumps=_noise(rng, slope=1.25, low=5),
        vessels=_vessels(rng),
        lumen_x=float(lumen[0]),
        lumen_y=float(lumen[1]),
        fold_waves=tuple(float(rng.uniform(0.1, 1) * a) for a in (0.25, 0.16, 0.22)),
        fold_phases=tuple(rng.uniform(0, 2 * np.pi, 3).tolist()),
        lesions=lesions,
        bubbles=tuple(_bubble(rng, lumen) for _ in range(int(rng.integers(0, look.bubbles + 1)))),
    )


def repeat_sample(tile: Float32, u: Float32, v: Float32) -> Float32:
    """Read a repeating square tile between its pixels, bilinearly.

    Parameters
    ----------
    tile
        float32 (S, S), S a power of two.
    u, v
        Column and row in pixels, any shape, any sign.
    """
    side = tile.shape[0]
    column, row = np.floor(u), np.floor(v)
    across, down = u - column, v - row
    i, j = column.astype(np.int32) & (side - 1), row.astype(np.int32) & (side - 1)
    flat, next_i, here, below = tile.ravel(), (i + 1) & (side - 1), j * side, ((j + 1) & (side - 1)) * side
    upper = flat[here + i] * (1 - across) + flat[here + next_i] * across
    lower = flat[below + i] * (1 - across) + flat[below + next_i] * across
    return np.asarray(upper * (1 - down) + lower * down, np.float32)


def _noise(rng: np.random.Generator, *, slope: float, low: float) -> Float32:
    """Noise of many octaves with the spectrum `frequency ** -slope` above `low` periods a tile."""
    fy = np.fft.fftfreq(_TILE, 1 / _TILE).astype(np.float32)[:, None]
    fx = np.fft.rfftfreq(_TILE, 1 / _TILE).astype(np.float32)[None]
    frequency = np.sqrt(fx * fx + fy * fy)
    weight = (frequency + low) ** -slope * (frequency > 0)
    spectrum = np.fft.rfft2(rng.standard_normal((_TILE, _TILE), np.float32)) * weight
    noise = np.fft.irfft2(spectrum, s=(_TILE, _TILE))
    return np.asarray(noise / noise.std(), np.float32)


def _vessels(rng: np.random.Generator) -> Float32:
    """Branching trees drawn on a repeating tile, thinner with every branching."""
    side = _VESSEL_TILE
    image = Image.new("L", (2 * side, 2 * side))
    draw = ImageDraw.Draw(image)
    # (x, y, heading, width, steps left)
    tips = [(*rng.uniform(0, side, 2), rng.uniform(0, 2 * np.pi), rng.uniform(1.6, 3.4), 14) for _ in range(14)]
    while tips:
        x, y, heading, width, steps = tips.pop()
        bends = rng.normal(0, 0.28, steps)
        points = [(x, y)]
        for step, bend in enumerate(bends):
            heading += bend
            x, y = x + 9 * np.cos(heading), y + 9 * np.sin(heading)
            points.append((x, y))
            if width > 1.2 and step % 4 == 3:
                turn = rng.choice((-1.0, 1.0)) * rng.uniform(0.5, 1.0)
                tips.append((x, y, heading + turn, width * 0.62, max(4, steps - 6)))
        level = int(min(255, 90 + 42 * width))
        draw.line([(px + side / 2, py + side / 2) for px, py in points], fill=level, width=max(1, round(width)))
    # What was drawn beyond a border comes in at the opposite one.
    folded = np.asarray(image).reshape(2, side, 2, side).max(axis=(0, 2))
    soft = Image.fromarray(folded).filter(ImageFilter.BoxBlur(1))
    return np.asarray(soft, np.float32) / np.float32(255)


def _lesions(look: SiteLook, rng: np.random.Generator, lumen: tuple[float, float]) -> tuple[Lesion, ...]:
    """One lesion, in a fifth of the scenes two that lie apart."""
    first, second = _lesion(look, rng, lumen), _lesion(look, rng, lumen)
    apart = np.hypot(first.x - second.x, first.y - second.y) > 1.3 * (first.half_axis + second.half_axis)
    return (first, second) if apart and rng.random() < 0.28 else (first,)


def _lesion(look: SiteLook, rng: np.random.Generator, lumen: tuple[float, float]) -> Lesion:
    """Place a lesion inside the first view, outside the dark of the lumen."""
    x = y = 0.0
    for _ in range(20):
        reach, angle = 0.62 * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        x, y = reach * np.cos(angle) - lumen[0], reach * np.sin(angle) - lumen[1]
        if np.hypot(x, y) > 0.5:
            break
    near = min(1.0, 0.55 + 0.5 * float(np.hypot(x, y)))
    return Lesion(
        kind=2 if rng.random() < look.flat_share else 1,
        x=float(x),
        y=float(y),
        half_axis=float(rng.uniform(*look.lesion_size)) * near,
        aspect=float(rng.uniform(0.62, 1.0)),
        turn=float(rng.uniform(0, np.pi)),
        waves=tuple((rng.uniform(-1, 1, 4) * look.lesion_roughness * np.array([0.25, 0.2, 0.15, 0.1])).tolist()),
        phases=tuple(rng.uniform(0, 2 * np.pi, 4).tolist()),
        shade=float(rng.uniform(0.88, 1.1)),
    )


def _bubble(rng: np.random.Generator, lumen: tuple[float, float]) -> tuple[float, float, float]:
    x, y = rng.uniform(-0.85, 0.85, 2)
    return float(x - lumen[0]), float(y - lumen[1]), float(rng.uniform(0.018, 0.06))
