"""Attack 3, burned-in text: whether there is any, where, and what it says.

Synthetic names, dates and numbers are drawn into frames of both sides before extraction. Probes learn on the attacker's
frames and are asked about the victims'. For what it says, the attacker is given the layout: a number always stands at
one place, in one font and size, as a maker's devices put it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from featureloop.audit.descriptors import Codebooks, describe
from featureloop.audit.findings import Arm, Finding, Measure, Point, apart, as_measure, strongest
from featureloop.audit.material import Lab, Party, Release
from featureloop.audit.overlays import CORNERS, NUMBER, number_box, write_lines, write_number
from featureloop.audit.probes import area_of, log_odds
from featureloop.audit.text_rows import RowProbe
from featureloop.core.intervals import Float64, Statistic, figure_maker, mean_of
from featureloop.core.types import Float32, Frame

PRESENCE, CORNER, READ = "text there, AUC", "corner told", "digits read, by chance"
PROBES = ("linear", "perceptron")
DESCRIPTORS = ("vector", "mean and deviation", "quantiles", "second moments")
"""Of a record, those that tell most of text on the attacker's own frames; rows are asked one by one besides."""
DIGITS = 10
CONTROL_GRID = 20
"""Cells per side of the positive control as a bag of rows."""

Labels = NDArray[np.intp]
_Side = tuple[list[Frame], Labels]
"""A side's frames, and the corner that each has text in; -1 for none."""


@dataclass(frozen=True, slots=True)
class TextSettings:
    """What the attacker spends.

    Attributes
    ----------
    most
        Frames of either side.
    numbers
        Numbers that are drawn into each of the attacker's frames.
    curve
        Shares of the attacker's frames, for the curve.
    """

    most: int = 300
    numbers: int = 3
    curve: tuple[float, ...] = (0.25, 0.5)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Records of one side with what is to be told of them: labels intp (M,), groups str (M,)."""

    releases: Sequence[Release]
    labels: Labels
    groups: NDArray[np.str_]


@dataclass(frozen=True, slots=True, eq=False)
class _Arm:
    """What is measured, on what, and of whom."""

    figure: str
    arm: Arm
    groups: NDArray[np.str_]
    seed: int
    chance: float

    def measure(self, by: str, statistic: Statistic, *, most: float = 1.0) -> Measure:
        """A statistic of record numbers with its interval."""
        figure = figure_maker(self.groups, seed=self.seed)(self.figure, statistic, most=most)
        return as_measure(figure, arm=self.arm, by=by, chance=self.chance)


def attack_text(lab: Lab, settings: TextSettings | None = None) -> Finding:
    """Tell of the victims' records whether text was on their frames, where, and what it said."""
    given = settings or TextSettings()
    mine, theirs = (_thinned(side, given.most, seed=lab.seed) for side in (lab.attacker, lab.victims))
    sides = [_with_text(lab, side, at) for at, side in enumerate((mine, theirs))]
    left = [lab.release(frames, what="frames with text") for frames, _ in sides]
    presence, curve = _presence(lab, sides, left, mine, given)
    measures = [*presence, *_corners(lab, sides, left), *_digits(lab, mine, theirs, given)]
    return Finding(
        attack="text",
        headline={
            "text.presence_auc": strongest(measures, PRESENCE),
            "text.character_ratio": strongest(measures, READ),
        },
        measures=tuple(measures),
        controls=all(apart(measures, figure) for figure in (PRESENCE, READ)),
        curve=curve,
        curve_by="probes of whole records",
        budget=(
            f"{len(mine)} of the attacker's frames, {given.numbers} numbers drawn into each, and {len(theirs)} of the "
            "victims'; linear and non-linear probes of whole records, and of single rows."
        ),
        notes=(
            "Text is one to three lines in a corner, wherever that falls: on the border or over what is seen. "
            "The attacker knows the font, and of the number its place and size.",
        ),
    )


def _thinned(side: Party, most: int, *, seed: int) -> Party:
    chosen = np.random.default_rng((seed, 41)).permutation(len(side))[:most]
    return side.only(np.sort(chosen))


