"""Records of the store as bags to learn from, decoded in a streaming scan and split by group."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featureloop.core.errors import RecordError
from featureloop.core.types import Bool, ChangedBy, Float32, UInt8
from featureloop.learner.founding_records import FOUNDING_SITE, HELD_SITE
from featureloop.model.fit import BagSet, FramesAndRows, Items, LooseRows
from featureloop.model.manifest import Manifest
from featureloop.sharing import codec
from featureloop.sharing.record import Record
from featureloop.sharing.release import decoded, of_founding_record, replayed

Positions = NDArray[np.intp]
HELD_SHARE = 0.2
"""Share of a site's groups that is held back for the gate."""
ACCEPTED_WEIGHT = 0.5
"""Weight of a result that nobody looked at, times its reliability: it teaches the recognizer what it says already."""
CHANGED_WEIGHTS = {
    ChangedBy.CLINICIAN: 1.0,
    ChangedBy.GROUND_TRUTH: 1.0,
    # Sees the frame otherwise than the recognizer did, and is as sure as results are that nobody has to look at.
    ChangedBy.SECOND_OPINION: 0.7,
    # The same recognizer on other frames: its errors are those of its neighbours, too; and what moves is blurred.
    ChangedBy.CONSENSUS: 0.6,
    # Doubtful, and nobody's answer: times its reliability, and half of what an accepted result of the same one weighs.
    # What it teaches is to stay unsure.
    ChangedBy.SOFTENED: 0.25,
}
"""Weight of a changed result by who or what changed it; founding frames weigh 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Bags:
    """Decoded records of one package line.

    Attributes
    ----------
    symbols
        M times uint8 (N, C); N is the released form's, or, of founding frames that are kept whole, the frame's.
    results
        M times uint8 (N, T), the rows to learn from.
    sites, groups
        str (M,), bytes as hexadecimal str (M,); a record without a group is its own.
    verified
        bool (M,), whether a person or a ground truth stands behind the result.
    weights
        float32 (M,), in the loss.
    held
        bool (M,), held back for the gate and the calibration.
    unreadable
        Records that could not be decoded.
    soft
        bool (M,), whether the results' flags are probabilities, 0 to 255; None for none.
    whole
        bool (M,), which hold all rows of a frame, where others don't; None where all are alike.
    """

    symbols: Sequence[UInt8]
    results: Sequence[UInt8]
    sites: NDArray[np.str_]
    groups: NDArray[np.str_]
    verified: Bool
    weights: Float32
    held: Bool
    unreadable: int
    soft: Bool | None = None
    whole: Bool | None = None

    def counts(self, chosen: Bool) -> dict[str, int]:
        """Records per site among the chosen ones, bool (M,)."""
        names, counts = np.unique(self.sites[chosen], return_counts=True)
        return {str(n): int(c) for n, c in zip(names, counts, strict=True)}


def load_bags(batches: Iterator[list[Record]], manifest: Manifest) -> Bags:
    """Decode all records; a damaged one is counted and left out.

    Raises
    ------
    RecordError
        No record could be decoded.
    """
    kept = replayed(manifest).released.form
    symbols, results, sites, groups, verified, weights, soft, whole = [], [], [], [], [], [], [], []
    unreadable = 0
    for batch in batches:
        for record in batch:
            try:
                founding = record.site in (FOUNDING_SITE, HELD_SITE)
                own = of_founding_record(record.anonymizer, manifest) if founding else manifest
                form = (own.released.anonymizer, own.released.form.rows(own.features.grid))
                if record.recognition is None or (record.anonymizer, record.vectors) != form:
                    raise RecordError("a record without a result, or in another form")
                by = None if record.changed_by is None else ChangedBy(record.changed_by)
                softened = by is ChangedBy.SOFTENED
                bag = decoded(record.features, record.recognition, record.changed, own, soft=softened)
            except RecordError:
                unreadable += 1
                continue
            symbols.append(bag.symbols)
            results.append(bag.result())
            sites.append(record.site)
            groups.append((record.group or record.id).hex())
            verified.append(founding or (by is not None and by.verified))
            weights.append(1.0 if founding else weight_of(by, record.reliability))
            soft.append(bag.soft)
            whole.append(own.released.form == kept)
    if not symbols:
        if unreadable:
            raise RecordError(
                f"none of the {unreadable} records of this package line could be decoded; nothing to learn from"
            )
        raise RecordError("the store holds no record of this package line yet; nothing to learn from")
    site_array, group_array = np.array(sites), np.array(groups)
    return Bags(
        symbols,
        results,
        site_array,
        group_array,
        np.array(verified),
        np.array(weights, np.float32),
        _held(site_array, group_array),
        unreadable,
        np.array(soft),
        np.array(whole) if len(set(whole)) > 1 else None,
    )


def weight_of(by: ChangedBy | None, reliability: float | None) -> float:
    """The weight of a site's record in the loss, by what changed its result and by its reliability, if provided."""
    trust = 1.0 if reliability is None else reliability
    if by is None:
        return ACCEPTED_WEIGHT * trust
    return CHANGED_WEIGHTS[by] * (trust if by is ChangedBy.SOFTENED else 1.0)


