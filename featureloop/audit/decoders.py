"""Decoders: from what leaves, or from a control, to pictures; learned from the attacker's own images.

All give pictures float32 (M, 3, 64, 64) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featureloop.audit.image_distance import SIDE
from featureloop.audit.material import Release
from featureloop.core.ports import Progress
from featureloop.core.types import Float32

COMPONENTS, DESCRIBED = 96, 160
"""Principal components of pictures, and of descriptors, that the linear decoder works with."""
PENALTIES = (1.0, 10.0, 100.0, 1e3, 1e4)
BATCH, RATE = 24, 2e-3
FINER = 4
"""Pixels per side of a picture that one place of the last layer makes (sub-pixels)."""

Draw = Callable[[np.random.Generator, NDArray[np.intp]], Tensor]
"""What a network takes of the attacker's frames of these numbers."""


class LinearDecoder:
    """Ridge regression from descriptors to principal components of pictures (Hoerl & Kennard 1970).

    Descriptor and penalty are chosen on patients that were not learned from.

    Parameters
    ----------
    descriptors
        Of the attacker's records, float32 (M, D) by name.
    pictures
        Float32 (M, 3, 64, 64) in [0, 1].
    """

    def __init__(
        self, descriptors: Mapping[str, Float32], pictures: Float32, groups: NDArray[np.str_], *, seed: int
    ) -> None:
        names = np.unique(groups)
        kept = np.random.default_rng((seed, 51)).permutation(names)[: max(1, len(names) // 5)]
        held = np.isin(groups, kept)
        basis = components(pictures[~held])
        tried: dict[tuple[str, float], float] = {}
        for name, x in descriptors.items():
            ridge = _Ridge(x[~held], pictures[~held], basis)
            tried |= {(name, p): _error(ridge(x[held], p), pictures[held]) for p in PENALTIES}
        self.name, self._penalty = min(tried, key=lambda k: tried[k])
        self._ridge = _Ridge(descriptors[self.name], pictures, components(pictures))

    def __call__(self, descriptors: Mapping[str, Float32]) -> Float32:
        """Pictures of records with these descriptors."""
        return self._ridge(descriptors[self.name], self._penalty)


def components(pictures: Float32, count: int = COMPONENTS) -> tuple[Float32, Float32, Float32]:
    """Mean (D,), principal components (K, D) and their deviations (K,) of pictures, all float32, K at most `count`."""
    flat = pictures.reshape(len(pictures), -1)
    centre = flat.mean(0)
    _, singular, basis = np.linalg.svd(flat - centre, full_matrices=False)
    k = min(count, len(pictures) - 1)
    return centre, basis[:k].astype(np.float32), (singular[:k] / len(pictures) ** 0.5).astype(np.float32)


def _error(found: Float32, true: Float32) -> float:
    return float(((found - true) ** 2).mean())


class _Ridge:
    """From descriptors' principal components to pictures', by any penalty."""

    def __init__(self, x: Float32, pictures: Float32, basis: tuple[Float32, Float32, Float32]) -> None:
        self._mean, self._spread = x.mean(0), x.std(0) + 1e-6
        self._centre, self._basis, _ = basis
        standard = (x - self._mean) / self._spread
        self._reduce = np.linalg.svd(standard, full_matrices=False)[2][:DESCRIBED].T
        known, wanted = standard @ self._reduce, (pictures.reshape(len(pictures), -1) - self._centre) @ self._basis.T
        self._square, self._cross = known.T @ known, known.T @ wanted

    def __call__(self, x: Float32, penalty: float) -> Float32:
        weights = np.linalg.solve(self._square + penalty * np.eye(len(self._square)), self._cross)
        found = self._centre + ((x - self._mean) / self._spread) @ self._reduce @ weights @ self._basis
        return np.asarray(np.clip(found, 0, 1).reshape(-1, 3, SIDE, SIDE), np.float32)


class RowEncoder(nn.Module):
    """A bag of vectors (B, N, C), in any order: a network for each row, and what is common to all that it gives."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (B, N, W), and their mean, highest and deviation (B, 3 W)."""
        rows = self.each(x)
        spread = rows.std(1) if rows.shape[1] > 1 else torch.zeros_like(rows[:, 0])
        return rows, torch.cat([rows.mean(1), rows.amax(1), spread], dim=1)


class SetDecoder(nn.Module):
    """A bag of vectors (B, N, C) to pictures: a network for each row, what is common to all, and upsampling."""

    def __init__(self, channels: int, *, width: int = 128) -> None:
        super().__init__()
        self.rows = RowEncoder(channels, width)
        self.whole = nn.Sequential(nn.Linear(3 * width, 256), nn.ReLU(), nn.Dropout(0.1), nn.Linear(256, 64 * 16))
        self.grow = _grow(64)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, 64, 64), before they are cut to [0, 1]."""
        return self.from_common(self.rows(x)[1])

    def from_common(self, common: Tensor) -> Tensor:
        """The same from what is common to a bag's rows (B, 3 W)."""
        out: Tensor = self.grow(self.whole(common).reshape(-1, 64, 4, 4))
        return out


class MapDecoder(nn.Module):
    """An ordered map (B, C, 16, 16) to pictures."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels, 64, 3, padding=1), nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
            _grow(64, doublings=0),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, 64, 64), before they are cut to [0, 1]."""
        out: Tensor = self.net(x)
        return out


def _grow(channels: int, *, doublings: int = 2) -> nn.Sequential:
    """Twice as large so many times, and `FINER` times by sub-pixels, at a third of the work (Shi et al. 2016)."""
    layers: list[nn.Module] = []
    for _ in range(doublings):
        layers += [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(channels, 3 * FINER**2, 3, padding=1), nn.PixelShuffle(FINER))


def train_decoder(
    make: Callable[[], nn.Module],
    draw: Draw,
    pictures: Float32,
    *,
    steps: int,
    seed: int,
    progress: Progress,
    what: str,
    batch: int = BATCH,
) -> nn.Module:
    """A new network that has learned to draw pictures float32 (M, 3, 64, 64); their mean colour is where it starts."""
    torch.manual_seed(seed)
    network = make()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    rng = np.random.default_rng((seed, 52))
    true = torch.from_numpy(pictures)
    last = [m for m in network.modules() if isinstance(m, nn.Conv2d)][-1]
    nn.init.zeros_(last.weight)
    with torch.no_grad():
        if last.bias is not None:
            last.bias.copy_(true.mean((0, 2, 3)).repeat_interleave(FINER**2))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    network.train()
    for step in range(steps):
        at = rng.integers(0, len(pictures), min(batch, len(pictures)))
        loss = ((network(draw(rng, at)) - true[at]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress(what, step + 1, steps)
    return network.eval()


def decode(network: nn.Module, inputs: Sequence[Tensor]) -> Float32:
    """Pictures of inputs, each (1, ...)."""
    with torch.no_grad():
        found = [network(x).clamp(0, 1) for x in inputs]
    return torch.cat(found).numpy()


def bags(releases: Sequence[Release], mean: Float32, spread: Float32) -> list[Tensor]:
    """Records' vectors, standardized, each (1, N, C)."""
    return [torch.from_numpy(((r.values - mean) / spread).astype(np.float32))[None] for r in releases]


def scale_of(releases: Sequence[Release]) -> tuple[Float32, Float32]:
    """Mean and deviation of each channel over records' vectors, float32 (C,) each."""
    values = np.concatenate([r.values for r in releases])
    return values.mean(0), values.std(0) + np.float32(1e-3)
