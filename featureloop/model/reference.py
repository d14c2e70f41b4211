"""How far a frame's features are from those of the founding frames: another modality, a blurred frame, the room.

Compared is what leaves, quantized, each channel by its deviation over the founding frames, in no order of the rows.
Of position vectors: every row is of one of K kinds, by the nearest mean; the shares of a frame's rows of each kind are
compared with those of a few usual frames by the Hellinger distance (the visual words of Sivic & Zisserman 2003). Of one
pooled vector: its mean distance. Everything kept is a mean over many founding frames (`learner.references` makes it).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featureloop.core.types import Float32
from featureloop.model.manifest import Reference, ReleasedForm

Float64 = NDArray[np.float64]


def steps_of(vectors: Float32, released: ReleasedForm) -> Float64:
    """Values in whole quantization steps from their channel's lower bound, float64 (N, C), within its bounds."""
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
    return steps_apart(steps_of(vectors, released), reference)


def steps_apart(steps: Float64, reference: Reference) -> float:
    """The same of a frame's values in quantization steps, float64 (N, C)."""
    scaled = steps / np.array(reference.scale)
    usual = np.array(reference.usual)
    if not reference.kinds:
        far = float(np.sqrt(((scaled[0] - usual) ** 2).mean(axis=1).min()))
        return far / (1.0 + far)
    shares = shares_of(scaled, np.array(reference.kinds))
    overlap = np.sqrt(usual / usual.sum(axis=1, keepdims=True)) @ np.sqrt(shares)
    return float(np.sqrt(max(0.0, 1.0 - float(overlap.max()))))
