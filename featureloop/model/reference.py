"""How far a frame's features are from those of the founding frames: another modality, a blurred frame, the room.

Compared is what leaves, each channel by its deviation over the founding frames, in no order of the rows: quantized, but
for one vector that is told along directions. Of position vectors: every row is of one of K kinds, by the nearest mean;
the shares of a frame's rows of each kind are compared with those of a few usual frames by the Hellinger distance (the
visual words of Sivic & Zisserman 2003). Of one pooled vector: its mean distance. Everything kept is a mean over many
founding frames (`learner.references` makes it).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featureloop.core.types import Float32
from featureloop.model.manifest import Reference, ReleasedForm
from featureloop.model.pooling import turned

Float64 = NDArray[np.float64]


def compared(vectors: Float32, released: ReleasedForm) -> Float64:
    """What of a frame is compared, float64 (N, C): whole quantization steps from a channel's bound, within its bounds.

    Where one vector is told along directions, it is what the vector has along each, as it is: too few bits of it leave
    to tell how else a frame differs.
    """
    if released.directions:
        return turned(vectors, released.directions)
    low, high = np.array(released.low), np.array(released.high)
    top = np.array(released.levels) - 1.0
    return np.asarray(np.clip(np.rint((vectors - low) / (high - low) * top), 0.0, top), np.float64)


def shares_of(rows: Float64, kinds: Float64) -> Float64:
    """Shares of rows (N, C) whose nearest kind is each of (K, C); float64 (K,)."""
    nearest = ((kinds**2).sum(axis=1) - 2 * rows @ kinds.T).argmin(axis=1)
    return np.bincount(nearest, minlength=len(kinds)) / max(1, len(rows))


def outlying(vectors: Float32, reference: Reference, released: ReleasedForm) -> float:
    """How far a frame is from the nearest usual one, in [0, 1].

    Parameters
    ----------
    vectors
        float32 (N, C), what recognition works on (`sharing.anonymize.release_vectors`), in any order.
    """
    return apart(compared(vectors, released), reference)


def apart(values: Float64, reference: Reference) -> float:
    """The same of what of a frame is compared, float64 (N, C)."""
    scaled = values / np.array(reference.scale)
    usual = np.array(reference.usual)
    if not reference.kinds:
        far = float(np.sqrt(((scaled[0] - usual) ** 2).mean(axis=1).min()))
        return far / (1.0 + far)
    shares = shares_of(scaled, np.array(reference.kinds))
    overlap = np.sqrt(usual / usual.sum(axis=1, keepdims=True)) @ np.sqrt(shares)
    return float(np.sqrt(max(0.0, 1.0 - float(overlap.max()))))
