"""Which of the victims' frames leave at all, where the site's policy holds near-duplicates back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from featureloop.audit.material import Party
from featureloop.core.ahead import work_ahead
from featureloop.core.ports import Progress, silent
from featureloop.core.types import Frame
from featureloop.model.package import Package
from featureloop.model.runtime import Runtime
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.near import Look, NearDuplicates, look_of


def provided(whole: Party, package: Package, *, near: float, progress: Progress = silent) -> Party:
    """The frames that a device provides of a party's, in their order: as `device.seen` holds others back.

    Parameters
    ----------
    package
        Of one task.
    near
        The policy's `near_duplicates`, in [0, 1); 0: all are provided.
    """
    released = package.manifest.released
    if not near or not released.usually_apart:
        return replace(whole, near_duplicates=near)
    runtime = Runtime(package, threads=1)

    def looked(frame: Frame) -> Look:
        vectors = release_vectors(runtime.extract(frame.pixels), released)
        return look_of(vectors, runtime.recognize(vectors), released)

    known, kept = NearDuplicates(near, released.usually_apart), []
    looks = work_ahead(whole.frames, looked, at_once=runtime.at_once, ahead=runtime.at_once)
    for i, look in enumerate(looks):
        if not known.is_near(look, whole.groups[i]):
            known.keep(look, whole.groups[i])
            kept.append(i)
        progress("near-duplicates", i + 1, len(whole))
    return replace(whole.only(np.array(kept)), near_duplicates=near)
