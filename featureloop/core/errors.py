"""The whole error tree: what was wrong, with the value, and what to do.

Every error that a user can meet derives from `FeatureloopError` and carries the
exit code of the command line. Foreign errors are translated where they arise.
"""

from __future__ import annotations

from typing import ClassVar


class FeatureloopError(Exception):
    """An error with a message that says what was wrong and what to do."""

    exit_code: ClassVar[int] = 1


class InputError(FeatureloopError):
    """An image, mask, folder or file that can't be used."""

    exit_code = 3


class PackageError(FeatureloopError):
    """A package that is missing, damaged, unsigned or of another line."""

    exit_code = 4


class PolicyError(FeatureloopError):
    """The site's sharing policy is malformed, or forbids what was asked."""

    exit_code = 5


class TransportError(FeatureloopError):
    """The learner could not be reached or answered something unusable. A retry may help."""

    exit_code = 6


class RetryLaterError(TransportError):
    """The learner asks to wait.

    Attributes
    ----------
    after_s
        For how many seconds; bounded by whoever read the answer.
    """

    def __init__(self, message: str, *, after_s: float) -> None:
        super().__init__(message)
        self.after_s = after_s


class MediaTypeRefusedError(TransportError):
    """The learner takes no bodies of this type: it is older than this device."""


class AuthError(FeatureloopError):
    """A token, enrolment code or signature was refused. A retry does not help."""

    exit_code = 7


class StorageError(FeatureloopError):
    """A disk is full or not writable, or a store can't be opened."""

    exit_code = 8


class RecordError(FeatureloopError):
    """Bytes that are no record, or a record that breaks its own declaration."""

    exit_code = 9


class BodyTooLargeError(RecordError):
    """A body over the limit of the learner, or of a proxy before it: only smaller ones are taken."""


class GateError(FeatureloopError):
    """A candidate did not pass the gate, or a life-cycle step is not allowed."""

    exit_code = 10


EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "an unexpected fault",
    2: "the command line was wrong",
    3: "an input can't be used, or no frame could be read",
    4: "the package is missing, damaged or not trusted",
    5: "the site's sharing policy is malformed or forbids it",
    6: "the learner can't be reached; what was to be sent waits in the outbox",
    7: "a token, enrolment code or signature was refused",
    8: "the disk is full or a store can't be opened",
    9: "bytes that are no valid record",
    10: "the gate did not let the candidate pass",
    130: "interrupted",
}
