"""From the JSON of a manifest to its values, and what of it can't be right."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from itertools import pairwise
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import numpy as np

from featureloop.core.errors import InputError, PackageError
from featureloop.core.types import Task
from featureloop.model.forms import POOL, SET
from featureloop.model.pooling import check_pooling
from featureloop.model.score_words import COMBINED, SCORES

if TYPE_CHECKING:
    from featureloop.model.manifest import (
        BagTables,
        Calibration,
        Manifest,
        OrderTables,
        PooledTables,
        Reference,
        ReleasedForm,
    )

MOST_MEANS, MOST_STEPS = 64, 1024.0
"""Of a reference: its kinds or usual frames, and its numbers' size."""
MOST_BALLS, MOST_WEIGHT, MOST_NEIGHBOUR = 4096, 1 << 24, 1 << 20
"""Of an urn's parameters, of the weights in a set's score, and of a neighbour's."""
MOST_USUAL = 1 << 20
"""Bytes that a usual payload may have."""
MOST_DIRECTION, MOST_CONDITION = 1e12, 1e8
"""Of a pooled vector's directions: their numbers' size, and as much as float64 undoes far below a step."""
CONTEXTS, ORDER_TOTAL = 10, 1 << 16
"""Tables of a channel that keeps an order, and what each sums to (`sharing.ordered`)."""


def build(kind: Any, value: Any) -> Any:  # noqa: C901, PLR0911  One branch for each kind of type.
    """Build a value of a declared type from JSON, refusing what doesn't fit."""
    if isinstance(kind, type) and is_dataclass(kind):
        if not isinstance(value, dict):
            raise TypeError(f"{kind.__name__} must be an object, not {value!r:.40}")
        hints = get_type_hints(kind)
        if unknown := set(value) - {f.name for f in fields(kind)}:
            raise TypeError(f"{kind.__name__} has unknown fields {sorted(unknown)}")
        return kind(**{k: build(hints[k], v) for k, v in value.items()})
    origin, args = get_origin(kind), get_args(kind)
    if origin is tuple:
        if not isinstance(value, list):
            raise TypeError(f"expected a list, not {value!r:.40}")
        return tuple(build(args[0], v) for v in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise TypeError(f"expected an object, not {value!r:.40}")
        return {str(k): build(args[1], v) for k, v in value.items()}
    if origin is UnionType:
        return None if value is None else build(args[0], value)
    if kind is Any:
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"a number is {value}")
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"expected {kind.__name__}, not {value!r:.40}")
    return value


def check(manifest: Manifest) -> None:
    """Refuse what can't be right.

    Raises
    ------
    PackageError
        Which part, and why.
    """
    names = [manifest.task, *(head.task for head in manifest.heads)]
    for name in names:
        if name not in tuple(Task):
            raise PackageError(f"the task '{name}' is unknown; known are {', '.join(Task)}")
        if names.count(name) > 1:
            raise PackageError(f"the package has the task '{name}' more than once")
    for task in manifest.tasks:
        _check_networks(manifest.for_task(task))
        _check_form(manifest.for_task(task))
    _check_one_quantization(manifest)
    for task in manifest.tasks:
        view = manifest.for_task(task)
        _check_released(view.released)
        _check_pooling(view)
        if view.released.bag is not None:
            _check_bag(view.released, view.released.bag)
        if view.released.ordered is not None:
            _check_ordered(view.released, view.released.ordered)
        if view.released.pooled is not None:
            _check_pooled(view.released, view.released.pooled)
        _check_calibration(view.calibration, task)
        if view.calibration.reference is not None:
            _check_reference(view.calibration.reference, view.released)


def _check_one_quantization(manifest: Manifest) -> None:
    """The vectors of one map leave in one form: a further task must not make them finer."""
    released = [manifest.released, *(head.released for head in manifest.heads)]
    forms = [form for form in released if form.form.base != POOL]
    if len({(form.low, form.high, form.levels) for form in forms}) > 1:
        raise PackageError("its tasks release the same vectors with different bounds or quantization levels")


