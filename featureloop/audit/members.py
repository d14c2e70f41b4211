"""Who may have been a member of a recognizer's training: the package's founding records, and the attacker's frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featureloop.audit.material import Lab, Party
from featureloop.core.errors import InputError, RecordError
from featureloop.core.types import Bool, Float32, Task, UInt8
from featureloop.model.fit import BagSet
from featureloop.model.package import Package
from featureloop.model.tasks import true_rows
from featureloop.sharing import codec
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.record import Record, from_table
from featureloop.sharing.release import decoded, of_founding_record

MEMBER_SITE, OUTSIDER_SITE = "founding", "founding-held"
"""Sites of the founding records: what the recognizer learned from, and what no network ever learned from."""
TELLING = 16
"""Rows of a frame that hardly any other frame has alike by chance."""
ALIKE = 0.9
"""Share of the rows that are the same of one frame, read twice."""


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Bags that may have been learned from.

    Attributes
    ----------
    values
        float32 (M, N, C).
    targets
        uint8 (M, N, T) or (M, 1, T).
    groups
        str (M,).
    members
        bool (M,), of the attacked recognizer; what is not known is False.
    """

    values: Float32
    targets: UInt8
    groups: NDArray[np.str_]
    members: Bool

    def __len__(self) -> int:
        return len(self.values)

    def only(self, chosen: NDArray[np.intp]) -> Pool:
        """Some of the bags."""
        return Pool(self.values[chosen], self.targets[chosen], self.groups[chosen], self.members[chosen])

    def joined(self, other: Pool) -> Pool:
        """These bags and then others, all cut to as many rows as the shortest has."""
        n = min(self.values.shape[1], other.values.shape[1])
        first, second = (p.shortened(n) for p in (self, other))
        return Pool(
            np.concatenate([first.values, second.values]),
            np.concatenate([first.targets, second.targets]),
            np.concatenate([first.groups, second.groups]),
            np.concatenate([first.members, second.members]),
        )

    def shortened(self, n: int) -> Pool:
        """Of every bag `n` rows, evenly; one row of targets for the whole frame stays."""
        count = self.values.shape[1]
        if count == n:
            return self
        at = np.linspace(0, count - 1, n).round().astype(np.intp)
        targets = self.targets[:, at] if self.targets.shape[1] == count else self.targets
        return replace(self, values=self.values[:, at], targets=targets)

    def unlike(self, other: Pool) -> Pool:
        """The bags that hold other rows than any of the others': not the same frames, read anew.

        Frames are the same where so many rows are, in the order of their values, as `ALIKE` says. That is told of whole
        sets without noise; of bags of fewer rows than `TELLING`, as pooled ones, none is left out: they may be alike by
        chance.
        """
        n = min(self.values.shape[1], other.values.shape[1])
        if n < TELLING:
            return self
        mine, theirs = (np.stack([_in_order(v) for v in p.shortened(n).values]) for p in (self, other))
        same = [(theirs == rows).all(axis=2).mean(axis=1).max(initial=0.0) >= ALIKE for rows in mine]
        return self.only(np.flatnonzero(~np.array(same, bool)))

    def bags(self) -> BagSet:
        """For the project's own training, all drawn alike."""
        m, _, c = self.values.shape
        one, zero = np.ones(c, np.float32), np.zeros(c, np.float32)
        return BagSet(self.values, self.targets, np.full(m, 1 / m), np.ones(m, np.float32), one, zero)


def records_beside(package: Package) -> Path | None:
    """The founding records of a package, where they are beside it."""
    path = package.path.with_name(f"{package.path.name}.founding.arrow")
    return path if path.is_file() else None


def founding_pool(package: Package, path: Path, *, members: int, others: int, rng: np.random.Generator) -> Pool:
    """Founding records as bags: of frames that were learned from their first version, and held ones, drawn from all.

    Parameters
    ----------
    members, others
        How many of each of the two, at most.

    Raises
    ------
    RecordError
        The file is damaged, or is of another package.
    """
    try:
        with pa.ipc.open_stream(pa.memory_map(str(path))) as reader:
            records = from_table(reader.read_all())
    except (OSError, pa.ArrowException) as error:
        raise RecordError(f"'{path}' holds no records: {error}") from error
    records = [r for r in records if r.task == package.manifest.task and r.extractor == package.extractor_digest]
    mine, held = ([r for r in records if r.site == s] for s in (MEMBER_SITE, OUTSIDER_SITE))
    if not mine or not held:
        raise RecordError(
            f"'{path.name}' holds {len(mine)} records that the package learned from and {len(held)} that were held "
            "out: give the file that was written when this package was founded"
        )
    # Versions of a frame follow each other, the frame as it is comes first.
    versions = max(1, round(len(mine) / max(1, package.manifest.lineage.records.get(MEMBER_SITE, len(mine)))))
    sides = (mine[::versions], members), (held, others)
    kept = [side[i] for side, most in sides for i in np.sort(rng.permutation(len(side))[:most])]
    values, targets = zip(*(_decoded(r, package) for r in kept), strict=True)
    groups = np.array([(r.group or r.id).hex() for r in kept])
    learned_from = np.array([r.site == MEMBER_SITE for r in kept])
    return _stacked(values, targets, groups, learned_from)


def own_pool(lab: Lab, most: int) -> Pool:
    """The attacker's frames as bags, at most so many, evenly."""
    chosen = np.unique(np.linspace(0, len(lab.attacker) - 1, min(most, len(lab.attacker))).round().astype(np.intp))
    return pool_of(lab, lab.attacker.only(chosen))


def pool_of(lab: Lab, party: Party) -> Pool:
    """Frames as bags of nobody's training, with their truth where they have one, else with what is recognized."""
    manifest, form = lab.package.manifest, lab.package.manifest.released
    values, targets = [], []
    frames = party.frames
    for frame, rows in zip(frames, lab.ordered(frames), strict=True):
        vectors = codec.dequantize(codec.quantize(release_vectors(rows, form), form), form)
        try:
            told = true_rows(frame, task=Task(manifest.task), labels=len(manifest.labels), grid=manifest.features.grid)
        except InputError:
            told = lab.runtime.recognize(vectors).targets()
        values.append(vectors)
        targets.append(told)
    return _stacked(values, targets, party.groups, np.zeros(len(party), bool))


def _in_order(rows: Float32) -> Float32:
    """Rows (N, C) by their values."""
    return rows[np.lexsort(rows.T[::-1])]


def _decoded(record: Record, package: Package) -> tuple[Float32, UInt8]:
    if record.recognition is None:
        raise RecordError("a founding record has no result: found the package again")
    manifest = of_founding_record(record.anonymizer, package.manifest)
    bag = decoded(record.features, record.recognition, record.changed, manifest)
    return codec.dequantize(bag.symbols, package.manifest.released), bag.result()


def _stacked(values: Sequence[Float32], targets: Sequence[UInt8], groups: NDArray[np.str_], members: Bool) -> Pool:
    n = min(len(v) for v in values)
    cut = [Pool(v[None], t[None], groups[:1], members[:1]).shortened(n) for v, t in zip(values, targets, strict=True)]
    return Pool(np.concatenate([c.values for c in cut]), np.concatenate([c.targets for c in cut]), groups, members)
