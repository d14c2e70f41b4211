"""How coarse a package's steps are: the coarsest whose loss on the calibration frames is within a stated one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from featureloop.core.ports import Progress
from featureloop.core.types import Float32, Frame
from featureloop.learner.founding_records import package_rows
from featureloop.learner.pooled_tables import widened
from featureloop.model.manifest import ReleasedForm
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import rules_of
from featureloop.sharing import codec
from featureloop.sharing.anonymize import release_vectors

COARSER = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Steps that were tried.

    Attributes
    ----------
    form
        With the levels chosen, and tables as if all symbols were as frequent.
    coarser
        How many times wider the steps are than those of the trained neck.
    loss
        Mean quality (Dice, the share of right classes, F1) that recognition from decoded values loses against
        float32; below 0 it gains.
    """

    form: ReleasedForm
    coarser: float
    loss: float


def coarser_form(form: ReleasedForm, times: float) -> ReleasedForm:
    """The same with steps so many times wider: an odd number of levels, at least 3, where the middle is kept."""
    levels = tuple(min(n, 2 * max(1, round((n - 1) / 2 / times)) + 1) for n in form.levels)
    return replace(form, levels=levels, frequencies=codec.flat_tables(levels))


def operating_point(
    runtime: Runtime, held: Sequence[Frame], *, max_loss: float, progress: Progress, known: Float32 | None = None
) -> OperatingPoint:
    """The coarsest steps whose loss on held frames is at most `max_loss`, and of all finer ones tried, too.

    Where even the neck's own steps lose more, they are taken: there are none finer.

    Parameters
    ----------
    known
        Of a pooled form the founding frames' vectors, float32 (M, C): they say what a level stands for.
    """
    manifest = runtime.package.manifest
    rules, released = rules_of(manifest), manifest.released
    vectors = [release_vectors(runtime.extract(frame.pixels), released) for frame in held]
    truths = [package_rows(frame, manifest) for frame in held]

    def quality(values: Sequence[Float32]) -> float:
        return float(np.mean([rules.quality(runtime.recognize(v), t) for v, t in zip(values, truths, strict=True)]))

    whole = quality(vectors)

    def tried(number: int, times: float) -> OperatingPoint:
        if known is not None:
            form = widened(released, times, known)
        else:
            form = released if times == 1 else coarser_form(released, times)
        lost = whole - quality([codec.dequantize(codec.quantize(v, form), form) for v in vectors])
        progress("operating points", number + 1, len(COARSER))
        return OperatingPoint(form, times, lost)

    chosen = tried(0, COARSER[0])
    for i, times in enumerate(COARSER[1:], start=1):
        if chosen.loss > max_loss or (coarser := tried(i, times)).loss > max_loss:
            break
        chosen = coarser
    return chosen