def _check_form(manifest: Manifest) -> None:
    released, spec = manifest.released, manifest.recognizer
    try:
        form = released.form
        form.check_grid(manifest.features.grid)
        form.check_rows(own=spec.form == "set")
    except InputError as error:
        raise PackageError(f"the released form can't be made: {error}") from error
    if form.noise and not form.clip:
        raise PackageError(
            f"the released form '{form}' adds noise and doesn't say the norm that vectors are clipped to"
        )
    if form.quantize and max(released.levels, default=2) > form.quantize:
        raise PackageError(f"the released form '{form}' has channels of up to {max(released.levels)} levels")
    if spec.context and spec.form == "set" and not form.context:
        raise PackageError(
            f"its recognizer sees what a frame's rows say together, and the released form '{form}' doesn't leave them"
        )


def _check_networks(manifest: Manifest) -> None:
    grid, spec, input_ = manifest.features, manifest.recognizer, manifest.preprocessing
    if not 1 <= grid.grid <= 256 or not 1 <= grid.channels <= 4096 or not 16 <= input_.size <= 4096:
        raise PackageError(f"the feature spec {grid} is out of range")
    if (
        not 1 <= spec.width <= 65_536
        or not 0 <= spec.blocks <= 1_024
        or not 1 <= spec.outputs <= 4_096
        or not 0 <= spec.heads <= 64
    ):
        raise PackageError(f"the recognizer's spec {spec} is out of range")
    if input_.scale <= 0:
        raise PackageError(f"the preprocessing divides by {input_.scale}; its scale must be positive")


def _check_released(released: ReleasedForm) -> None:
    per_channel = (released.low, released.high, released.levels, released.frequencies)
    if any(len(x) != released.channels for x in per_channel):
        raise PackageError(f"the released form doesn't describe each of its {released.channels} channels")
    if any(not 2 <= n <= 256 or len(f) != n for n, f in zip(released.levels, released.frequencies, strict=True)):
        raise PackageError("a channel's frequency table doesn't fit its quantization levels (2 to 256)")
    if len(released.target_frequencies) != 3:
        raise PackageError("the frequency table of the row kinds must have 3 entries: all 0, all 1, mixed")
    if len(released.coded_frequencies) not in (0, 256):
        raise PackageError("the frequency table of the rows' coded values must have 256 entries, or none")
    tables = (*released.frequencies, released.target_frequencies, released.coded_frequencies)
    if any(f and (sum(f) != 4096 or min(f) < 1) for f in tables):
        raise PackageError("a frequency table doesn't sum to 4096 with every entry positive")
    if not 0 <= released.usually_apart < math.inf:
        raise PackageError(f"frames of different groups can't be {released.usually_apart} steps apart")
    if any(not low < high for low, high in zip(released.low, released.high, strict=True)):
        raise PackageError("a channel's lower bound is not below its upper one")


