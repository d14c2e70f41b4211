"""Attack 1: which records are of the same patient, and which record is of an image that somebody holds.

Every attacker searches the victims' records for those of one patient. What it does, it chooses on its own images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from featureloop.audit.descriptors import Codebooks, describe, describe_ordered
from featureloop.audit.findings import Arm, Finding, Measure, Point, apart, as_measure, strongest
from featureloop.audit.linking import Attacker, Known, Target, mated, prepare, search_of
from featureloop.audit.material import DRAWS, HOLDERS_DRAW, LEAST_GROUPS, Lab, Party, Release
from featureloop.audit.pictures import similarity_chart
from featureloop.audit.retrieval import Search, measures_of, top1_of
from featureloop.audit.rows import row_votes
from featureloop.audit.takes import takes_of
from featureloop.core.intervals import figure_maker, mean_of
from featureloop.core.types import Float32, Frame

Describe = Callable[[Sequence[Release]], Mapping[str, Float32]]
STRENGTHS = (1.0, 3.0, 3.0)
"""Of the attacker's takes of its own frames."""
SAME_IMAGE, OTHER_TAKE = "image-to-record top-1, the same image", "image-to-record top-1, another take of it"
APART = 10
"""Frames of an examination between two that are not neighbours."""


@dataclass(frozen=True, slots=True)
class LinkageSettings:
    """What the attacker spends.

    Attributes
    ----------
    takes
        Augmented takes of each of its own frames that it learns from, 1 to 3.
    draws
        How often it releases each take, where chance decides what of a frame leaves.
    steps
        Of training the siamese head.
    control
        Most frames of either side that the positive control is attacked on.
    held_images
        Most of the victims' images that somebody holds and searches with.
    curve
        Shares of the attacker's images, for the curve.
    """

    takes: int = 3
    draws: int = 1
    steps: int = 400
    control: int = 250
    held_images: int = 150
    curve: tuple[float, ...] = (0.25, 0.5)


def attack_linkage(lab: Lab, settings: LinkageSettings | None = None) -> Finding:
    """Search the victims' records for those of one patient, and run the same searches on the controls."""
    given = settings or LinkageSettings()
    single = len(mated(lab.victims.groups)) < LEAST_GROUPS
    books = Codebooks(lab.mine, seed=lab.seed, unit=lab.unit)
    described = partial(describe, books=books)
    known, targets = _known(lab, described, given), _targets(lab, described, single=single)
    target = targets[0]
    attacker = prepare(known, steps=given.steps, seed=lab.seed, progress=lab.progress)
    each = [attacker.similarities(t) for t in targets]
    found = {by: [s[by] for s in each] for by in each[0]}
    if not books.single and not single:
        found["nearest rows"] = [row_votes(r, r, books, progress=lab.progress) for r in lab.their_draws]
    measures = [
        m for by, s in found.items() for m in measures_of(s, target.search, arm="release", by=by, seed=lab.seed)
    ]
    best = strongest(measures, "top-1")
    measures += _recognition_alone(lab, single=single)
    measures += _far(lab, found[best.by], best.by) if not single else []
    measures += _image_to_record(lab, described, target.gallery, attacker, given)
    shallow, random = _shallow(lab, given, single=single), _random(lab, known, described, given, single=single)
    measures += [*shallow, *random]
    return Finding(
        attack="linkage",
        headline={
            "linkage.top1": best,
            "linkage.auc": strongest(measures, "AUC"),
            "linkage.image_top1": strongest(measures, SAME_IMAGE),
        },
        measures=tuple(measures),
        controls=apart([*shallow, *random], "top-1"),
        curve=_curve(known, target, best, given, lab),
        budget=_budget(lab, given),
        notes=_notes(lab, attacker, best, single=single),
        charts=(similarity_chart(found[best.by][0], target.search, by=best.by),),
    )


def _draws(lab: Lab, given: LinkageSettings) -> range:
    """Keys by which takes are released: one, and where chance decides what of a frame leaves, as many as are given."""
    return range(given.draws if len(lab.draws) > 1 else 1)


def _budget(lab: Lab, given: LinkageSettings) -> str:
    often, draws = len(_draws(lab, given)), len(lab.their_draws)
    return (
        f"{len(lab.attacker)} images of its own with {given.takes} takes of each"
        + (f", released {often} times" if often > 1 else "")
        + f", {given.steps} steps of training; a gallery of {len(lab.theirs)} records of "
        f"{len(np.unique(lab.victims.groups))} patients" + (f", drawn {draws} times" if draws > 1 else "")
    )


