"""From a frame's vectors and results to what leaves, as bytes, and back: one way for device, learner and audit.

    vectors, rows -> subset -> (mix) -> noise -> quantize -> order -> bytes

`part_of` does what is done to one frame, `joined` puts the parts of a record
together and in order, `coded` and `decoded` are its bytes. Every step is a pure
function; chance comes from a secret and the vectors themselves (`sharing.draws`),
so it knows as little of places as they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import RecordError
from featureloop.core.types import Bag, Bool, Float32, UInt8
from featureloop.model.manifest import Manifest, ReleasedForm
from featureloop.model.tasks import rules_of
from featureloop.sharing import codec
from featureloop.sharing.anonymize import by_columns, canonical_order
from featureloop.sharing.draws import Draws

Positions = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Coded:
    """A bag's bytes, as the record's fields of these names."""

    features: bytes
    recognition: bytes
    changed: bytes | None


def part_of(
    vectors: Float32,
    recognized: UInt8,
    changed: UInt8 | None = None,
    *,
    released: ReleasedForm,
    grid: int,
    soft: bool = False,
    view: Bool | None = None,
    secret: bytes = b"",
) -> Bag:
    """What of one frame goes into a record, quantized, with the rows that belong to it.

    Parameters
    ----------
    vectors
        float32 (N, C) in the map's order, N = grid * grid; of `pool` the one pooled vector.
    recognized, changed
        uint8 (N, T) or (1, T), the recognition and what replaced it.
    soft
        Whether `changed` holds probabilities, 0 to 255.
    view
        bool (N,), the field of view, from which a subset is taken first; None for the whole frame.
    secret
        What a subset and noise are drawn by; the receivers must not have it.

    Raises
    ------
    RecordError
        The vectors are not those of such a map, not finite, or outside their bounds; a subset or noise has no secret.
    """
    form = released.form
    _check(vectors, released, grid)
    rows = Bag(np.empty((len(vectors), 0), np.uint8), recognized, changed, soft)
    if (form.subset or form.noise) and not secret:
        raise RecordError("a subset and noise are drawn by a secret, and none was given")
    units = _units(released, grid)
    if form.subset or form.noise:
        units = _by_value(vectors, rows, units, None if form.base == "pool" else view)
        drawn = vectors[units.reshape(-1)].tobytes()
        if form.noise:
            vectors = _noisy(vectors, units, released, Draws(secret, "noise", drawn))
        if form.subset:
            order = Draws(secret, "subset", drawn).permutation(len(units))
            units = units[_chosen(rows, units, view, released, order)]
    at = units.reshape(-1)
    own = len(recognized) == len(vectors)
    return Bag(
        codec.quantize(vectors[at], released),
        recognized[at] if own else recognized,
        changed if changed is None or not own else changed[at],
        soft,
    )


def joined(parts: Sequence[Bag], *, released: ReleasedForm, grid: int) -> Bag:
    """The parts of a record in one bag, in canonical order.

    Raises
    ------
    RecordError
        There are more or fewer than the form mixes, or only some of them are changed, or softened.
    """
    form = released.form
    if len(parts) != form.mix:
        raise RecordError(f"a record in the form '{form}' holds {form.mix} frames, not {len(parts)}")
    changes = [part.changed for part in parts if part.changed is not None]
    if len(changes) not in (0, len(parts)) or len({part.soft for part in parts}) > 1:
        raise RecordError("some of the frames that share a record are changed and some are not")
    return canonical_order(
        Bag(
            np.concatenate([part.symbols for part in parts]),
            np.concatenate([part.recognized for part in parts]),
            np.concatenate(changes) if changes else None,
            parts[0].soft,
        ),
        unit=form.unit(grid),
    )


def coded(bag: Bag, released: ReleasedForm) -> Coded:
    """The bytes of a bag."""
    recognized, changed, symbols = bag.recognized, bag.changed, bag.symbols
    if changed is None:
        coded_change = None
    elif bag.soft:
        coded_change = codec.encode_soft_rows(changed, released, before=recognized)
    else:
        coded_change = codec.encode_rows(changed, released, symbols=symbols, before=recognized)
    return Coded(
        codec.encode_features(symbols, released),
        codec.encode_rows(recognized, released, symbols=symbols),
        coded_change,
    )


def decoded(
    features: bytes, recognition: bytes, changed: bytes | None, manifest: Manifest, *, soft: bool = False
) -> Bag:
    """What is in a record of a package of one task: symbols uint8 (N, C), rows of targets uint8 (N, T) or (1, T).

    Parameters
    ----------
    soft
        Whether `changed` holds probabilities: the record says that it was softened.

    Raises
    ------
    RecordError
        A payload is damaged, or is not of exactly as many rows as the package declares.
    """
    n = manifest.released.form.rows(manifest.features.grid)
    symbols = codec.decode_features(features, manifest.released, max_vectors=n)
    if len(symbols) != n:
        raise RecordError(f"its features hold {len(symbols)} rows, its package declares {n}")
    recognized = _decoded_rows(recognition, manifest, symbols)
    if changed is None:
        return Bag(symbols, recognized)
    if soft:
        return Bag(symbols, recognized, codec.decode_soft_rows(changed, manifest.released, before=recognized), soft)
    return Bag(symbols, recognized, _decoded_rows(changed, manifest, symbols, recognized))


def replayed(manifest: Manifest) -> Manifest:
    """A manifest in whose form founding records are: all rows of a frame, where rows have results of their own.

    Few rows are what a site lets leave of images that the centre must not know. It holds the founding ones.
    """
    if rules_of(manifest).form != "set":
        return manifest
    whole = str(manifest.released.form.unparted)
    return replace(manifest, released=replace(manifest.released, anonymizer=whole))


def of_founding_record(anonymizer: str, manifest: Manifest) -> Manifest:
    """By which manifest a founding record is read: `replayed`, or, of an older package, the package's own."""
    kept = replayed(manifest)
    return kept if anonymizer == kept.released.anonymizer else manifest