def _check_bag(released: ReleasedForm, bag: BagTables) -> None:
    balls = [[len(urn) for urn in channel] for channel in bag.urns]
    one_each = [[2] * (n - 1) for n in released.levels]
    kinds = (*bag.kinds, *bag.changed_kinds)
    flags = [(t, size) for part, size in ((bag.flags, 16), (bag.changed_flags, 32)) for t in part]
    rising = all(a <= b for a, b in pairwise(bag.thresholds)) and len(bag.kinds) == len(bag.thresholds) + 1
    fits = {
        f"the form '{released.form}' has tables of position vectors": released.form.base != POOL,
        f"the form '{released.form}' keeps an order and has no tables of it": released.form.base == SET
        or released.ordered is not None,
        "the urns don't fit the channels' levels: two parameters for every split of a channel": balls == one_each,
        f"an urn's parameters are whole numbers from 1 to {MOST_BALLS}": all(
            1 <= b <= MOST_BALLS for channel in bag.urns for urn in channel for b in urn
        ),
        f"a set's score needs a weight of at most {MOST_WEIGHT} for each channel": len(bag.weights) == released.channels
        and all(abs(w) <= MOST_WEIGHT for w in bag.weights),
        "the bounds of a set's scores must rise, one fewer than there are classes of scores": rising,
        "a table of row kinds has 3 entries: all 0, all 1, mixed": {len(t) for t in kinds} == {3},
        "a frequency table doesn't sum to 4096 with every entry positive": len(bag.changed_kinds) == 3
        and all(sum(t) == 4096 and min(t) > 0 for t in kinds),
        "a flag's tables have 16 neighbourhoods, and 32 with what was recognized, each from 1 to 4095": all(
            len(t) == size and 1 <= min(t) <= max(t) < 4096 for t, size in flags
        ),
        "the usual sizes of features and of rows are two, whole words from 16 bytes to 1 MiB": len(bag.usual) == 2
        and all(16 <= size <= MOST_USUAL and size % 4 == 0 for size in bag.usual),
        "there must be tables for every flag of a row of targets": len(bag.flags) == len(bag.changed_flags)
        and released.flags in (None, len(bag.flags)),
    }
    for text, so in fits.items():
        if not so:
            raise PackageError(text)


def _check_directions(released: ReleasedForm) -> None:
    if not released.directions:
        return
    if released.form.base != POOL or released.form.noise:
        raise PackageError(f"the form '{released.form}' has directions of one pooled vector without noise")
    if any(len(d) != released.channels for d in (released.directions, *released.directions)):
        raise PackageError(f"a vector of {released.channels} channels has as many directions, each of as many values")
    made = np.array(released.directions)
    if not (np.abs(made).max() < MOST_DIRECTION and np.linalg.cond(made) < MOST_CONDITION):
        raise PackageError("the directions of a pooled vector can't be undone")


def _check_pooled(released: ReleasedForm, pooled: PooledTables) -> None:
    if released.form.base != POOL:
        raise PackageError(f"the form '{released.form}' has tables of one pooled vector")
    if tuple(len(t) for t in pooled.centroids) != released.levels:
        raise PackageError("what the levels of a pooled vector stand for doesn't fit the channels' levels")
    for low, high, values in zip(released.low, released.high, pooled.centroids, strict=True):
        half = (high - low) / (len(values) - 1) / 2
        if any(abs(low + 2 * half * i - value) > half for i, value in enumerate(values)):
            raise PackageError("a level of a pooled vector stands for a value that is another level's")
    if len(pooled.usual) != 2 or not all(MOST_USUAL >= size > 2 for size in pooled.usual):
        raise PackageError("the usual sizes of a pooled vector and of its row are two, from 3 bytes to 1 MiB")


def _check_ordered(released: ReleasedForm, ordered: OrderTables) -> None:
    tables = [(t, n) for of, n in zip(ordered.differences, released.levels, strict=False) for t in of]
    fits = {
        f"the form '{released.form}' has tables of an order, and keeps none": released.form.base not in (POOL, SET),
        "tables of an order go with those of position vectors": released.bag is not None,
        f"each channel needs 5 weights of neighbours, of at most {MOST_NEIGHBOUR}": len(ordered.weights)
        == released.channels
        and all(len(w) == 5 and max(map(abs, w)) <= MOST_NEIGHBOUR for w in ordered.weights),
        f"each channel needs {CONTEXTS} tables of differences, with an entry for each level": len(ordered.differences)
        == released.channels
        and all(len(of) == CONTEXTS for of in ordered.differences)
        and all(len(t) == n for t, n in tables),
        f"a table of differences doesn't sum to {ORDER_TOTAL} with every entry positive": all(
            sum(t) == ORDER_TOTAL and min(t, default=0) > 0 for t, _ in tables
        ),
    }
    for text, so in fits.items():
        if not so:
            raise PackageError(text)


