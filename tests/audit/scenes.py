"""Frames for attacks: every patient has a scene of its own, and every frame of it is a little different."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from featureloop.audit.material import Lab, Party, party
from featureloop.core.types import Frame, Truth
from featureloop.testing import tiny_package

SIZE = 64


def scene(seed: int, *, detail: int = 8) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(0, 256, (detail, detail, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(drawn).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def frames_of(patients: range, *, each: int) -> list[Frame]:
    out = []
    for p in patients:
        picture = scene(p).astype(np.int16)
        for i in range(each):
            noise = np.random.default_rng((p, i)).normal(0, 6, picture.shape)
            pixels = np.clip(np.roll(picture, i, axis=1) + noise, 0, 255).astype(np.uint8)
            mask = pixels[..., 0] > 128
            out.append(Frame(pixels, f"{p}-{i}.png", group=f"p{p}", truth=Truth(mask=mask)))
    return out


def side(patients: range, *, each: int) -> Party:
    return party(frames_of(patients, each=each), size=SIZE)[0]


def lab_of(
    folder: Path,
    *,
    task: str = "segmentation",
    attacker: int = 10,
    victims: int = 8,
    each: int = 3,
    release: str = "",
) -> Lab:
    package = tiny_package(folder / "p", task=task, size=SIZE, release=release)
    own, theirs = side(range(attacker), each=each), side(range(100, 100 + victims), each=each)
    return Lab(package, own, theirs, seed=1)