def _patients(releases: Sequence[Release], whole: Party) -> list[set[str]]:
    """Whose frames each record holds."""
    return [{str(whole.groups[i]) for i in r.frames} for r in releases]


def _known(lab: Lab, described: Describe, given: LinkageSettings) -> Known:
    takes: list[Sequence[Release]] = []
    for i, strength in enumerate(STRENGTHS[: given.takes]):
        frames = takes_of(lab.attacker.frames, seed=(lab.seed, 41, i), strength=strength)
        takes += lab.releases(frames, what="takes", draws=_draws(lab, given))
    groups = [np.array([min(p) for p in _patients(r, lab.attacker)]) for r in (lab.mine, *takes)]
    return Known(described(lab.mine), tuple(described(t) for t in takes), groups[0], tuple(groups[1:]))


def _targets(lab: Lab, described: Describe, *, single: bool) -> list[Target]:
    """Every draw of the victims' records, searched by themselves, or of `single` frames by another take of each."""
    draws, owners = lab.their_draws, _patients(lab.theirs, lab.victims)
    if not single:
        return [Target(described(records), search_of(owners)) for records in draws]
    takes = takes_of(lab.victims.frames, seed=(lab.seed, 43))
    others = lab.releases(takes, what="other takes", draws=range(DRAWS, DRAWS + len(draws)))
    search = search_of(_patients(others[0], lab.victims), owners)
    return [Target(described(r), search, described(o)) for r, o in zip(draws, others, strict=True)]


def _recognition_alone(lab: Lab, *, single: bool) -> tuple[Measure, ...]:
    """What the recognition links without any feature; of single frames it is the same for both takes or nearly."""
    if single:
        return ()
    each = []
    for records in lab.their_draws:
        told = np.stack([np.concatenate([r.rows.mean(0), r.rows.std(0)]) for r in records]).astype(np.float32)
        told = (told - told.mean(0)) / (told.std(0) + np.float32(1e-6))
        squared = (told**2).sum(1)
        each.append(2 * told @ told.T - squared[:, None] - squared)
    search = search_of(_patients(lab.theirs, lab.victims))
    return measures_of(each, search, arm="baseline", by="recognition alone", seed=lab.seed)


def _far(lab: Lab, draws: Sequence[Float32], by: str) -> tuple[Measure, ...]:
    """The search without the neighbours of a frame in its examination."""
    search = search_of(_patients(lab.theirs, lab.victims))
    place = np.zeros(len(lab.victims), np.intp)
    for name in np.unique(lab.victims.groups):
        own = np.flatnonzero(lab.victims.groups == name)
        place[own] = np.arange(len(own))
    first = place[[r.frames[0] for r in lab.theirs]]
    near = search.mates & (np.abs(first[:, None] - first[None]) < APART)
    far = Search(search.mates, search.allowed & ~near, search.groups)
    if not far.decided.any():
        return ()
    suffix = f", at least {APART} frames apart"
    return measures_of(draws, far, arm="release", by=by, seed=lab.seed, suffix=suffix)


def _image_to_record(
    lab: Lab, described: Describe, gallery: Mapping[str, Float32], attacker: Attacker, given: LinkageSettings
) -> list[Measure]:
    """Whether somebody who holds a victim's image finds its record: by the image itself, and by another take of it."""
    chosen = _evenly(len(lab.victims), given.held_images)
    held = lab.victims.only(chosen)
    owners = [{str(i) for i in r.frames} for r in lab.theirs]
    out = []
    takes = takes_of(held.frames, seed=(lab.seed, 47))
    for frames, name in ((held.frames, SAME_IMAGE), (takes, OTHER_TAKE)):
        asked = lab.release(frames, what="held images", draw=HOLDERS_DRAW)
        own = search_of([{str(chosen[i]) for i in r.frames} for r in asked], owners)
        search = Search(own.mates, own.allowed, np.array([held.groups[r.frames[0]] for r in asked]))
        found = attacker.similarities(Target(gallery, search, described(asked)))
        make = figure_maker(search.groups, seed=lab.seed)
        for by, s in found.items():
            figure = make(name, mean_of(top1_of(s, search)))
            out.append(as_measure(figure, arm="release", by=by, chance=search.chance_top1))
    return out


