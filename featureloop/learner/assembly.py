"""The parts of a package in a directory that becomes one: recognizers, card, released form, calibration."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from featureloop.core.ports import Progress
from featureloop.core.types import Bag, Float32, Frame, Task, UInt8
from featureloop.learner.bag_tables import bag_tables
from featureloop.learner.founding_records import package_rows, true_part
from featureloop.learner.means import calibrated_agreement, calibrated_means, see_otherwise
from featureloop.learner.order_tables import order_tables
from featureloop.learner.pooled_tables import pooled_tables
from featureloop.learner.references import crossed_distances, for_reference, founding_reference
from featureloop.model.card import model_card
from featureloop.model.export import export_onnx
from featureloop.model.forms import POOL, Form, with_clip
from featureloop.model.manifest import Manifest, ReleasedForm
from featureloop.model.package import (
    CARD,
    METADATA,
    RECOGNIZER,
    WEIGHTS,
    head_file,
    monai_metadata,
    write_atomically,
)
from featureloop.model.pooling import pooled_bounds
from featureloop.model.reference import outlying
from featureloop.model.runtime import Runtime
from featureloop.model.score_words import AGREEMENT
from featureloop.sharing import codec
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.coding import side_of
from featureloop.sharing.near import usually_apart, values_of
from featureloop.sharing.payload import LEAST_SINGLE, LEAST_SIZE
from featureloop.sharing.release import joined
from featureloop.sharing.reliability import calibrate, familiar_range
from featureloop.sharing.rows import row_kinds

POOL_LEVELS = 23
"""Of a pooled value, until the recognizer says how many it needs (`learner.pooled_tables`)."""
COUNTING = b"featureloop codec tables"
"""What is drawn to count symbols by: only the counts are kept, and the same training makes the same package."""
NEARLY_ALL = 0.95
"""Share of the founding frames whose payloads are padded to one size."""
NORM_FRAMES = 200
"""Frames whose vectors' norms say where to clip."""


def write_recognizer(recognizer: torch.nn.Module, work: Path, *, form: str, channels: int, head: str = "") -> None:
    """Write a recognizer's ONNX file and weights into a package directory.

    Parameters
    ----------
    channels
        Of a released vector.
    head
        The task, where it is not the package's first one.
    """
    if form != "global":
        example, dynamic = torch.zeros(1, 100, channels), {1: "vectors"}
    else:
        example, dynamic = torch.zeros(1, 1, channels), {}
    graph, weights = (head_file(name, head) if head else name for name in (RECOGNIZER, WEIGHTS))
    export_onnx(recognizer, example, work / graph, source="vectors", result="logits", dynamic=dynamic)
    save_file({k: v.contiguous() for k, v in recognizer.state_dict().items()}, work / weights)


def write_card(manifest: Manifest, work: Path) -> None:
    """Write a package's model card and MONAI metadata."""
    write_atomically(work / CARD, model_card(manifest).encode())
    write_atomically(work / METADATA, json.dumps(monai_metadata(manifest), indent=1).encode())


def next_version(version: str) -> str:
    """The version after `1.4`: `1.5`."""
    major, minor = version.split(".")[:2]
    return f"{major}.{int(minor) + 1}"


def plain_form(form: Form, levels: tuple[int, ...], pooling: tuple[str, ...], *, flags: int | None) -> ReleasedForm:
    """The released form of a map whose channels have so many levels, before its symbols are counted.

    It has no noise yet: how far that reaches is known when the vectors are (`described`).
    """
    if form.base == POOL:
        low, high = pooled_bounds(pooling, len(levels))
        levels = (POOL_LEVELS,) * len(low)
    else:
        low, high = (-1.0,) * len(levels), (1.0,) * len(levels)
    levels = tuple(min(n, form.quantize or n) for n in levels)
    kinds, coded = (codec.frequency_table(x) for x in (np.array([6, 1, 1]), np.zeros(256, np.intp)))
    text = str(replace(form, noise=0.0, clip=0.0))
    return ReleasedForm(text, len(levels), low, high, levels, codec.flat_tables(levels), kinds, coded, flags, pooling)


def noisy_form(released: ReleasedForm, form: Form) -> ReleasedForm:
    """A released form without noise as one with the noise of `form`.

    The bounds are four standard deviations of the noise outside the plain ones, so that one value in 16,000 at most
    is put on them; a level is as wide as the noise's deviation at least, beyond which finer ones say nothing.
    """
    deviation = form.noise * form.clip
    low, high = (tuple(x + s * 4 * deviation for x in part) for part, s in ((released.low, -1), (released.high, 1)))
    step = ((b - a) / (n - 1) for a, b, n in zip(released.low, released.high, released.levels, strict=True))
    finest = form.quantize or 256
    levels = tuple(
        int(np.clip(round((b - a) / max(s, deviation)) + 1, 2, finest)) for a, b, s in zip(low, high, step, strict=True)
    )
    return replace(
        released, anonymizer=str(form), low=low, high=high, levels=levels, frequencies=codec.flat_tables(levels)
    )


