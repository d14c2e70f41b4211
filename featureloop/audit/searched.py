"""Pictures of a few records, searched for along the extractor's gradient: what leaves, and the positive control."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featureloop.audit.decoders import components, scale_of
from featureloop.audit.differentiable import Differentiable
from featureloop.audit.findings import Arm
from featureloop.audit.material import Lab, Party
from featureloop.audit.reconstructions import Case
from featureloop.audit.shallow import shallow_name
from featureloop.audit.whitebox import Components, Pixels, Search, invert, to_bag, to_map, to_vector
from featureloop.core.ahead import work_ahead
from featureloop.core.errors import PackageError
from featureloop.core.types import Float32
from featureloop.model.founding_features import pool_map

Searched = Mapping[Arm, tuple[Float32, NDArray[np.intp]]]
"""Pictures float32 (M, 3, 64, 64) and the numbers of their records, by what they were searched from."""


def searched_pictures(lab: Lab, case: Case, theirs: Party, starts: Float32, *, count: int, search: Search) -> Searched:
    """Search for at most `count` records, evenly over all; none for 0.

    Parameters
    ----------
    starts
        Where the search begins, of all records.

    Raises
    ------
    PackageError
        A record is of several frames, or the extractor has no gradient.
    """
    manifest = lab.package.manifest
    if not count:
        return {}
    if manifest.released.form.mix > 1:
        raise PackageError("records of several frames have no one image")
    at = np.linspace(0, len(case.asked) - 1, min(count, len(case.asked))).round().astype(int)
    whole = Differentiable(lab.package)
    preprocessing = replace(manifest.preprocessing, blank_border=False)
    spread, statistics = scale_of(case.known)[1], manifest.released.statistics
    basis = components(case.known_pictures)

    def drawn(i: int) -> Float32:
        values = case.asked[i].values
        if manifest.released.form.base == "pool":
            aim = to_vector(values[0], spread, lambda z: pool_map(z, statistics))
        else:
            aim = to_bag(values, spread, seed=lab.seed)
        return invert(whole, aim, Components(starts[i], basis), preprocessing, search=search)

    released = _each(lab, drawn, at.tolist(), "white-box search")
    found: dict[Arm, tuple[Float32, NDArray[np.intp]]] = {"release": (released, at)}
    name = shallow_name(lab.package)
    if name is None:
        return found
    first = Differentiable(lab.package, until=name)
    maps = lab.shallow([theirs.frames[case.asked[i].frames[0]] for i in at], what="control of the search")
    mean = case.known_pictures.mean(0)

    def shown(of: Float32) -> Float32:
        return invert(first, to_map(of), Pixels(mean), preprocessing, search=search)

    control = _each(lab, shown, list(maps), "white-box search of the control")
    return found | {"shallow": (control, at)}


def _each(lab: Lab, draw: Callable[[Any], Float32], of: Sequence[Any], what: str) -> Float32:
    """Pictures of all, float32 (M, 3, 64, 64): as many searches at once as torch has threads.

    Every search has one thread of its own, so what it finds doesn't depend on how many run.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        out = []
        for i, picture in enumerate(work_ahead(of, draw, at_once=threads, ahead=0)):
            out.append(picture)
            lab.progress(what, i + 1, len(of))
        return np.stack(out)
    finally:
        torch.set_num_threads(threads)
