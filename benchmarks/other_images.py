"""Images unlike those that a package was founded on: other kinds, generated ones, and changed ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench_recognition import SEED
from PIL import Image, ImageFilter

from featureloop.core.types import Frame, Skipped, UInt8
from featureloop.images.phantom import HOSPITAL_A, HOSPITAL_B, phantom_frame
from featureloop.images.source import open_source


def strangers(data: Path) -> dict[str, Callable[[], Iterable[Frame | Skipped]]]:
    """Images of other kinds, by what they are."""
    return {
        "cholecystectomy": lambda: open_source(data / "video" / "cholecystectomy-720p-25fps.mp4"),
        "blood cells": lambda: open_source(data / "blood-cells" / "tecom"),
        "X-rays of the chest": lambda: xrays(data),
        "capsule endoscopy": lambda: open_source(data / "capsule-bleeding"),
        "colonoscopy": lambda: open_source(data / "polyps" / "kvasir-seg" / "images"),
        "DICOM files of many makers": lambda: open_source(data / "dicom" / "valid"),
        "photographs of a temple and a flower": photographs,
        "phantoms of hospital A": lambda: (phantom_frame(HOSPITAL_A, seed=i) for i in range(60)),
        "phantoms of hospital B": lambda: (phantom_frame(HOSPITAL_B, seed=i) for i in range(60)),
        "black, and one colour": plain,
        "noise": noise,
    }


def xrays(data: Path) -> Iterator[Frame]:
    for i, pixels in enumerate(np.load(data / "chest" / "pneumoniamnist.npz")["test_images"][:250]):
        yield Frame(np.repeat(pixels[..., None], 3, axis=2), f"x{i}")


def photographs() -> Iterator[Frame]:
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(SEED)
    for k, picture in enumerate(load_sample_images().images):
        for i in range(40):
            side = int(rng.integers(120, 400))
            y, x = (int(rng.integers(0, n - side)) for n in picture.shape[:2])
            yield Frame(np.ascontiguousarray(picture[y : y + side, x : x + side]), f"{k}-{i}", group=f"photo {k}")


def plain() -> Iterator[Frame]:
    rng = np.random.default_rng(SEED)
    for i in range(30):
        colour = rng.integers(0, 256, 3) if i >= 10 else np.full(3, i)
        yield Frame(np.full((200, 200, 3), colour, np.uint8), f"plain{i}")


def noise() -> Iterator[Frame]:
    rng = np.random.default_rng(SEED)
    for i in range(20):
        yield Frame(rng.integers(0, 256, (288, 384, 3)).astype(np.uint8), f"noise{i}")


def changed(frames: Iterable[Frame | Skipped], how: Callable[[UInt8], UInt8]) -> Iterator[Frame]:
    for frame in frames:
        if isinstance(frame, Frame):
            yield replace(frame, pixels=how(frame.pixels))


def blur(pixels: UInt8, share: float) -> UInt8:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(share * max(pixels.shape))))


def grey(pixels: UInt8) -> UInt8:
    return np.repeat(pixels.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
