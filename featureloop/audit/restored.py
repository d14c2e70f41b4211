"""Inversion of a restored map: rows are put back on the grid as the position attack does it, then drawn as a map is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from featureloop.audit.decoders import MapDecoder, decode, train_decoder
from featureloop.audit.material import Lab, Release
from featureloop.audit.position import restorer_of
from featureloop.audit.reconstructions import Case
from featureloop.audit.restoring import Restorer
from featureloop.core.types import Float32

SIDE = 16
"""Cells per side of the maps that are drawn from."""


def drawn_from_restored(lab: Lab, case: Case, *, steps: int, batch: int) -> Float32:
    """Pictures of the asked records, by a network that learned from the attacker's own, restored in the same way."""
    # The neighbours' say costs most of the time, and a network that has learned from misplaced rows forgives them.
    restorer = replace(restorer_of(lab), neighbours=0.0)
    known, asked = (_maps(lab, restorer, releases) for releases in (case.known, case.asked))
    network = train_decoder(
        lambda: MapDecoder(known.shape[1]),
        lambda _rng, at: known[at],
        case.known_pictures,
        steps=steps,
        batch=batch,
        seed=lab.seed,
        progress=lab.progress,
        what="decoder of restored maps",
    )
    return decode(network, [x[None] for x in asked])


def _maps(lab: Lab, restorer: Restorer, releases: Sequence[Release]) -> Tensor:
    """Restored maps (M, C, 16, 16), standardized; a cell where no row was put is 0."""
    out = []
    for i, r in enumerate(releases):
        rows = restorer.standard(r.values)
        cells = np.zeros((restorer.grid**2, rows.shape[1]), np.float32)
        cells[restorer.place(r.values)] = rows
        grid = torch.from_numpy(cells.T.reshape(1, -1, restorer.grid, restorer.grid).copy())
        out.append(torch.nn.functional.interpolate(grid, size=(SIDE, SIDE), mode="bilinear", align_corners=False))
        lab.progress("maps restored", i + 1, len(releases))
    return torch.cat(out)
