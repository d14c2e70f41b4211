"""One frame of a scene: a camera looks at it, a lamp lights it, a recorder stores it.

Bump mapping: the folds, bumps and lesions are a height map; its normals are lit
by a lamp beside the lens (Lambert), and their highlights are Blinn's.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from featureloop.core.types import Bool, Float32, UInt8
from featureloop.images.phantom_look import FieldOfView, SiteLook
from featureloop.images.phantom_scene import Lesion, Scene, repeat_sample

_TURN: Final = np.float32(2 * np.pi)


@dataclass(frozen=True, slots=True)
class View:
    """Where the camera is, and how bright the lamp.

    Attributes
    ----------
    x, y
        Shift against the first position.
    roll
        Radians about the optical axis.
    advance
        Magnification about the lumen: above 1 further in.
    light
        Factor of the lamp's power.
    """

    x: float = 0.0
    y: float = 0.0
    roll: float = 0.0
    advance: float = 1.0
    light: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """A frame and what is in it.

    Attributes
    ----------
    pixels
        uint8 (H, W, 3).
    mask
        bool (H, W), the lesions within the visible field.
    kind
        Kind of the lesion that covers most pixels; 0 where none is visible.
    """

    pixels: UInt8
    mask: Bool
    kind: int


def render(scene: Scene, look: SiteLook, *, view: View, size: tuple[int, int], noise_seed: list[int]) -> Rendered:
    """Render one frame.

    Parameters
    ----------
    scene, look
        What is seen, and by whose equipment.
    view
        From where.
    size
        (H, W) in pixels.
    noise_seed
        Of the sensor's noise.
    """
    cam_x, cam_y = _camera_plane(size)
    field = _field(look, cam_x, cam_y)
    x, y = _scene_plane(scene, look, view, cam_x, cam_y)
    r = np.maximum(np.hypot(x, y), np.float32(1e-3))
    angle, depth = np.arctan2(y, x), -np.log(r)
    u, v = np.asarray(angle / _TURN, np.float32), np.asarray(depth / _TURN, np.float32)

    bumps = repeat_sample(scene.bumps, u * 512, v * 512)
    film = repeat_sample(scene.bumps, u * 256 + 97, v * 256 + 53)
    mottle = repeat_sample(scene.mottle, u * 256 + 31, v * 256)
    fold, behind = _folds(scene, look, angle, depth, mottle)
    height = r * (np.float32(0.17 * look.fold_depth) * fold + np.float32(0.003) * bumps + np.float32(0.008) * film)
    colour = _mucosa(scene, look, u, v, mottle)

    lesions: list[tuple[int, Bool]] = []
    for lesion in scene.lesions:
        inside, cover, rise = _shape(lesion, look, x, y, bumps)
        # A lesion hides the folds under it.
        height = height * (1 - 0.8 * cover) + rise
        behind = behind * (1 - cover) + cover
        target = np.asarray(look.lesion_colour, np.float32) * np.float32(lesion.shade)
        spots = np.clip(cover * np.float32(look.lesion_contrast) * (1 + 0.22 * bumps), 0, 1)[..., None]
        colour = colour * (1 - spots) + target * spots
        lesions.append((lesion.kind, np.asarray(inside & (field > 0.5))))

    light, highlight = _light(look, view, (cam_x, cam_y), (x, y), height=height, film=film)
    tube = np.clip(r * np.float32(view.advance / 0.62), 0, 1.15) ** np.float32(1.35)
    light = light * tube * behind
    # Light that reaches the deep parts has been reflected by red walls before.
    deep = np.clip(1 - tube, 0, 1)[..., None]
    colour = colour * (1 - deep * np.array([0.05, 0.35, 0.4], np.float32))
    linear = colour * light[..., None] * np.asarray(look.light_colour, np.float32)
    linear += (highlight * tube * tube)[..., None] + _bubbles(scene, x, y, light)[..., None]
    pixels = _record(linear, look, field, size, np.random.default_rng(noise_seed))
    mask, kind = _truth(lesions, size)
    return Rendered(pixels, mask, kind)


def _camera_plane(size: tuple[int, int]) -> tuple[Float32, Float32]:
    height, width = size
    half = min(size) / 2
    xs = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / half
    ys = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / half
    x, y = np.meshgrid(xs.astype(np.float32), ys.astype(np.float32))
    return x, y


def _scene_plane(scene: Scene, look: SiteLook, view: View, cam_x: Float32, cam_y: Float32) -> tuple[Float32, Float32]:
    """Where each pixel's ray meets the scene, after barrel distortion and the camera's motion."""
    bend = 1 + np.float32(look.distortion) * (cam_x * cam_x + cam_y * cam_y)
    x = cam_x * bend - np.float32(scene.lumen_x + view.x)
    y = cam_y * bend - np.float32(scene.lumen_y + view.y)
    cos, sin = np.float32(np.cos(view.roll) / view.advance), np.float32(np.sin(view.roll) / view.advance)
    return np.asarray(x * cos - y * sin), np.asarray(x * sin + y * cos)


def _field(look: SiteLook, x: Float32, y: Float32) -> Float32:
    """1 in the visible field, 0 outside, a pixel's transition between."""
    radius = np.float32(look.radius)
    if look.field_of_view is FieldOfView.OCTAGON:
        outside = np.maximum(np.maximum(abs(x), abs(y)) - radius, (abs(x) + abs(y)) - radius * np.float32(1.45))
    elif look.field_of_view is FieldOfView.CROPPED_CIRCLE:
        outside = np.maximum(np.hypot(x, y) - radius * np.float32(1.18), np.maximum(abs(x), abs(y)) - radius)
    else:
        outside = np.hypot(x, y) - radius
    pixel = np.float32(2 / min(x.shape))
    return np.asarray(np.clip(0.5 - outside / pixel, 0, 1), np.float32)