def _decoded_rows(rows: bytes, manifest: Manifest, symbols: UInt8, before: UInt8 | None = None) -> UInt8:
    form, width = manifest.released.form.rows(manifest.features.grid), manifest.recognizer.outputs
    expected = form if rules_of(manifest).form == "set" else 1
    found = codec.decode_rows(rows, manifest.released, width=width, max_vectors=form, symbols=symbols, before=before)
    if len(found) != expected:
        raise RecordError(f"there are {len(found)} rows, its package's recognizer gives {expected}")
    return found


def _check(vectors: Float32, released: ReleasedForm, grid: int) -> None:
    n = 1 if released.form.base == "pool" else grid**2
    if vectors.shape != (n, released.channels):
        raise RecordError(
            f"a frame has ({n}, {released.channels}) values in the form '{released.form}', not {vectors.shape}"
        )
    if not np.isfinite(vectors).all():
        raise RecordError("the feature values hold NaN or infinity; the frame can't be shared")


def _units(released: ReleasedForm, grid: int) -> Positions:
    """The map's positions by what stays together: intp (U, B), windows row by row."""
    form = released.form
    if form.base == "pool":
        return np.zeros((1, 1), np.intp)
    positions = np.arange(grid**2).reshape(grid, grid)
    side = {"set": 1, "window": form.window, "none": grid}[form.base]
    windows = positions.reshape(grid // side, side, grid // side, side).transpose(0, 2, 1, 3)
    return np.asarray(windows.reshape(-1, side**2))


def _by_value(vectors: Float32, rows: Bag, units: Positions, view: Bool | None) -> Positions:
    """The units in an order of their values, so that what is drawn for one knows nothing of its place."""
    columns = [np.ascontiguousarray(vectors).view(np.uint8)]
    if len(rows.recognized) == len(vectors):
        columns += [r for r in (rows.recognized, rows.changed) if r is not None]
    if view is not None:
        columns.append(view.astype(np.uint8)[:, None])
    each = np.concatenate(columns, axis=1)[units].reshape(len(units), -1)
    return np.asarray(units[by_columns(each)])


def _chosen(rows: Bag, units: Positions, view: Bool | None, released: ReleasedForm, order: Positions) -> Positions:
    """Which units leave: in view before out of view, balanced where the form says so, else by the order drawn."""
    form, count = released.form, released.form.subset // units.shape[1]
    seen: Bool = np.ones(len(units), np.bool_) if view is None else np.asarray(view[units].any(axis=1))
    inside, outside = order[seen[order]], order[~seen[order]]
    if form.balanced:
        flags = (rows.recognized if rows.soft else rows.result())[:, : released.flags]
        flagged: Bool = np.asarray(flags.any(axis=1))
        lesion: Bool = np.asarray(flagged[units].any(axis=1))
        found, free = inside[lesion[inside]], inside[~lesion[inside]]
        half = min(len(found), count - min(len(free), count - count // 2))
        inside = np.concatenate([found[:half], free, found[half:]])
    return np.concatenate([inside, outside])[:count]


def _noisy(vectors: Float32, units: Positions, released: ReleasedForm, draws: Draws) -> Float32:
    """Every vector clipped to the norm, with Gaussian noise; what exceeds the declared bounds is put on them.

    Noise is drawn for every position, chosen or not, so that several tasks of one frame leave the same.
    Clamping knows only the noisy value, so it takes nothing from what the noise guarantees (post-processing).
    """
    form, x = released.form, vectors.astype(np.float64)
    x *= np.minimum(1.0, form.clip / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))
    noise = np.empty_like(x)
    noise[units.reshape(-1)] = draws.normal(x.shape)
    x += form.noise * form.clip * noise
    return np.clip(x, released.low, released.high).astype(np.float32)
