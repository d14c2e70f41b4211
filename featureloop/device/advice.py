"""Who is asked about a result: the person, the neighbouring frames, and who gives a second opinion."""

from __future__ import annotations

from collections.abc import Sequence

from featureloop.core.errors import RecordError
from featureloop.core.ports import Reviewer, SecondOpinion
from featureloop.core.types import Opinion
from featureloop.device.neighbours import Recognized
from featureloop.model.manifest import Manifest
from featureloop.sharing.change import Advisers
from featureloop.sharing.consensus import combined
from featureloop.sharing.near import same_scene
from featureloop.sharing.reliability import reliability


def advisers_on(
    mine: Recognized,
    around: Sequence[Recognized],
    *,
    manifest: Manifest,
    reviewer: Reviewer | None,
    second_opinion: SecondOpinion | None,
    later: bool,
) -> Advisers:
    """What can be asked about a result; nothing is, until the policy's steps come to it.

    Parameters
    ----------
    around
        What was recognized in neighbouring frames.
    manifest
        Of the package that recognizes, for this one task.
    later
        Whether a person can be asked later.
    """
    frame, recognition = mine.frame, mine.recognition

    def consensus() -> Opinion | None:
        near = [other.recognition for other in around if _shows_the_same(mine, other, manifest)]
        if not near:
            return None
        mean = combined([recognition, *near])
        return Opinion(mean, reliability(mean, manifest.calibration))

    return Advisers(
        person=lambda: None if reviewer is None else reviewer.review(frame, recognition),
        later=later,
        consensus=consensus,
        second_opinion=lambda: None if second_opinion is None else second_opinion.look_again(frame, recognition),
    )


def _shows_the_same(mine: Recognized, other: Recognized, manifest: Manifest) -> bool:
    """Whether a neighbouring frame shows what a frame shows: not where a film was cut, or another view was taken."""
    if manifest.released.usually_apart:
        try:
            return same_scene(mine.vectors, other.vectors, manifest.released)
        except RecordError:
            return False
    # A package that can't tell is believed where both are of one film.
    return mine.frame.name == other.frame.name