def _folds(scene: Scene, look: SiteLook, angle: Float32, depth: Float32, mottle: Float32) -> tuple[Float32, Float32]:
    """The folds' height in [0, 1], and how much light reaches behind them.

    Going deeper, the wall rises to a fold's crest and drops behind it into
    shade: a smoothed sawtooth over depth.
    """
    wave = sum(
        np.float32(a) * np.cos(np.float32(k + 1) * angle + np.float32(p))
        for k, (a, p) in enumerate(zip(scene.fold_waves, scene.fold_phases, strict=True))
    )
    phase = np.asarray(depth * np.float32(look.folds) + np.float32(2.2) * wave + np.float32(0.05) * mottle, np.float32)
    number = np.floor(phase)
    along = phase - number
    # Haustral folds don't go all the way round.
    strength = 0.6 + 0.4 * np.cos(angle * 2 + number * np.float32(1.9) + np.float32(scene.fold_phases[0]))
    crest = along * along * (1 - _smooth(along, 0.74, 1.0)) * np.float32(1.5)
    shade = np.float32(0.62 * min(look.fold_depth, 1.2)) * strength * np.exp(-along * np.float32(3.0))
    # Before its crest, a fold's own far side begins to turn away.
    shade = shade * _smooth(along, 0.0, 0.05) + np.float32(0.3) * strength * _smooth(along, 0.9, 1.0)
    return np.asarray(crest * strength, np.float32), np.asarray(1 - shade, np.float32)


def _mucosa(scene: Scene, look: SiteLook, u: Float32, v: Float32, mottle: Float32) -> Float32:
    mix = (1 / (1 + np.exp(-1.1 * mottle)))[..., None].astype(np.float32)
    colour = np.asarray(look.mucosa, np.float32) * (1 - mix) + np.asarray(look.blood, np.float32) * mix
    vessels = repeat_sample(scene.vessels, u * 512, v * 512) * np.float32(look.vessels)
    return np.asarray(colour * (1 - vessels[..., None] * np.array([0.30, 0.75, 0.62], np.float32)), np.float32)


def _shape(lesion: Lesion, look: SiteLook, x: Float32, y: Float32, bumps: Float32) -> tuple[Bool, Float32, Float32]:
    """A lesion's exact inside, its soft cover in [0, 1], and how far it rises."""
    cos, sin = np.float32(np.cos(lesion.turn)), np.float32(np.sin(lesion.turn))
    dx, dy = x - np.float32(lesion.x), y - np.float32(lesion.y)
    across = (dx * cos + dy * sin) / np.float32(lesion.half_axis)
    along = (dy * cos - dx * sin) / np.float32(lesion.half_axis * lesion.aspect)
    turn = np.arctan2(along, across)
    outline = 1 + sum(
        np.float32(a) * np.cos(np.float32(k + 2) * turn + np.float32(p))
        for k, (a, p) in enumerate(zip(lesion.waves, lesion.phases, strict=True))
    )
    distance = np.hypot(across, along) / outline + np.float32(0.05 * look.lesion_roughness) * bumps
    distance = np.asarray(np.maximum(distance, 0), np.float32)
    cover = 1 - _smooth(distance, 0.86, 1.06)
    if lesion.kind == 1:
        body = np.clip(1 - distance * distance, 0, 1) ** np.float32(0.85)
        rise = np.float32(look.lesion_height) * body * (1 + np.float32(0.05 * look.lesion_roughness) * bumps)
    else:
        body = 1 - _smooth(distance, 0.6, 1.05)
        rise = np.float32(look.lesion_height / 6) * body + np.float32(0.05 * look.lesion_roughness) * bumps * body
    return distance < 1, cover, np.asarray(rise * np.float32(lesion.half_axis), np.float32)


