"""Attack 4: where each row of a bag stood, from its values and its companions'; and the restored map for others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from featureloop.audit.findings import Arm, Finding, Measure, Point, apart, as_measure, strongest
from featureloop.audit.material import Lab, Party
from featureloop.audit.places import probed
from featureloop.audit.placing import Placed, Places
from featureloop.audit.restoring import Bag, Restorer, exact_of, is_pooled, learned, placed_bags
from featureloop.core.intervals import Float64, figure_maker, mean_of

ROWS = 16_000
"""Rows that bags hold together, where there are so many: of forms of few rows more bags than the settings say."""
PLANTED_NOISE = 0.02
"""On planted coordinates, as a share of the grid."""


@dataclass(frozen=True, slots=True)
class PositionSettings:
    """What the attacker spends.

    Attributes
    ----------
    steps
        Of training, each on 1024 rows; a control gets a quarter.
    bags
        Most of its own that it learns from.
    victims
        Most of the victims' bags that are put back; more of few rows (`ROWS`).
    control
        Most bags of either side in a control; more of few rows.
    curve
        Shares of its own bags, for the curve.
    """

    steps: int = 1200
    bags: int = 400
    victims: int = 50
    control: int = 40
    curve: tuple[float, ...] = (0.25, 0.5)


def restore(lab: Lab, settings: PositionSettings | None = None) -> Restorer:
    """Learn to place rows on the attacker's own maps; of a pooled form there is nothing to learn."""
    given = settings or PositionSettings()
    if is_pooled(lab):
        nothing = np.zeros(lab.mine[0].values.shape[1], np.float32)
        return Restorer(None, nothing, nothing + 1, lab.package.manifest.features.grid, 0.0)
    return learned(lab, _own_bags(lab, given.bags), steps=given.steps)


def _own_bags(lab: Lab, most: int) -> list[Bag]:
    """The attacker's records with the places of their rows, at most so many; made once a lab."""
    kept = f"{most} bags"
    if kept not in lab.learned:
        lab.learned[kept] = placed_bags(lab, [lab.mine[i] for i in _evenly(len(lab.mine), most)], lab.attacker)
    made: list[Bag] = lab.learned[kept]
    return made


def restorer_of(lab: Lab) -> Restorer:
    """What `restore` learns with the usual settings; once a lab."""
    if "restorer" not in lab.learned:
        lab.learned["restorer"] = restore(lab)
    made: Restorer = lab.learned["restorer"]
    return made


