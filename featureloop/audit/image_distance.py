"""How near a reconstruction is to its original: PSNR, SSIM, and a distance that sees structure before pixels."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from featureloop.core.intervals import Float64
from featureloop.core.types import Float32

if TYPE_CHECKING:
    from featureloop.model.backbones import RunEarly

SIDE = 64
"""Pixels per side of originals and reconstructions."""
PERCEPTUAL = "perceptual distance (EfficientNet-Lite0, stride 8)"


def psnr(found: Float32, true: Float32) -> Float64:
    """Peak signal-to-noise ratio of pictures float32 (M, 3, h, w) in [0, 1], in dB: float64 (M,)."""
    error = ((found.astype(np.float64) - true) ** 2).mean((1, 2, 3))
    return np.asarray(-10 * np.log10(np.maximum(error, 1e-10)))


def ssim(found: Float32, true: Float32) -> Float64:
    """Structural similarity (Wang et al. 2004) of pictures float32 (M, 3, h, w) in [0, 1], by MONAI: float64 (M,)."""
    import torch
    from monai.metrics import SSIMMetric

    metric = SSIMMetric(spatial_dims=2, data_range=1.0, win_size=7)
    return np.asarray(metric(torch.from_numpy(found), torch.from_numpy(true)).numpy().ravel(), np.float64)


@cache
def _first_layers() -> RunEarly:
    from featureloop.model.backbones import efficientnet_lite0

    return efficientnet_lite0().open_early(SIDE)


class Perceptual:
    """Distance between features of the first layers of EfficientNet-Lite0 with ImageNet weights, unit by position."""

    def __init__(self) -> None:
        self._run = _first_layers()

    def features(self, pictures: Float32) -> Float32:
        """Of pictures float32 (M, 3, 64, 64) in [0, 1]: float32 (M, C, h, w), of unit length at every position."""
        x = ((pictures * 255 - 127) / 128).astype(np.float32)
        found = np.concatenate([self._run(x[i : i + 32]) for i in range(0, len(x), 32)])
        return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6), np.float32)

    def __call__(self, found: Float32, true: Float32) -> Float64:
        """The mean squared distance over positions, float64 (M,), from 0 to 4."""
        return self.apart(found, self.features(true))

    def apart(self, found: Float32, true: Float32) -> Float64:
        """The same from pictures to the `features` of the true ones."""
        difference = (self.features(found) - true).astype(np.float64)
        return np.asarray((difference**2).sum(1).mean((1, 2)))
