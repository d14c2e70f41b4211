"""From one recognized frame to what leaves of it: decide, anonymize, compress, put into the outbox."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from featureloop.core.errors import PolicyError
from featureloop.core.ports import Clock, Reviewer
from featureloop.core.types import Bag, Float32, Frame, Recognition, UInt8
from featureloop.device.state import frame_key, pseudonym
from featureloop.model.manifest import Manifest
from featureloop.model.package import Package
from featureloop.sharing import codec
from featureloop.sharing.anonymize import canonical_order
from featureloop.sharing.change import Decision, decide
from featureloop.sharing.policy import Policy
from featureloop.sharing.record import Record, quarter_of
from featureloop.sharing.reliability import reliability


class RecordKeeper(Protocol):
    """Where records wait: the outbox, or a test's list."""

    def put(self, record: Record, *, frame_key: bytes | None) -> bool:
        """Keep a record and mark its frame as done, in one transaction; False if it was known."""
        ...

    def mark_done(self, frame_key: bytes, outcome: str) -> None:
        """Mark a frame from which nothing leaves as done."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """All that is needed to provide frames from one device.

    Attributes
    ----------
    site, device
        Enrolled ids.
    site_key
        32 bytes that never leave the site; makes pseudonyms.
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
        """Apply the policy to a task's result of a frame; return the decision and the payload bytes that will leave.

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
        decision = decide(
            frame,
            recognition,
            reliability=trust,
            threshold=effective_threshold(package, self.policy),
            share=share,
            reviewer=self.reviewer,
        )
        if not decision.leaves:
            # An unanswered frame is asked about again next time; the others are settled.
            if decision.outcome != "unanswered" and key is not None:
                self.keeper.mark_done(key, decision.outcome)
            return decision, 0
        changed = None if decision.change is None else decision.change.targets
        symbols = codec.quantize(vectors, manifest.released)
        bag = canonical_order(Bag(symbols, recognition.targets(), changed))
        record = self._record(frame, bag, decision, trust, manifest)
        self.keeper.put(record, frame_key=key)
        return decision, len(record.features) + len(record.recognition or b"") + len(record.changed or b"")

    def _record(self, frame: Frame, bag: Bag, decision: Decision, trust: float, manifest: Manifest) -> Record:
        share, released = self.policy.share, manifest.released
        now = quarter_of(datetime.fromtimestamp(self.clock(), UTC).date())
        with_reliability = share.content != "result"
        with_result = share.content != "reliability" or decision.change is not None

        def rows(targets: UInt8) -> bytes:
            return codec.encode_rows(targets, released)

        return Record(
            site=self.site,
            device=self.device,
            package=self.package.digest,
            extractor=self.package.extractor_digest,
            task=manifest.task,
            anonymizer=released.anonymizer,
            vectors=len(bag.symbols),
            channels=released.channels,
            codec=codec.NAME,
            features=codec.encode_features(bag.symbols, released),
            recognition=rows(bag.recognized) if with_result else None,
            reliability=trust if with_reliability else None,
            reliability_method=manifest.calibration.method if with_reliability else None,
            changed=None if bag.changed is None else rows(bag.changed),
            changed_by=None if decision.change is None else str(decision.change.by),
            changed_when=None if decision.change is None else now,
            group=pseudonym(self.site_key, frame.group) if share.groups and frame.group else None,
            period=now,
        )


def effective_threshold(package: Package, policy: Policy) -> float:
    """The site's threshold where its policy has one, else the package's."""
    own = policy.share.threshold
    return package.manifest.calibration.threshold if own is None else own


def check_form(package: Package, policy: Policy) -> None:
    """Refuse to share under a package whose released form the site's policy doesn't allow.

    Raises
    ------
    PolicyError
        The form is not in the policy's list.
    """
    allowed = policy.share.anonymizers
    for view in package.views:
        form = view.manifest.released.anonymizer
        if form not in allowed:
            raise PolicyError(
                f"package {package.short} releases features as '{form}', the site's policy allows only "
                f"{', '.join(allowed)}; use another package or change the policy"
            )