def attack_position(lab: Lab, settings: PositionSettings | None = None, *, restorer: Restorer | None = None) -> Finding:
    """Place the victims' rows, and those of the controls.

    Parameters
    ----------
    restorer
        What `restore` learned before with the same settings; None learns it.
    """
    given = settings or PositionSettings()
    grid = lab.package.manifest.features.grid
    if is_pooled(lab):
        return _nothing_to_place(lab, given)
    mine = _own_bags(lab, given.bags)
    most = max(given.victims, ROWS // len(lab.theirs[0].values))
    theirs = placed_bags(lab, [lab.theirs[i] for i in _evenly(len(lab.theirs), most)], lab.victims)
    if restorer is None:
        restorer = restorer_of(lab) if settings is None else learned(lab, mine, steps=given.steps)
    used = restorer
    measures = _measured(lab, used, theirs, arm="release", by="perceptron and jigsaw")
    alone = _measured(lab, replace(used, neighbours=0.0), theirs, arm="release", by="perceptron alone")
    measures += [m for m in alone if m.figure != "bits per row"]
    curve = _curve(lab, mine, theirs, strongest(alone, "exact ratio"), given)
    measures += _told(lab, mine, theirs)
    controls = _controls(lab, mine, theirs, given)
    ratio = strongest(measures, "exact ratio")
    return Finding(
        attack="position",
        headline={"position.exact_ratio": ratio},
        measures=(*measures, *controls),
        controls=apart(controls, "exact share"),
        curve=curve,
        curve_by="perceptron alone",
        budget=f"{len(mine)} maps of its own, {given.steps} steps of 1024 rows; {len(theirs)} records put back",
        notes=(
            *_kept(used),
            f"Exact is a row that was put into its own of {grid * grid} cells; rows that another one of the same "
            "record equals have no place of their own and don't count.",
            f"The neighbours' say got the weight {used.neighbours:g}, chosen on the attacker's own bags.",
        ),
    )


def _curve(
    lab: Lab, mine: Sequence[Bag], theirs: Sequence[Bag], whole: Measure, given: PositionSettings
) -> tuple[Point, ...]:
    """The exact ratio by a perceptron that learned on fewer of its own bags, as often on each, and on all."""
    points = []
    for share in given.curve:
        part = [mine[i] for i in _evenly(len(mine), max(1, round(share * len(mine))))]
        made = learned(lab, part, steps=max(1, round(share * given.steps)), weights=(0.0,))
        found = strongest(_measured(lab, made, theirs, arm="release", by=whole.by), "exact ratio")
        points.append(Point(images=len(part), value=found.value, low=found.low, high=found.high))
    return (*points, Point(images=len(mine), value=whole.value, low=whole.low, high=whole.high))


def _kept(restorer: Restorer) -> tuple[str, ...]:
    units = 1 if restorer.order is None else len(restorer.order.offsets)
    if units < 2:
        return ()
    return (f"The order of a record's rows keeps {units} rows together as they stood; they were placed together.",)


Change = Callable[[Placed, Sequence[Bag], int, np.random.Generator], Placed]


def _measured(lab: Lab, restorer: Restorer, bags: Sequence[Bag], *, arm: Arm, by: str) -> list[Measure]:
    found = []
    for i, bag in enumerate(bags):
        found.append(exact_of(restorer, bag))
        lab.progress("records put back", i + 1, len(bags))
    values: Float64 = np.array(found).T
    make, cells = figure_maker(np.array([b.group for b in bags]), seed=lab.seed), restorer.grid**2
    y, x = np.divmod(np.arange(cells), restorer.grid)
    random = float(np.hypot(y[:, None] - y, x[:, None] - x).mean())
    exact, away, bits = values
    # Fewer bits than none are none: a guesser would say all cells alike.
    rows = (
        ("exact share", exact, 1.0, 1 / cells),
        ("exact ratio", exact * cells, float(cells), 1.0),
        ("displacement in cells", away, math.inf, random),
        ("bits per row", np.maximum(bits, 0), math.inf, 0.0),
    )
    return [as_measure(make(n, mean_of(v), most=most), arm=arm, by=by, chance=c) for n, v, most, c in rows]


def _told(lab: Lab, mine: Sequence[Bag], theirs: Sequence[Bag]) -> list[Measure]:
    """What one vector alone tells of its place."""
    grid = lab.package.manifest.features.grid
    told = probed([b.placed for b in mine], [b.placed for b in theirs], grid=grid, seed=lab.seed)
    make = figure_maker(np.array([b.group for b in theirs]), seed=lab.seed)
    return [
        as_measure(make(figure, t.r2(columns)), arm="release", by=by, chance=0.0)
        for by, t in told.items()
        for figure, columns in (("R2 of the place", (0, 1)), ("R2 of the border's distance", (2,)))
    ]


def _controls(lab: Lab, mine: Sequence[Bag], theirs: Sequence[Bag], given: PositionSettings) -> list[Measure]:
    """The same attack where coordinates were appended to the vectors, and where values know nothing of their frame."""
    most = max(given.control, ROWS // len(theirs[0].placed.values))
    some, others = mine[:most], theirs[:most]
    grid, rng = lab.package.manifest.features.grid, np.random.default_rng((lab.seed, 71))
    steps = max(1, given.steps // 4)
    out: list[Measure] = []
    arms: tuple[tuple[Arm, str, Change], ...] = (
        ("planted", "coordinates appended", _with_coordinates),
        ("random", "perceptron and jigsaw", _drawn),
    )
    for arm, by, changed in arms:
        a, b = (
            [replace(x, placed=changed(_shuffled(x.placed, rng), some, grid, rng)) for x in side]
            for side in (some, others)
        )
        out += _measured(lab, learned(lab, a, steps=steps), b, arm=arm, by=by)
    return out


def _shuffled(placed: Placed, rng: np.random.Generator) -> Placed:
    at = rng.permutation(len(placed.values))
    return Placed(placed.values[at], placed.cells[at], placed.frames[at], placed.alone[at])


def _with_coordinates(placed: Placed, _bags: Sequence[Bag], grid: int, rng: np.random.Generator) -> Placed:
    y, x = np.divmod(placed.cells, grid)
    place = np.stack([x, y], axis=1) / grid + rng.normal(0, PLANTED_NOISE, (len(x), 2))
    values = np.concatenate([placed.values, place.astype(np.float32)], axis=1)
    return replace(placed, values=values, alone=np.ones(len(x), bool))


def _drawn(placed: Placed, bags: Sequence[Bag], _grid: int, rng: np.random.Generator) -> Placed:
    pool = bags[int(rng.integers(len(bags)))].placed.values
    drawn = rng.integers(0, len(pool), placed.values.shape)
    values = np.take_along_axis(pool, drawn, axis=0)
    return replace(placed, values=values, alone=np.ones(len(values), bool))


def _nothing_to_place(lab: Lab, given: PositionSettings) -> Finding:
    """Of pooled vectors: chance by construction; the controls run on the same extractor's vectors before pooling."""
    manifest = lab.package.manifest
    mine, theirs = (_whole_maps(lab, whole, given.control) for whole in (lab.attacker, lab.victims))
    controls = _controls(lab, mine, theirs, given)
    ratio = Measure(
        figure="exact ratio",
        arm="release",
        by="nothing to place",
        value=1.0,
        low=1.0,
        high=1.0,
        groups=len(np.unique(lab.victims.groups)),
        chance=1.0,
    )
    return Finding(
        attack="position",
        headline={"position.exact_ratio": ratio},
        measures=(ratio, *controls),
        controls=apart(controls, "exact share"),
        budget="none: a record holds one vector",
        notes=(
            "A record holds one vector of the whole frame: there is no row whose place could be told, so the ratio is "
            f"1 by construction. The controls ran on the {manifest.features.grid**2} vectors of the same extractor "
            "before they are pooled.",
        ),
    )


def _whole_maps(lab: Lab, whole: Party, most: int) -> list[Bag]:
    chosen = _evenly(len(whole), most)
    maps = lab.ordered([whole.frames[i] for i in chosen])
    n = maps.shape[1]
    every, zero, alone = np.arange(n), np.zeros(n, np.intp), np.ones(n, bool)
    return [Bag(Placed(m, every, zero, alone), 1, str(whole.groups[i])) for m, i in zip(maps, chosen, strict=True)]


def _evenly(count: int, most: int) -> Places:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))
