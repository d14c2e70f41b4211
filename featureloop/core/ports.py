"""Seams, each a one-method Protocol. Their fakes are in `featureloop.testing`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from featureloop.core.types import Asked, Change, Frame, Opinion, Recognition, Skipped

Clock = Callable[[], float]
Sleep = Callable[[float], None]
Progress = Callable[[str, int, int], None]
"""Called as (what is being done, steps done, steps in all)."""
Log = Callable[[str, float, int], None]
"""Called as (name of a curve, its value, the step)."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """The learner's answer to one body of records.

    Attributes
    ----------
    held
        Ids (32 bytes) of the records that the learner holds durably, repeats included.
    refused
        Id to reason, for records that it will never take.
    """

    held: frozenset[bytes]
    refused: Mapping[bytes, str]


class FrameSource(Protocol):
    """Anything that yields frames, lazily; a bad one is yielded as `Skipped`."""

    def __iter__(self) -> Iterator[Frame | Skipped]: ...


class Reviewer(Protocol):
    """Who is asked when a recognition is doubtful."""

    def review(self, frame: Frame, recognition: Recognition) -> Change | None:
        """What replaces the recognition; None when there is no answer."""
        ...


class SecondOpinion(Protocol):
    """Who or what looks at a doubtful frame again, without a person."""

    def look_again(self, frame: Frame, recognition: Recognition) -> Opinion | None:
        """Another result of the recognition's task, with its own reliability; None where there is none to be had.

        Raises
        ------
        InputError
            The frame can't be recognized again.
        """
        ...


class AskLater(Protocol):
    """Where doubtful results wait for a person who answers later."""

    def keep(self, asked: Asked) -> None:
        """Keep a result until it is answered: on the disk when this returns, once for every key.

        Raises
        ------
        StorageError
            It can't be kept.
        """
        ...


class Wire(Protocol):
    """Delivers one body of records to the learner.

    Raises
    ------
    TransportError
        Try again later.
    AuthError, RecordError
        A repeat of the same body won't help.
    """

    def deliver(self, body: bytes) -> Receipt:
        """Send a body of records of any type (`sharing.together`), and return the receipt."""
        ...


def silent(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody looks at."""


def unlogged(_name: str, _value: float, _step: int) -> None:
    """Curves that nobody keeps."""
