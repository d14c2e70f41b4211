"""Text in single rows: the attacker knows where text is in its own maps, and learns what a row with text looks like."""

from __future__ import annotations

import warnings

import numpy as np

from featureloop.audit.material import Lab, Party
from featureloop.audit.overlays import changed_cells, write_lines
from featureloop.core.types import Float32

TOP = 5
"""Rows that look most like text, whose mean tells whether there is any."""
SAMPLED = 20_000
"""Rows with text, and without, that are learned from at most."""
HIDDEN, PASSES = 32, 25


class RowProbe:
    """How much a row looks like text.

    Parameters
    ----------
    mine
        The attacker's frames, without text.
    """

    def __init__(self, lab: Lab, mine: Party) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        grid = lab.package.manifest.features.grid
        written = [write_lines(f, np.random.default_rng((lab.seed, 44, i))).frame for i, f in enumerate(mine.frames)]
        maps = lab.ordered(written, what="rows with text")
        pairs = zip(mine.frames, written, strict=True)
        shown = np.concatenate([changed_cells(a.pixels, b.pixels, grid) for a, b in pairs])
        draw = np.random.default_rng((lab.seed, 45)).permutation
        at = np.concatenate([draw(np.flatnonzero(kind))[:SAMPLED] for kind in (shown, ~shown)])
        self._probe = make_pipeline(StandardScaler(), MLPClassifier((HIDDEN,), max_iter=PASSES, random_state=lab.seed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._probe.fit(maps.reshape(-1, maps.shape[2])[at], shown[at])

    def score(self, values: Float32) -> float:
        """The mean log-odds of the rows float32 (N, C) that look most like text."""
        chances = np.clip(self._probe.predict_proba(values)[:, 1], 1e-9, 1 - 1e-9)
        odds = np.sort(np.log(chances) - np.log1p(-chances))
        return float(odds[-TOP:].mean())
