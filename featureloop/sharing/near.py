"""Near-duplicates: frames of one patient that say again what a frame provided before said.

A video shows the same place many times. What is compared is what leaves: how the values of each channel are distributed
over the frame, in quantization steps (which are made alike in what the recognition feels of them), and what was
recognized. Each record stays whole and readable by itself: a frame that is not sent costs nothing and
ties no records together, which prediction from the frame before would.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from featureloop.core.types import Float32, Recognition, Task, UInt8
from featureloop.model.manifest import ReleasedForm
from featureloop.sharing import codec

NEAR_DUPLICATES = 0.3
"""How near is too near, where a site says nothing else (`NearDuplicates`)."""
QUANTILES = 64
KEPT = 64
"""Frames of a group that a new one is compared with: the latest provided."""
GROUPS = 64
"""Groups that are remembered, the latest seen."""
LATEST = 4
"""Of every other group, so many of the latest frames are looked at to say how new a frame is."""
POSITIVE = 0.5
SAME_SCENE = 0.5
"""Frames nearer than this share of what is usual between groups show the same scene, though not from the same place."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What of a frame is compared.

    Attributes
    ----------
    values
        As `values_of` has them.
    found
        float32 (T,): of each thing recognized the share of rows that show it; of classes, 1 for the likeliest.
    """

    values: Float32
    found: Float32


def values_of(vectors: Float32, released: ReleasedForm) -> Float32:
    """Each channel's symbols at up to 64 quantiles over the frame, rising, float32 (Q, C); of one vector itself.

    Parameters
    ----------
    vectors
        float32 (N, C), what is released before noise and before some of them are chosen.

    Raises
    ------
    RecordError
        A value is not finite or outside its channel's bounds.
    """
    return quantiles(codec.quantize(vectors, released))


def quantiles(symbols: UInt8) -> Float32:
    """Each channel's values at up to 64 quantiles, rising: uint8 (N, C) in any order to float32 (Q, C)."""
    count = min(QUANTILES, len(symbols))
    at = ((np.arange(count) + 0.5) * len(symbols) / max(count, 1)).astype(np.intp)
    values: Float32 = np.sort(symbols, axis=0)[at].astype(np.float32)
    return values


def look_of(vectors: Float32, recognition: Recognition, released: ReleasedForm) -> Look:
    """What of a frame is compared; parameters and errors are those of `values_of`."""
    p = recognition.probabilities
    shown = p == p.max(axis=1, keepdims=True) if recognition.task is Task.CLASSIFICATION else p >= POSITIVE
    found: Float32 = shown.mean(axis=0, dtype=np.float32)
    if recognition.task is Task.SEGMENTATION:
        found = found.mean(keepdims=True)  # The sub-cells of a position show one and the same lesion.
    return Look(values_of(vectors, released), found)


def steps_apart(one: Float32, other: Float32) -> float:
    """Quantization steps from one frame's values to another's: sorted values' mean distance, summed over the channels.

    The mean distance of sorted values is the Wasserstein distance of order 1.
    """
    return float(np.abs(one - other).mean(axis=0).sum())


def usually_apart(values: Sequence[Float32], groups: Sequence[str]) -> float:
    """The median of `steps_apart` over frames of different groups; 0 where no two are."""
    pairs = [
        steps_apart(one, other)
        for (one, mine), (other, its) in combinations(zip(values, groups, strict=True), 2)
        if mine != its
    ]
    return float(np.median(pairs)) if pairs else 0.0


def same_scene(one: Float32, other: Float32, released: ReleasedForm) -> bool:
    """Whether vectors float32 (N, C) of two frames are of the same scene; errors are those of `values_of`."""
    apart = steps_apart(values_of(one, released), values_of(other, released))
    return apart < SAME_SCENE * released.usually_apart


class NearDuplicates:
    """Remembers in memory what was provided of each group, the latest of it.

    Parameters
    ----------
    share
        How near is too near, in [0, 1): a frame is a near-duplicate of another of its group where fewer steps are
        between them than this share of what is usual between groups, and everything recognized is shown by as many
        rows, up to this share of the larger number. 0: none is.
    usually
        `usually_apart` of the package; 0, as in packages that don't say it: none is.
    """

    def __init__(self, share: float, usually: float) -> None:
        self._share = share
        self._least = share * usually
        self._known: OrderedDict[Hashable, deque[tuple[Hashable, Look]]] = OrderedDict()

    def is_near(self, look: Look, group: Hashable) -> bool:
        """Whether a frame is a near-duplicate of one that was kept."""
        return any(self._alike(look, other) for _, other in self._known.get(group, ()))

    def nearest(self, look: Look, group: Hashable, *, but: Hashable = None) -> float | None:
        """Steps to the nearest frame that was kept, of its group or lately of another; None where there is none.

        Parameters
        ----------
        but
            The name of a frame that doesn't count: its own.
        """
        frames = (
            other
            for its, known in self._known.items()
            for name, other in (known if its == group else list(known)[-LATEST:])
            if but is None or name != but
        )
        return min((steps_apart(look.values, other.values) for other in frames), default=None)

    def keep(self, look: Look, group: Hashable, *, name: Hashable = None) -> None:
        """A frame was provided. Beyond the bounds a group's oldest frame, or the longest unseen group, is forgotten.

        Parameters
        ----------
        name
            Of the frame: one that was kept by its name already is not kept twice.
        """
        known = self._known.setdefault(group, deque(maxlen=KEPT))
        if name is None or all(other != name for other, _ in known):
            known.append((name, look))
        self._known.move_to_end(group)
        if len(self._known) > GROUPS:
            self._known.popitem(last=False)

    def _alike(self, one: Look, other: Look) -> bool:
        shown = np.abs(one.found - other.found) <= self._share * np.maximum(one.found, other.found)
        return bool(shown.all()) and steps_apart(one.values, other.values) < self._least