def _with_text(lab: Lab, side: Party, at: int) -> _Side:
    """Every frame with text or without, by lot, and the corner it is in; -1 for none.

    Where frames share a record, text is rarer, so that half of the records have some.
    """
    share = 1 - 0.5 ** (1 / lab.package.manifest.released.form.mix)
    frames, corners = [], []
    for i, frame in enumerate(side.frames):
        rng = np.random.default_rng((lab.seed, 42, at, i))
        written = write_lines(frame, rng) if rng.random() < share else None
        frames.append(written.frame if written else frame)
        corners.append(written.corner if written else -1)
    return frames, np.array(corners)


def _seen(releases: Sequence[Release], labels: Labels, frames: Sequence[Frame]) -> _Seen:
    """Records with the largest label of their frames."""
    groups = np.array([frames[r.frames[0]].group or frames[r.frames[0]].name for r in releases])
    return _Seen(releases, np.array([labels[list(r.frames)].max() for r in releases]), groups)


def _presence(
    lab: Lab, sides: Sequence[_Side], left: Sequence[Sequence[Release]], mine: Party, given: TextSettings
) -> tuple[list[Measure], tuple[Point, ...]]:
    """How well records of frames with text are told from others, on all three arms; and by fewer of the attacker's."""
    known, asked = (_seen(r, (c >= 0).astype(np.intp), f) for r, (f, c) in zip(left, sides, strict=True))
    if len(np.unique(known.labels)) < 2 or len(np.unique(asked.labels)) < 2:
        return [], ()
    found = dict(_told(known, asked, seed=lab.seed))
    curve = _curve(known, asked, found, given, seed=lab.seed)
    if lab.package.manifest.released.form.base != "pool":
        rows = RowProbe(lab, mine)
        score = np.array([rows.score(r.values) for r in asked.releases])
        found["rows, one by one"] = np.stack([-score, score], axis=1)
    blind = [replace(s, releases=lab.random(s.releases, seed=i)) for i, s in enumerate((known, asked))]
    shown = [_seen(_as_rows(lab.shallow(f, what="text in the control")), (c >= 0).astype(np.intp), f) for f, c in sides]
    arms: list[tuple[Arm, _Seen, Mapping[str, Float64]]] = [
        ("release", asked, found),
        ("random", asked, _told(blind[0], blind[1], seed=lab.seed)),
        ("shallow", shown[1], _told(shown[0], shown[1], seed=lab.seed)),
    ]
    measures = [
        _Arm(PRESENCE, arm, seen.groups, lab.seed, 0.5).measure(by, area_of(odds, seen.labels))
        for arm, seen, told in arms
        for by, odds in told.items()
    ]
    return measures, curve


def _curve(
    known: _Seen, asked: _Seen, whole: Mapping[str, Float64], given: TextSettings, *, seed: int
) -> tuple[Point, ...]:
    """The strongest probe of whole records that learned from fewer of the attacker's, and from all."""
    arm, points = _Arm(PRESENCE, "release", asked.groups, seed, 0.5), []
    order = np.random.default_rng((seed, 46)).permutation(len(known.labels))
    for share in (*given.curve, 1.0):
        part = order[: round(share * len(order))]
        some = _Seen([known.releases[i] for i in part.tolist()], known.labels[part], known.groups[part])
        if len(np.unique(some.labels)) < 2:
            continue
        told = whole if share == 1 else _told(some, asked, seed=seed)
        best = max((arm.measure(by, area_of(odds, asked.labels)) for by, odds in told.items()), key=lambda m: m.value)
        points.append(Point(images=len(part), value=best.value, low=best.low, high=best.high))
    return tuple(points)


def _corners(lab: Lab, sides: Sequence[_Side], left: Sequence[Sequence[Release]]) -> list[Measure]:
    """How often the corner is told, of frames with text that have a record of their own."""
    if lab.package.manifest.released.form.mix > 1:
        return []
    known, asked = (
        _seen([r for r in releases if corners[r.frames[0]] >= 0], corners, frames)
        for releases, (frames, corners) in zip(left, sides, strict=True)
    )
    if len(np.unique(known.labels)) < len(CORNERS):
        return []
    place = _Arm(CORNER, "release", asked.groups, lab.seed, 1 / len(CORNERS))
    told = _told(known, asked, seed=lab.seed).items()
    return [place.measure(by, mean_of(_hits(odds, asked.labels))) for by, odds in told]