def _shallow(lab: Lab, given: LinkageSettings, *, single: bool) -> list[Measure]:
    """The positive control: the same attacker on ordered maps of the first layers."""
    mine = lab.attacker.only(_evenly(len(lab.attacker), given.control))
    theirs = lab.victims.only(_evenly(len(lab.victims), given.control))

    def maps(frames: Sequence[Frame]) -> Mapping[str, Float32]:
        return describe_ordered(lab.shallow(frames))

    known = Known(
        maps(mine.frames),
        (maps(takes_of(mine.frames, seed=(lab.seed, 41, 0))),),
        mine.groups,
        (mine.groups,),
    )
    owners = [{str(g)} for g in theirs.groups]
    gallery = maps(theirs.frames)
    target = Target(gallery, search_of(owners))
    if single:
        target = Target(gallery, search_of(owners, owners), maps(takes_of(theirs.frames, seed=(lab.seed, 43))))
    return _control(lab, known, target, given, arm="shallow")


def _random(lab: Lab, known: Known, described: Describe, given: LinkageSettings, *, single: bool) -> list[Measure]:
    """The negative control: the same attacker on values that know nothing of their frame."""
    some = _evenly(len(lab.mine), given.control)
    mine, theirs = [lab.mine[i] for i in some], [lab.theirs[i] for i in _evenly(len(lab.theirs), given.control)]
    groups = known.groups[some]
    base, takes = (described(lab.random(mine, seed=s)) for s in (1, 2))
    owners = _patients(theirs, lab.victims)
    target = Target(described(lab.random(theirs, seed=3)), search_of(owners))
    if single:
        target = Target(target.gallery, search_of(owners, owners), described(lab.random(theirs, seed=4)))
    return _control(lab, Known(base, (takes,), groups, (groups,)), target, given, arm="random")


def _control(lab: Lab, known: Known, target: Target, given: LinkageSettings, *, arm: Arm) -> list[Measure]:
    attacker = prepare(known, steps=max(1, given.steps // 2), seed=lab.seed, progress=lab.progress)
    found = attacker.similarities(target)
    return [m for by, s in found.items() for m in measures_of([s], target.search, arm=arm, by=by, seed=lab.seed)]


def _curve(known: Known, target: Target, best: Measure, given: LinkageSettings, lab: Lab) -> tuple[Point, ...]:
    """Top-1 of the strongest attacker that had fewer images and learned as often from each, and of all."""
    order = np.random.default_rng((lab.seed, 53)).permutation(known.patients)
    points = []
    for share in given.curve:
        part = known.only(order[: max(LEAST_GROUPS, round(share * len(order)))])
        steps = max(1, round(share * given.steps))
        found = prepare(part, steps=steps, seed=lab.seed, progress=lab.progress).similarities(target)
        make = figure_maker(target.search.groups, seed=lab.seed)
        each = [make("top-1", mean_of(top1_of(s, target.search))) for s in found.values()]
        top = max(each, key=lambda f: f.value)
        points.append(Point(images=len(part.groups), value=top.value, low=top.low, high=top.high))
    return (*points, Point(images=len(known.groups), value=best.value, low=best.low, high=best.high))


def _notes(lab: Lab, attacker: Attacker, best: Measure, *, single: bool) -> tuple[str, ...]:
    name, components = attacker.variant
    how = f"whitened to {components} components" if components else "standardized"
    said = [
        f"By cosine, the attacker chose on its own images the descriptor '{name}', {how} "
        f"(top-1 there {attacker.own[attacker.variant]:.2f}).",
        f"The strongest of its ways on the victims is '{best.by}'; the headline takes it, which favours the attacker.",
        "The holder of an image runs the public extractor on it and compares: that the same image finds its record is "
        "how features without noise are, and is no link between patients.",
    ]
    if single:
        said.append(
            "The victims' patients have one image each, so two takes of each image (cut, turned, lit, noisy, coded) "
            "stand for two records of a patient: more alike than two examinations would be."
        )
    else:
        said.append(
            "Frames that follow each other in an examination are nearly the same picture; the figures of frames that "
            f"are at least {APART} apart leave those out."
        )
    if len(mated(lab.attacker.groups)) < LEAST_GROUPS:
        said.append("The attacker's patients have one image each: it learned what takes of one image have in common.")
    return tuple(said)


def _evenly(count: int, most: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))
