"""From one recognized frame to what becomes of it: it leaves, is asked about, or stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from featureloop.core.errors import PackageError, PolicyError, RecordError
from featureloop.core.ports import AskLater, Clock, Reviewer, SecondOpinion
from featureloop.core.types import Asked, Change, Float32, Frame, Recognition, UInt8
from featureloop.device.advice import advisers_on
from featureloop.device.neighbours import Recognized
from featureloop.device.recording import Recorder, RecordKeeper
from featureloop.device.seen import Seen
from featureloop.device.state import frame_key
from featureloop.model.forms import allows
from featureloop.model.package import Package
from featureloop.sharing.change import ASKED, Decision, answered, decide
from featureloop.sharing.near import Look
from featureloop.sharing.policy import Policy
from featureloop.sharing.privacy import check_privacy
from featureloop.sharing.reliability import reliability


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """All that is needed to provide frames from one device; `provide` and `answer` may be called from several threads.

    Attributes
    ----------
    site, device
        Enrolled ids.
    site_key
        32 bytes that never leave the site; names frames and draws what leaves of them.
    second_opinion
        Who looks again where the policy says so; None: nobody.
    later
        Where doubtful results wait for a person, if nobody answers at once; None: they stay unanswered, and are
        asked about again when their frames come again.
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
    later: AskLater | None = None
    second_opinion: SecondOpinion | None = None
    _recorder: Recorder = field(init=False, repr=False, compare=False)
    _seen: Seen = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        recorder = Recorder(
            site=self.site,
            device=self.device,
            site_key=self.site_key,
            group_key=self.site_key if self.group_key is None else self.group_key,
            package=self.package,
            policy=self.policy,
            keeper=self.keeper,
            clock=self.clock,
        )
        object.__setattr__(self, "_recorder", recorder)
        object.__setattr__(self, "_seen", Seen(self.policy))

    @property
    def waiting(self) -> int:
        """Results that wait for others of other groups to share a record with; none is marked as done."""
        return self._recorder.waiting

    def keys_of(self, frame: Frame) -> tuple[bytes, ...]:
        """The keyed names of a frame's results under this extractor, so that a restart provides none twice.

        One a task, in the package's order; the first task's is the frame's own, as if it were the only one.
        """
        parts = (self.package.extractor_digest, frame.name, str(frame.index), frame.pixels.tobytes())
        own = frame_key(self.site_key, *parts)
        return (own, *(frame_key(self.site_key, own, head.task) for head in self.package.manifest.heads))

    def provide(
        self,
        frame: Frame,
        vectors: Float32,
        recognition: Recognition,
        *,
        key: bytes | None,
        around: Sequence[Recognized] = (),
    ) -> tuple[Decision, int]:
        """Apply the policy to a task's result of a frame; return the decision and the payload bytes that leave now.

        Where the form mixes frames, one waits in memory until enough of other groups are there; the last of them
        brings the record's bytes, and marks all of them as done.

        Parameters
        ----------
        key
            What marks it as done; None marks nothing.
        around
            What was recognized in neighbouring frames.

        Raises
        ------
        StorageError
            The outbox can't keep the record, or `later` the result; the frame counts as not done.
        RecordError
            The features can't be coded (not finite, outside their bounds).
        """
        package = self.package.view(recognition.task)
        manifest, share = package.manifest, self.policy.share
        trust = reliability(recognition, manifest.calibration)
        threshold = effective_threshold(package, self.policy)
        # Frames of one file without a group may be of one patient.
        group, look = frame.group or frame.name, self._seen.look(vectors, recognition, manifest)
        if self._seen.is_near(look, group, manifest):
            decision = Decision("near-duplicate", None, trust < threshold)
        else:
            advisers = advisers_on(
                Recognized(frame, vectors, recognition, key),
                around,
                manifest=manifest,
                reviewer=self.reviewer,
                second_opinion=self.second_opinion,
                later=self.later is not None and key is not None,
            )
            decision = decide(recognition, reliability=trust, threshold=threshold, share=share, advisers=advisers)
        if decision.outcome == ASKED and self.later is not None and key is not None:
            # Kept first: a crash before the mark only has it kept again, which changes nothing.
            self.later.keep(Asked(key, frame, vectors, recognition, trust, self.package.digest))
            self._seen.keep(look, group, manifest, name=key)
        if decision.leaves:
            waits = Asked(frame=frame, vectors=vectors, recognition=recognition, reliability=trust, key=key or b"")
            return decision, self._leave(waits, decision, look)
        # An unanswered frame is asked about again next time; the others are settled.
        if decision.outcome != "unanswered" and key is not None:
            self.keeper.mark_done(key, decision.outcome)
        return decision, 0

    def answer(self, asked: Asked, change: Change | None) -> tuple[Decision, int]:
        """Provide what a person said later of a result that waited; return the decision and the payload bytes.

        The same answer again gives the same, and is stored once; of different answers the first stands. Where the form
        mixes frames, the answered one may wait in memory for others: it is done when the outbox's outcome of its key is
        no longer `asked`, and until then is to be answered again after a restart.

        Parameters
        ----------
        change
            What replaces the recognition; with the recognition's own targets, it is confirmed. None: the frame is of
            no use, and nothing leaves.

        Raises
        ------
        PackageError
            Another package recognized it: a provider of that one is to be given the answer.
        StorageError
            The outbox can't keep the record; the frame still counts as asked about.
        RecordError
            The features can't be coded, or the targets are not of the recognition's form.
        """
        if asked.package not in (b"", self.package.digest):
            raise PackageError(
                f"the result was recognized by package {asked.package.hex()[:12]}, not by {self.package.short}; "
                "answer it under that package"
            )
        if change is not None:
            _check_rows(change.targets, asked.recognition)
        package = self.package.view(asked.recognition.task)
        doubtful = asked.reliability < effective_threshold(package, self.policy)
        decision = answered(asked.recognition, change, share=self.policy.share, doubtful=doubtful)
        if not decision.leaves:
            self.keeper.mark_done(asked.key, decision.outcome)
            return decision, 0
        look = self._seen.look(asked.vectors, asked.recognition, package.manifest)
        return decision, self._leave(asked, decision, look)

    def _leave(self, result: Asked, decision: Decision, look: Look | None) -> int:
        """Put what leaves into the outbox, and remember the frame; the payload bytes that leave now."""
        manifest, key = self.package.view(result.recognition.task).manifest, result.key or None
        group = result.frame.group or result.frame.name
        size = self._recorder.leave(result, decision, newness=self._seen.newness(look, group, manifest, name=key))
        self._seen.keep(look, group, manifest, name=key)
        return size


def _check_rows(targets: UInt8, recognition: Recognition) -> None:
    expected = recognition.targets()
    if targets.dtype != np.uint8 or targets.shape != expected.shape:
        raise RecordError(
            f"an answer has targets uint8 {expected.shape}, as the recognition, not {targets.dtype} {targets.shape}"
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
        check_privacy(view, policy.privacy, near_duplicates=policy.share.near_duplicates)


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