def _digits(lab: Lab, mine: Party, theirs: Party, given: TextSettings) -> list[Measure]:
    """How often a digit is read, over what chance gives, on all three arms."""
    parts, maps, drawn = [], [], []
    for at, (side, count) in enumerate(((mine, given.numbers), (theirs, 1))):
        digits = np.random.default_rng((lab.seed, 43, at)).integers(0, DIGITS, (count * len(side), NUMBER))
        frames = [write_number(side.frames[i % len(side)], digits[i]) for i in range(len(digits))]
        parts.append(_seen(lab.release(frames, what="frames with a number"), np.arange(len(frames)), frames))
        maps.append(_number_part(lab.shallow(frames, what="numbers in the control"), lab.size))
        drawn.append(digits)
    own = [d[[r.frames[0] for r in p.releases]] for d, p in zip(drawn, parts, strict=True)]
    blind = [lab.random(p.releases, seed=9 + i) for i, p in enumerate(parts)]
    groups = parts[1].groups
    measures = []
    arms: list[tuple[Arm, Sequence[Sequence[Release]]]] = [("release", [p.releases for p in parts]), ("random", blind)]
    for arm, (known, asked) in arms:
        books = Codebooks(known, seed=lab.seed)
        learned, looked = (_chosen(describe(x, books)) for x in (known, asked))
        measures += [
            _read(learned[name], looked[name], own, _Arm(READ, arm, groups, lab.seed, 1.0), f"{name}, linear")
            for name in learned
        ]
    whose = np.array([f.group or f.name for f in theirs.frames])
    control = _Arm(READ, "shallow", whose, lab.seed, 1.0)
    return [*measures, _read(maps[0], maps[1], drawn, control, "the place, linear")]


def _read(known: Float32, asked: Float32, digits: Sequence[Labels], of: _Arm, by: str) -> Measure:
    """The share of digits read, of all places, over the share by chance."""
    hits = np.zeros(len(asked))
    for place in range(NUMBER):
        odds = log_odds(known, digits[0][:, place], asked, by="linear", seed=of.seed)
        hits += _hits(odds, digits[1][:, place])
    return of.measure(by, mean_of(hits / NUMBER * DIGITS), most=DIGITS)


def _told(known: _Seen, asked: _Seen, *, seed: int) -> Mapping[str, Float64]:
    """Log-odds of the labels asked for, by every descriptor under every probe."""
    books = Codebooks(known.releases, seed=seed)
    x, others = (_chosen(describe(s.releases, books)) for s in (known, asked))
    return {
        f"{name}, {by}": log_odds(x[name], known.labels, others[name], by=by, seed=seed) for name in x for by in PROBES
    }


def _chosen(described: Mapping[str, Float32]) -> dict[str, Float32]:
    return {name: x for name, x in described.items() if name in DESCRIPTORS}


def _hits(odds: Float64, labels: Labels) -> Float64:
    return np.asarray(odds.argmax(axis=1) == labels, np.float64)


def _as_rows(maps: Float32) -> list[Release]:
    """Ordered maps float32 (M, C, h, w) as bags of their cells' means and extremes."""
    m, c, h, _ = maps.shape
    k = max(1, h // CONTROL_GRID)
    cut = maps[:, :, : h // k * k, : h // k * k].reshape(m, c, h // k, k, h // k, k)
    cells = np.concatenate([cut.mean((3, 5)), cut.max((3, 5))], axis=1).reshape(m, 2 * c, -1).transpose(0, 2, 1)
    nothing = np.zeros((1, 1), np.uint8)
    return [Release(np.ascontiguousarray(x, np.float32), nothing, 0, (i,)) for i, x in enumerate(cells)]


def _number_part(maps: Float32, size: int) -> Float32:
    """The part of ordered maps in which the number stands, float32 (M, D)."""
    height, width = (-(-side * maps.shape[2] // size) for side in number_box(size))
    return np.ascontiguousarray(maps[:, :, :height, :width].reshape(len(maps), -1))
