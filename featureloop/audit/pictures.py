"""Pictures of what attacks found."""

from __future__ import annotations

import numpy as np

from featureloop.audit.retrieval import Search
from featureloop.core.types import Float32
from featureloop.model.charts import ACCENT, SOFT, Chart, drawn, new_axes

BINS = 60


def similarity_chart(similarity: Float32, search: Search, *, by: str) -> Chart:
    """How alike records of one patient are, and records of two: the further apart, the more is linked."""
    figure, axes = new_axes(f"similarity ({by})", "share of the pairs", width=5.0, height=3.0)
    pairs = similarity[search.mates], similarity[search.allowed & ~search.mates]
    least, most = (float(np.quantile(similarity[search.allowed], q)) for q in (0.0005, 1.0))
    edges = np.linspace(least, most, BINS)
    for values, colour, name in zip(pairs, (ACCENT, SOFT), ("one patient", "two patients"), strict=True):
        weights = np.full(len(values), 1 / max(1, len(values)))
        axes.hist(values, edges, weights=weights, color=colour, alpha=0.65, label=name)
    axes.legend(frameon=False)
    return drawn(figure, "Similarity of two records of one patient, and of two patients' records")