def _check_pooling(manifest: Manifest) -> None:
    released = manifest.released
    try:
        check_pooling(released.pooling)
    except InputError as error:
        raise PackageError(f"the released form can't be made: {error}") from error
    if released.pooling and released.form.base != POOL:
        raise PackageError(f"the released form '{released.anonymizer}' doesn't pool, but declares {released.pooling}")
    expected = max(1, len(released.statistics)) * manifest.features.channels
    if released.channels != expected:
        of = f" by {', '.join(released.statistics)}" if released.statistics else ""
        raise PackageError(
            f"the released form has {released.channels} channels; the {manifest.features.channels} of the feature map "
            f"give {expected}{of}"
        )
    _check_directions(released)


def _check_reference(reference: Reference, released: ReleasedForm) -> None:
    kinds, usual, channels = reference.kinds, reference.usual, released.channels
    pooled = released.form.base == POOL
    width = channels if pooled else len(kinds)
    numbers = [*reference.scale, *(x for row in (*kinds, *usual) for x in row)]
    fits = {
        f"there are 1 to {MOST_MEANS} usual frames, and at most as many kinds of vectors": 0 < len(usual) <= MOST_MEANS
        and len(kinds) <= MOST_MEANS,
        "kinds are of position vectors": bool(kinds) != pooled,
        f"each of {channels} channels has a deviation": len(reference.scale) == channels
        and min(reference.scale, default=0.0) > 0,
        f"a kind of vectors has {channels} values, and a usual frame {width}": {len(x) for x in kinds} <= {channels}
        and {len(x) for x in usual} == {width},
        "its numbers are deviations or shares": all(abs(x) <= MOST_STEPS for x in numbers),
        "each of its means is over several frames": reference.frames >= reference.groups >= 2,
        "shares of rows are from 0 to 1": pooled or all(0 <= x <= 1 for row in usual for x in row),
    }
    for text, so in fits.items():
        if not so:
            raise PackageError(f"the reference of founding frames is none: {text}")


def _check_calibration(calibration: Calibration, task: Task) -> None:
    for knots in (calibration, calibration.of_mean):
        if knots is not None:
            _check_knots(knots.raw, knots.reliability)
    if calibration.temperature <= 0:
        raise PackageError(f"the calibration's temperature is {calibration.temperature}; it must be positive")
    if calibration.method not in (COMBINED, *SCORES[task]):
        raise PackageError(f"{task} has no reliability by '{calibration.method}'; update featureloop")
    weighed = [part.score for part in calibration.parts]
    if bool(weighed) != (calibration.method == COMBINED) or not set(weighed) <= set(SCORES[task]):
        raise PackageError(f"the calibration's combined score is none: it weighs {weighed}")
    if any(part.weight < 0 for part in calibration.parts) or len(set(weighed)) < len(weighed):
        raise PackageError("the calibration's combined score has a negative weight, or a score more than once")
    near = calibration.familiar
    if near and not (len(near) == 2 and 0 <= near[0] < near[1] <= 2):
        raise PackageError(f"distances up to which frames are familiar are two that rise, not {near}")
    found = calibration.guarantee
    if found is not None and not (
        0 < found.risk < 1
        and 0 < found.confidence < 1
        and found.reliabilities
        and found.groups > 0
        and all(len(point) == 3 for point in found.curve)
    ):
        raise PackageError("its threshold's guarantee is none: its risk, confidence, curve or patients are missing")


def _check_knots(raw: tuple[float, ...], reliability: tuple[float, ...]) -> None:
    if len(raw) != len(reliability) or not raw:
        raise PackageError("the calibration has no knots, or not as many raw scores as reliabilities")
    if any(a > b for a, b in pairwise(raw)):
        raise PackageError("the calibration's raw scores don't rise")
