"""Several results for one frame as one: what neighbouring frames, or the same frame seen otherwise, say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from featureloop.core.boxes import code_distances, decode_distances
from featureloop.core.types import Float32, Recognition
from featureloop.model.tasks.scores import expected_quality


def combined(found: Sequence[Recognition]) -> Recognition:
    """The mean of calibrated probabilities, row by row in the map's order.

    The mean of all is what a mixture of them would say: where they disagree it is near a half, so that its
    reliability is low. Detection: distances are means by the probabilities, so that who sees no box there has no say
    in where it ends.

    Parameters
    ----------
    found
        At least one; all of one task and with rows of the same positions.
    """
    every = np.array([r.probabilities for r in found], np.float64)
    probabilities: Float32 = every.mean(axis=0).astype(np.float32)
    sides = [r.distances for r in found if r.distances is not None]
    # A frame unlike those of founding stays so, whatever its neighbours are like.
    energies, outlying = [r.energy for r in found], [r.outlying for r in found if r.outlying is not None]
    one = Recognition(
        found[0].task,
        probabilities,
        energy=None if None in energies else float(np.mean(np.array(energies, np.float64))),
        outlying=max(outlying, default=None),
    )
    # The mean is what all say already: how far it can be trusted follows from its own probabilities.
    one = replace(one, agreement=expected_quality(one, one))
    if not sides:
        return one
    weights = every.max(axis=2, keepdims=True) + 1e-9
    mean = (decode_distances(np.array(sides)) * weights).sum(axis=0) / weights.sum(axis=0)
    return replace(one, distances=code_distances(mean).astype(np.float32))
