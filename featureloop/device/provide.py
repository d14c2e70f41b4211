"""From one recognized frame to what leaves of it: decide, anonymize, compress, put into the outbox."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from featureloop.core.errors import PolicyError
from featureloop.core.ports import Clock, Reviewer
from featureloop.core.types import Bag, Float32, Frame, Recognition
from featureloop.device.state import frame_key, pseudonym, release_secret, turn_of
from featureloop.model.forms import allows
from featureloop.model.manifest import Manifest
from featureloop.model.package import Package
from featureloop.sharing.change import Decision, decide
from featureloop.sharing.codec import codec_of
from featureloop.sharing.mixing import Mixer
from featureloop.sharing.near import Look, NearDuplicates, look_of
from featureloop.sharing.policy import Policy
from featureloop.sharing.privacy import check_privacy
from featureloop.sharing.record import Record, quarter_of
from featureloop.sharing.release import coded, joined, part_of
from featureloop.sharing.reliability import reliability
from featureloop.sharing.view import positions_in_view


class RecordKeeper(Protocol):
    """Where records wait: the outbox, or a test's list."""

    def put(self, record: Record, *, frame_key: bytes | None, others: Collection[bytes] = ()) -> bool:
        """Keep a record and mark its frames as done, in one transaction; False if it was known."""
        ...

    def mark_done(self, frame_key: bytes, outcome: str) -> None:
        """Mark a frame from which nothing leaves as done."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """What of a frame can leave, alone or with others."""

    part: Bag
    decision: Decision
    trust: float
    group: str | None
    key: bytes | None

    @property
    def changed_by(self) -> str | None:
        """Who changed it: only frames of which the same can be said share a record."""
        return None if self.decision.change is None else str(self.decision.change.by)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """All that is needed to provide frames from one device.

    Attributes
    ----------
    site, device
        Enrolled ids.
    site_key
        32 bytes that never leave the site; names frames and draws what leaves of them.
    group_key
        The same, for groups' pseudonyms; None takes the site's key.
    package
        The package that recognizes, with all its tasks.
    policy
        The site's sharing policy.
    keeper
        Where records go.
    reviewer
        Who is asked about doubtful results; None where nobody is.
    clock
        Seconds since the epoch; only its quarter is used.
    """

    site: str
    device: str
    site_key: bytes
    package: Package
    policy: Policy
    keeper: RecordKeeper
    reviewer: Reviewer | None
    clock: Clock
    group_key: bytes | None = None
    _mixers: dict[tuple[str, str | None], Mixer[_Ready]] = field(default_factory=dict, init=False, repr=False)
    _near: dict[str, NearDuplicates] = field(default_factory=dict, init=False, repr=False)

    def keys_of(self, frame: Frame) -> tuple[bytes, ...]:
        """The keyed names of a frame's results under this extractor, so that a restart provides none twice.

        One a task, in the package's order; the first task's is the frame's own, as if it were the only one.
        """
        parts = (self.package.extractor_digest, frame.name, str(frame.index), frame.pixels.tobytes())
        own = frame_key(self.site_key, *parts)
        return (own, *(frame_key(self.site_key, own, head.task) for head in self.package.manifest.heads))

    def provide(
        self, frame: Frame, vectors: Float32, recognition: Recognition, *, key: bytes | None
    ) -> tuple[Decision, int]:
        """Apply the policy to a task's result of a frame; return the decision and the payload bytes that leave now.

        Where the form mixes frames, one waits in memory until enough of other groups are there; the last of them
        brings the record's bytes, and marks all of them as done.

        Parameters
        ----------
        key
            What marks it as done; None marks nothing.

        Raises
        ------
        StorageError
            The outbox can't keep the record; the frame counts as not done.
        RecordError
            The features can't be coded (not finite, outside their bounds).
        """
        package = self.package.view(recognition.task)
        manifest, share = package.manifest, self.policy.share
        trust = reliability(recognition, manifest.calibration)
        threshold = effective_threshold(package, self.policy)
        # Frames of one file without a group may be of one patient.
        group, look = frame.group or frame.name, self._look(vectors, recognition, manifest)
        if look and self._near[manifest.task].is_near(look, group):
            decision = Decision("near-duplicate", None, trust < threshold)
        else:
            decision = decide(
                frame, recognition, reliability=trust, threshold=threshold, share=share, reviewer=self.reviewer
            )
        if not decision.leaves:
            # An unanswered frame is asked about again next time; the others are settled.
            if decision.outcome != "unanswered" and key is not None:
                self.keeper.mark_done(key, decision.outcome)
            return decision, 0
        changed = None if decision.change is None else decision.change.targets
        grid, form = manifest.features.grid, manifest.released.form
        part = part_of(
            vectors,
            recognition.targets(),
            changed,
            released=manifest.released,
            grid=grid,
            view=positions_in_view(frame.pixels, grid) if form.subset else None,
            secret=release_secret(self.site_key),
        )
        mine = _Ready(part, decision, trust, frame.group, key)
        if form.mix == 1:
            size = self._put([mine], manifest)
        else:
            mixer = self._mixers.setdefault((manifest.task, mine.changed_by), Mixer(form.mix))
            together = mixer.put(key or secrets.token_bytes(), mine, group=group)
            size = self._put(list(together.values()), manifest) if together else 0
            mixer.drop(together)
        if look:
            self._near[manifest.task].keep(look, group)
        return decision, size

    @property
    def waiting(self) -> int:
        """Results that wait for others of other groups to share a record with; none is marked as done."""
        return sum(len(mixer) for mixer in self._mixers.values())

    def _look(self, vectors: Float32, recognition: Recognition, manifest: Manifest) -> Look | None:
        """What near-duplicates are known by; None where they all leave."""
        share, usually = self.policy.share.near_duplicates, manifest.released.usually_apart
        if not share or not usually:
            return None
        self._near.setdefault(manifest.task, NearDuplicates(share, usually))
        return look_of(vectors, recognition, manifest.released)

    def _put(self, ready: Sequence[_Ready], manifest: Manifest) -> int:
        """One record of what is ready, into the outbox; its payload bytes."""
        record = self._record(ready, manifest)
        keys = [one.key for one in ready if one.key is not None]
        if len(keys) > 1:
            self.keeper.put(record, frame_key=keys[0], others=keys[1:])
        else:
            self.keeper.put(record, frame_key=keys[0] if keys else None)
        return len(record.features) + len(record.recognition or b"") + len(record.changed or b"")

    def _record(self, ready: Sequence[_Ready], manifest: Manifest) -> Record:
        share, released, one = self.policy.share, manifest.released, ready[0]
        bag = joined([r.part for r in ready], released=released, grid=manifest.features.grid)
        payload, group = coded(bag, released), one.group if len(ready) == 1 else None
        key = self.site_key if self.group_key is None else self.group_key
        now = quarter_of(datetime.fromtimestamp(self.clock(), UTC).date())
        with_reliability = share.content != "result"
        with_result = share.content != "reliability" or bag.changed is not None
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
            recognition=payload.recognition if with_result else None,
            reliability=min(r.trust for r in ready) if with_reliability else None,
            reliability_method=manifest.calibration.method if with_reliability else None,
            changed=payload.changed,
            changed_by=one.changed_by,
            changed_when=None if bag.changed is None else now,
            group=pseudonym(key, group, turn_of(now, share.rotation)) if share.groups and group else None,
            period=now,
        )


def effective_threshold(package: Package, policy: Policy) -> float:
    """The site's threshold where its policy has one, else the package's."""
    own = policy.share.threshold
    return package.manifest.calibration.threshold if own is None else own


def check_policy(package: Package, policy: Policy) -> None:
    """Refuse to share under a package whose released form or privacy report the site's policy doesn't allow.

    Raises
    ------
    PolicyError
        The form is not in the policy's list, or the report is missing or beyond the limits.
    PackageError
        The report is malformed.
    """
    check_form(package, policy)
    for view in package.views:
        check_privacy(view, policy.privacy)


def check_form(package: Package, policy: Policy) -> None:
    """Refuse to share under a package whose released form the site's policy doesn't allow.

    Raises
    ------
    PolicyError
        The policy's list doesn't cover the form.
    """
    allowed = policy.share.anonymizers
    for view in package.views:
        form = view.manifest.released.form
        if not any(allows(entry, form) for entry in allowed):
            raise PolicyError(
                f"package {package.short} releases features as '{form}', the site's policy allows only "
                f"{', '.join(allowed)} and what removes more; use another package or change the policy"
            )