def _held(sites: NDArray[np.str_], groups: NDArray[np.str_]) -> Bool:
    """Which records are held back: by a hash of the group, at least one group of every site with two."""
    held = sites == HELD_SITE
    for site in set(sites.tolist()) - {FOUNDING_SITE, HELD_SITE}:
        own = sites == site
        names = sorted(set(groups[own].tolist()), key=_lot)
        if len(names) < 2:
            continue
        chosen = [g for g in names if _lot(g) < HELD_SHARE] or names[:1]
        held |= own & np.isin(groups, chosen[: len(names) - 1])
    return np.asarray(held)


def _lot(group: str) -> float:
    """A number in [0, 1) that a group keeps for ever."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:6], "big") / 2**48


def training_set(bags: Bags, manifest: Manifest, *, founding_share: float, chosen: Bool) -> Items:
    """The chosen bags, drawn so that founding frames make up `founding_share` of every batch.

    Replaying the founding features keeps what the founding package could do. Where founding frames are kept whole and
    others are not, the others' rows are learned from by themselves, as many at a time as a frame has.
    """
    founding = bags.sites[chosen] == FOUNDING_SITE
    shares = np.ones(len(founding))
    if founding.any() and not founding.all():
        shares[founding] = founding_share / founding.sum()
        shares[~founding] = (1 - founding_share) / (~founding).sum()
    at = np.flatnonzero(chosen)
    whole = np.ones(len(at), np.bool_) if bags.whole is None else bags.whole[at]
    if whole.all() or not whole.any():
        return _bag_set(bags, manifest, at, shares)
    frames = _bag_set(bags, manifest, at[whole], np.ones(int(whole.sum())))
    both = np.concatenate([shares[whole], shares[~whole]])
    return FramesAndRows(frames, _loose(bags, manifest, at[~whole], like=frames), both / both.sum())


def _bag_set(bags: Bags, manifest: Manifest, at: Positions, shares: NDArray[np.float64]) -> BagSet:
    """Bags of equal N, by their numbers."""
    released = manifest.released
    low, high = np.array(released.low, np.float32), np.array(released.high, np.float32)
    scale = (high - low) / (np.array(released.levels, np.float32) - 1)
    values: UInt8 | Float32 = np.stack([bags.symbols[i] for i in at.tolist()])
    if released.pooled is not None or released.directions:  # Centroids are on no even scale, directions no values.
        values = np.stack([codec.dequantize(s, released) for s in values])
        scale, low = np.ones_like(scale), np.zeros_like(low)
    return BagSet(
        values,
        np.stack([bags.results[i] for i in at.tolist()]),
        shares / shares.sum(),
        bags.weights[at],
        scale,
        low,
        None if bags.soft is None else bags.soft[at],
        released.flags,
    )


def _loose(bags: Bags, manifest: Manifest, at: Positions, *, like: BagSet) -> LooseRows:
    """The rows of bags that hold parts of frames; balanced ones are drawn as often as frames have such rows.

    Half of a balanced bag's rows are of a lesion. Learned from as they are, they would teach that half of a frame is.
    """
    own = _bag_set(bags, manifest, at, np.ones(len(at)))
    everything = own.batch(np.arange(len(at)))
    rows, targets = own.values.reshape(-1, own.values.shape[2]), everything.y.reshape(-1, everything.y.shape[2])
    chances = np.repeat(own.weights.astype(np.float64), own.values.shape[1])
    if manifest.released.form.balanced:
        lesion = (targets[:, : own.flags] >= 0.5).any(axis=1)
        usual = float((like.targets[..., : like.flags] > 0).any(axis=2).mean())
        found = float(chances[lesion].sum() / chances.sum())
        if 0 < found < 1 and 0 < usual < 1:
            chances *= np.where(lesion, usual / found, (1 - usual) / (1 - found))
    return LooseRows(rows, targets, chances / chances.sum(), float(own.weights.mean()))