def counted_form(
    form: ReleasedForm,
    bags: Sequence[Bag],
    doubted: Sequence[tuple[UInt8, UInt8]],
    *,
    vectors: Float32 | None = None,
) -> ReleasedForm:
    """The same with tables counted from what leaves of frames; the parameters are those of `bag_tables`.

    Parameters
    ----------
    vectors
        Of pooled forms the frames' values before quantization, float32 (M, C); None where they aren't known.
    """
    symbols, rows = (np.concatenate([getattr(b, name) for b in bags]) for name in ("symbols", "recognized"))
    counts = (np.bincount(symbols[:, i], minlength=n) for i, n in enumerate(form.levels))
    flags = form.flags if form.flags is not None else rows.shape[1]
    kinds = row_kinds(rows, flags)
    made = replace(
        form,
        frequencies=tuple(codec.frequency_table(x) for x in counts),
        target_frequencies=codec.frequency_table(np.bincount(kinds, minlength=3)),
        coded_frequencies=codec.frequency_table(np.bincount(rows[kinds > 0, flags:].reshape(-1), minlength=256)),
    )
    if form.form.base == POOL:
        tables = pooled_tables(form, vectors)
        made = replace(made, pooled=tables)
        return replace(made, pooled=replace(tables, usual=_usual(made, bags, grain=1)))
    kept = [b.symbols for b in bags]
    side = side_of(form, len(kept[0]))
    made = replace(
        made,
        bag=bag_tables(form.levels, bags, doubted, flags=flags, side=side),
        ordered=order_tables(form.levels, kept, side=side) if side > 1 else None,
    )
    return made if made.bag is None else replace(made, bag=replace(made.bag, usual=_usual(made, bags)))


def _usual(form: ReleasedForm, bags: Sequence[Bag], *, grain: int = 4) -> tuple[int, int]:
    """Bytes that hold the features, and the rows, of nearly every frame, in so large steps."""
    sizes = [
        (
            len(codec.encode_features(b.symbols, form, padded=False)),
            len(codec.encode_rows(b.recognized, form, symbols=b.symbols, padded=False)),
        )
        for b in bags
    ]
    least = LEAST_SIZE if grain > 1 else LEAST_SINGLE
    features, rows = (max(least, grain * math.ceil(s / grain)) for s in np.quantile(sizes, NEARLY_ALL, axis=0))
    return features, rows


def _median_norm(runtime: Runtime, frames: Sequence[Frame]) -> float:
    """Of the vectors of frames: clipped there, half of them keep their length."""
    released = runtime.package.manifest.released
    vectors = [release_vectors(runtime.extract(frame.pixels), released) for frame in frames]
    return float(np.median(np.concatenate([np.linalg.norm(v, axis=1) for v in vectors])))


def described(
    runtime: Runtime, train: Sequence[Frame], held: Sequence[Frame], *, form: Form, progress: Progress
) -> Manifest:
    """The manifest of a package of one task, or of a view, with noise, the codec's tables and the calibration.

    Parameters
    ----------
    train
        Frames whose symbols are counted.
    held
        Frames that no weight was learned from: the calibration's.
    form
        As features are to leave; noise clips at the vectors' median norm where it names none.
    """
    manifest = runtime.package.manifest
    if form.noise and not manifest.released.form.noise:
        clipped = form if form.clip else with_clip(form, _median_norm(runtime, train[:NORM_FRAMES]))
        manifest = replace(manifest, released=noisy_form(manifest.released, clipped))
    parts, known, values = [], [], []
    for i, frame in enumerate(train):
        vectors = release_vectors(runtime.extract(frame.pixels), manifest.released)
        values.append(vectors[:1])
        parts.append(true_part(runtime, frame, manifest=manifest, secret=COUNTING, vectors=vectors))
        known.append(for_reference(vectors, manifest.released))
        progress("codec tables", i + 1, len(train))
    owners = [f.group or f.name for f in train]
    reference = founding_reference(known, owners)
    each = manifest.released.form.mix
    bags = [
        joined(parts[i : i + each], released=manifest.released, grid=manifest.features.grid)
        for i in range(0, len(parts) - each + 1, each)
    ]
    maps = [release_vectors(runtime.extract(f.pixels), manifest.released) for f in held]
    logits, truths = [runtime.logits(v) for v in maps], [package_rows(f, manifest) for f in held]
    doubted = [(runtime.recognize(v).targets(), t) for v, t in zip(maps, truths, strict=True)]
    groups = [f.group or f.name for f in held]
    far = [] if reference is None else [outlying(v, reference, manifest.released) for v in maps]
    familiar = familiar_range([*far, *crossed_distances(known, owners)]) if far else ()
    calibration = calibrate(
        logits,
        truths,
        task=Task(manifest.task),
        risk=manifest.calibration.threshold_risk,
        outlying=far,
        groups=groups,
        base=replace(manifest.calibration, reference=reference, familiar=familiar),
    )
    seen = see_otherwise(runtime, held, calibration, number=len(held), progress=progress)
    if calibration.score == AGREEMENT:
        calibration = calibrated_agreement(seen, calibration)
    return replace(
        manifest,
        released=replace(
            counted_form(manifest.released, bags, doubted, vectors=None if form.noise else np.concatenate(values)),
            usually_apart=usually_apart([values_of(v, manifest.released) for v in maps], groups),
        ),
        calibration=calibrated_means(seen, calibration),
    )