def _light(
    look: SiteLook,
    view: View,
    camera: tuple[Float32, Float32],
    plane: tuple[Float32, Float32],
    *,
    height: Float32,
    film: Float32,
) -> tuple[Float32, Float32]:
    """Diffuse light and highlights on the height map."""
    (cam_x, cam_y), (x, y) = camera, plane
    per_pixel = np.float32(min(height.shape) / 2 * 1.1)
    slope_y, slope_x = np.gradient(height * np.float32(view.advance))
    # The tube's wall faces its axis.
    r = np.hypot(x, y) + np.float32(0.15)
    nx, ny = -slope_x * per_pixel - 0.35 * x / r, -slope_y * per_pixel - 0.35 * y / r
    length = np.sqrt(nx * nx + ny * ny + 1)
    lx, ly, lz = np.float32(look.light_x) - cam_x, np.float32(look.light_y) - cam_y, np.float32(1.1)
    far = lx * lx + ly * ly
    to_lamp = np.sqrt(far + lz * lz)
    diffuse = np.clip((nx * lx + ny * ly + lz) / (length * to_lamp), 0, 1)
    rim = cam_x * cam_x + cam_y * cam_y
    fade = (1 / (1 + np.float32(look.falloff) * far)) * (1 - np.float32(look.vignetting) * np.clip(rim, 0, 1.6) * 0.6)
    light = (np.float32(0.10) + diffuse) * fade * np.float32(view.light)
    hx, hy, hz = lx / to_lamp, ly / to_lamp, lz / to_lamp + 1
    facing = (nx * hx + ny * hy + hz) / (length * np.sqrt(hx * hx + hy * hy + hz * hz))
    # Only where the film of mucus is thick does the surface mirror the lamp.
    wet = _smooth(film, 0.75, 1.5)
    highlight = np.float32(2.6 * look.specular) * _smooth(facing, 0.965, 0.990) * wet * fade
    return np.asarray(light, np.float32), np.asarray(highlight, np.float32)


def _bubbles(scene: Scene, x: Float32, y: Float32, light: Float32) -> Float32:
    """Thin bright rims with a glint each."""
    shine = np.zeros_like(light)
    for bx, by, radius in scene.bubbles:
        away = np.hypot(x - np.float32(bx), y - np.float32(by)) / np.float32(radius)
        glint = np.hypot(x - np.float32(bx - 0.4 * radius), y - np.float32(by - 0.4 * radius)) / np.float32(radius)
        shine += np.exp(-(((away - 0.9) / 0.16) ** 2)) * np.float32(0.28) - (away < 0.85) * np.float32(0.03)
        shine += np.exp(-((glint / 0.2) ** 2)) * np.float32(1.2)
    return np.asarray(shine * light, np.float32)


def _record(linear: Float32, look: SiteLook, field: Float32, size: tuple[int, int], rng: np.random.Generator) -> UInt8:
    """The camera's response, blur, noise, black surround, and the recorder's JPEG."""
    shown = (1 - np.exp(-np.float32(look.exposure) * np.maximum(linear, 0))) ** np.float32(1 / look.gamma)
    image = Image.fromarray(np.asarray(shown * 255 + 0.5, np.uint8))
    sharp = np.asarray(image.filter(ImageFilter.GaussianBlur(look.blur * min(size) / 1000)), np.float32)
    noisy = sharp + rng.standard_normal(sharp.shape, np.float32) * np.float32(look.noise)
    noisy += rng.standard_normal((*size, 1), np.float32) * np.float32(look.noise)
    framed = Image.fromarray(np.clip(noisy * field[..., None] + 0.5, 0, 255).astype(np.uint8))
    stored = io.BytesIO()
    framed.save(stored, "JPEG", quality=look.jpeg_quality)
    return np.array(Image.open(stored))


def _truth(lesions: list[tuple[int, Bool]], size: tuple[int, int]) -> tuple[Bool, int]:
    mask = np.zeros(size, np.bool_)
    largest, kind = 0, 0
    for lesion_kind, inside in lesions:
        mask |= inside
        area = int(inside.sum())
        if area > largest:
            largest, kind = area, lesion_kind
    return mask, kind


def _smooth(values: Float32, low: float, high: float) -> Float32:
    """Hermite step from 0 at `low` to 1 at `high`."""
    t = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)
