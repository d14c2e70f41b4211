"""From a decision that a result leaves to its record in the outbox: anonymize, mix, compress."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from featureloop.core.ports import Clock
from featureloop.core.types import Asked, Bag, ChangedBy
from featureloop.device.state import pseudonym, release_secret, turn_of
from featureloop.model.forms import POOL
from featureloop.model.manifest import Manifest
from featureloop.model.package import Package
from featureloop.sharing.change import Decision, contents
from featureloop.sharing.codec import codec_of
from featureloop.sharing.mixing import Mixer
from featureloop.sharing.policy import Policy
from featureloop.sharing.record import Record, quarter_of
from featureloop.sharing.release import coded, joined, part_of
from featureloop.sharing.view import positions_in_view


class RecordKeeper(Protocol):
    """Where records wait: the outbox, or a test's list."""

    def put(
        self, record: Record, *, frame_key: bytes | None, others: Collection[bytes] = (), priority: float = 0.0
    ) -> bool:
        """Keep a record and mark its frames as done, in one transaction; False if it was known, or all were done."""
        ...

    def mark_done(self, frame_key: bytes, outcome: str) -> None:
        """Mark a frame from which nothing leaves (yet) as done; only the outcome `asked` is followed by another."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """What of a frame can leave, alone or with others."""

    part: Bag
    decision: Decision
    trust: float
    group: str | None
    key: bytes | None
    priority: float

    @property
    def changed_by(self) -> str | None:
        """Who changed it: only frames of which the same can be said share a record."""
        return None if self.decision.change is None else str(self.decision.change.by)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorder:
    """Makes records of what leaves, and puts them into the outbox; may be called from several threads.

    Attributes are those of `provide.Provider`.
    """

    site: str
    device: str
    site_key: bytes
    group_key: bytes
    package: Package
    policy: Policy
    keeper: RecordKeeper
    clock: Clock
    _mixers: dict[tuple[str, str | None], Mixer[_Ready]] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False, compare=False)

    def leave(self, result: Asked, decision: Decision, *, newness: float) -> int:
        """Put what leaves of a result into the outbox; the payload bytes that leave now.

        Where the form mixes frames, one waits in memory until enough of other groups are there; the last of them
        brings the record's bytes, and marks all of them as done.

        Parameters
        ----------
        newness
            Of its frame, in [0, 1], as `Seen.newness`.

        Raises
        ------
        StorageError
            The outbox can't keep the record.
        RecordError
            The features can't be coded (not finite, outside their bounds).
        """
        frame, vectors, recognition, key = result.frame, result.vectors, result.recognition, result.key or None
        manifest = self.package.view(recognition.task).manifest
        changed = None if decision.change is None else decision.change.targets
        grid, form = manifest.features.grid, manifest.released.form
        part = part_of(
            vectors,
            recognition.targets(),
            changed,
            released=manifest.released,
            grid=grid,
            soft=decision.change is not None and decision.change.by is ChangedBy.SOFTENED,
            view=positions_in_view(frame.pixels, grid) if form.subset else None,
            secret=release_secret(self.site_key),
        )
        base = self.policy.limits.base_first and form.base == POOL
        priority = priority_of(decision, reliability=result.reliability, newness=newness, base=base)
        mine = _Ready(part, decision, result.reliability, frame.group, key, priority)
        if form.mix == 1:
            return self._put([mine], manifest)
        with self._lock:
            mixer = self._mixers.setdefault((manifest.task, mine.changed_by), Mixer(form.mix))
            # Frames of one file without a group may be of one patient.
            together = mixer.put(key or secrets.token_bytes(), mine, group=frame.group or frame.name)
            size = self._put(list(together.values()), manifest) if together else 0
            mixer.drop(together)
        return size

    @property
    def waiting(self) -> int:
        """Results that wait for others of other groups to share a record with; none is marked as done."""
        with self._lock:
            return sum(len(mixer) for mixer in self._mixers.values())

    def _put(self, ready: Sequence[_Ready], manifest: Manifest) -> int:
        """One record of what is ready, into the outbox; its payload bytes."""
        record = self._record(ready, manifest)
        keys = [one.key for one in ready if one.key is not None]
        first, priority = keys[0] if keys else None, max(one.priority for one in ready)
        new = self.keeper.put(record, frame_key=first, others=keys[1:], priority=priority)
        if not new:
            return 0
        return len(record.features) + len(record.recognition or b"") + len(record.changed or b"")

    def _record(self, ready: Sequence[_Ready], manifest: Manifest) -> Record:
        share, released, one = self.policy.share, manifest.released, ready[0]
        bag = joined([r.part for r in ready], released=released, grid=manifest.features.grid)
        payload, group = coded(bag, released), one.group if len(ready) == 1 else None
        now = quarter_of(datetime.fromtimestamp(self.clock(), UTC).date())
        goes = contents(changed=bag.changed is not None, content=share.content)
        return Record(
            site=self.site,
            device=self.device,
            package=self.package.digest,
            extractor=self.package.extractor_digest,
            task=manifest.task,
            anonymizer=released.anonymizer,
            vectors=len(bag.symbols),
            channels=released.channels,
            codec=codec_of(released),
            features=payload.features,
            recognition=payload.recognition if goes.recognition else None,
            reliability=min(r.trust for r in ready) if goes.reliability else None,
            reliability_method=manifest.calibration.method if goes.reliability else None,
            changed=payload.changed,
            changed_by=one.changed_by,
            changed_when=None if bag.changed is None else now,
            group=pseudonym(self.group_key, group, turn_of(now, share.rotation)) if share.groups and group else None,
            period=now,
        )


def priority_of(decision: Decision, *, reliability: float, newness: float, base: bool = False) -> float:
    """How soon a record leaves where a day's bytes don't suffice for all, from 0 to 4: the larger, the sooner.

    All that a person changed or confirmed; then base layers, a tenth of the bytes of what they are the base of; within
    either, how unsure the recognizer was times how new the frame is.

    Parameters
    ----------
    newness
        In [0, 1], as `Seen.newness`.
    base
        Whether it is a frame's base layer, and the policy lets these go first.
    """
    verified = decision.change is not None and decision.change.by.verified
    return (1.0 - reliability) * newness + base + 2.0 * verified
