"""One contract for all released forms and their compositions: what leaves is what the form says, nothing of places."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featureloop.core.errors import InputError, PackageError, RecordError
from featureloop.core.types import Bag, Bool, Float32, UInt8
from featureloop.model.accountant import guarantee
from featureloop.model.forms import BASES, Form, allows, parse_form, request_form, with_clip
from featureloop.model.manifest import (
    FeatureSpec,
    Lineage,
    Manifest,
    Preprocessing,
    RecognizerSpec,
    ReleasedForm,
    uncalibrated,
)
from featureloop.model.manifest_checks import check
from featureloop.sharing import codec
from featureloop.sharing.anonymize import in_canonical_order, release_vectors
from featureloop.sharing.draws import Draws
from featureloop.sharing.mixing import MOST, Mixer
from featureloop.sharing.release import coded, decoded, joined, part_of
from featureloop.sharing.view import positions_in_view
from featureloop.testing import flat_order, flat_tables, make_record

GRID, CHANNELS = 4, 3
N = GRID**2
SECRET = b"a site's own secret"
SEEDS = st.integers(0, 2**32 - 1)
FORMS = [
    "set",
    "pool",
    "window=2",
    "none",
    "set subset=6",
    "set subset=6,balanced",
    "set mix=3",
    "set noise=0.5,clip=0.8",
    "set quantize=3",
    "pool noise=1.0,clip=0.5",
    "pool noise=1.0,clip=0.5 quantize=4",
    "window=2 subset=8",
    "window=2 subset=8,balanced mix=2",
    "window=2 noise=0.1,clip=1.0",
    "none quantize=2",
    "none mix=2",
    "set subset=16 mix=2 noise=0.2,clip=0.5 quantize=5",
    "set subset=5,balanced mix=2 noise=2.0,clip=1.5",
]
OWN_ROWS = [text for text in FORMS if not text.startswith("pool")]
WHOLE_FRAME = [t for t in FORMS if "mix" not in t and "balanced" not in t]


@dataclass(frozen=True, eq=False)
class Seen:
    """A frame as it is recognized: vectors, rows of targets, what replaced them, and the field of view."""

    vectors: Float32
    recognized: UInt8
    changed: UInt8 | None
    view: Bool | None


@cache
def released(text: str) -> ReleasedForm:
    form = parse_form(text)
    n = 2 * CHANNELS if form.base == "pool" else CHANNELS
    low, high = ([-1.0] * CHANNELS + [0.0] * (n - CHANNELS), [1.0] * n)
    room, levels = 4 * form.noise * form.clip, min(form.quantize or 8, 8)
    table = codec.frequency_table(np.zeros(levels))
    bounds = tuple(x - room for x in low), tuple(x + room for x in high)
    plain = ReleasedForm(text, n, *bounds, (levels,) * n, (table,) * n, flags=4)
    if form.base == "pool":
        return plain
    ordered = None if form.base == "set" else flat_order(plain.levels)
    return replace(plain, bag=flat_tables(plain.levels, 4), ordered=ordered)


def manifest(text: str, *, own: bool) -> Manifest:
    """Of a package whose recognizer gives every vector a row of 4 flags, or one of 4 classes to the frame."""
    form = parse_form(text)
    kind = "set" if own else "global" if form.base == "pool" else "attention"
    made = Manifest(
        task="segmentation" if own else "classification",
        labels=("lesion",),
        version="1.0",
        preprocessing=Preprocessing(64),
        features=FeatureSpec(CHANNELS, 16, GRID),
        recognizer=RecognizerSpec(kind, 4, 0, 4, context=form.context),
        released=released(text),
        calibration=uncalibrated("expected-dice" if own else "max-probability"),
        lineage=Lineage(),
    )
    check(made)
    return made


@st.composite
def frames(draw: st.DrawFn, *, own: bool, changed: bool) -> Seen:
    rng = np.random.default_rng(draw(SEEDS))
    # A few values make rows common that are equal in vectors, in targets, or in both.
    values = draw(st.sampled_from([np.array([0.25]), np.array([-1.0, 0.0, 1.0]), np.linspace(-1, 1, 1001)]))
    n = N if own else 1
    view = rng.random(N) < draw(st.sampled_from([0.0, 0.3, 0.8, 1.0])) if draw(st.booleans()) else None
    rows = rng.integers(0, 2, (2, n, 4)).astype(np.uint8)
    vectors = rng.choice(values, (N, CHANNELS)).astype(np.float32)
    return Seen(vectors, rows[0], rows[1] if changed else None, view)


def moved(seen: Seen, order: NDArray[np.intp]) -> Seen:
    """The same frame with its positions elsewhere."""
    own = len(seen.recognized) == N
    return Seen(
        seen.vectors[order],
        seen.recognized[order] if own else seen.recognized,
        seen.changed[order] if own and seen.changed is not None else seen.changed,
        None if seen.view is None else seen.view[order],
    )


def part(seen: Seen, text: str, *, secret: bytes = SECRET) -> Bag:
    form = released(text)
    vectors = release_vectors(seen.vectors, form)
    return part_of(vectors, seen.recognized, seen.changed, released=form, grid=GRID, view=seen.view, secret=secret)


def bag_of(several: list[Seen], text: str, *, secret: bytes = SECRET) -> Bag:
    return joined([part(seen, text, secret=secret) for seen in several], released=released(text), grid=GRID)


def payload(several: list[Seen], text: str) -> object:
    return coded(bag_of(several, text), released(text))


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, list[Seen], bool]:
    """A form, as many frames as share a record in it, and whether every vector has its own row."""
    own = draw(st.booleans())
    text = draw(st.sampled_from(OWN_ROWS if own else WHOLE_FRAME))
    changed = draw(st.booleans())
    several = [draw(frames(own=own, changed=changed)) for _ in range(parse_form(text).mix)]
    return text, several, own


def kept(form: Form, rng: np.random.Generator) -> NDArray[np.intp]:
    """A permutation of positions that a form says nothing of."""
    if form.base == "none":
        return np.arange(N)
    if form.base != "window":
        return rng.permutation(N)
    windows = np.arange(N).reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4)
    places, order = np.empty(N, np.intp), rng.permutation(4)
    places[windows.reshape(-1)] = windows[order].reshape(-1)
    return places


@settings(deadline=None, max_examples=300)
@given(cases(), SEEDS)
def test_where_vectors_stood_does_not_show_in_a_single_byte(case: tuple[str, list[Seen], bool], seed: int) -> None:
    text, several, _ = case
    rng = np.random.default_rng(seed)
    elsewhere = [moved(seen, kept(parse_form(text), rng)) for seen in several]
    rng.shuffle(elsewhere)  # type: ignore[arg-type]  # nor which frame came first
    assert payload(several, text) == payload(elsewhere, text)


@pytest.mark.parametrize("text", [t for t in OWN_ROWS if t.startswith(("window", "none"))])
def test_a_form_that_keeps_order_keeps_no_more_than_it_says(text: str) -> None:
    """Another order inside a window, or of the map, is another record; else the form would promise too little."""
    rng = np.random.default_rng(0)
    several = [
        Seen(rng.uniform(-1, 1, (N, CHANNELS)).astype(np.float32), np.zeros((N, 4), np.uint8), None, None)
        for _ in range(parse_form(text).mix)
    ]
    swapped = np.arange(N)
    swapped[[0, 1, 2, 3, 8, 9, 10, 11]] = [1, 0, 3, 2, 9, 8, 11, 10]  # neighbours, in windows of 2 x 2 too
    assert payload(several, text) != payload([moved(seen, swapped) for seen in several], text)


@settings(deadline=None, max_examples=200)
@given(cases())
def test_a_record_has_the_declared_shape_and_decodes_to_what_was_released(case: tuple[str, list[Seen], bool]) -> None:
    text, several, own = case
    form, package, bag = parse_form(text), manifest(text, own=own), bag_of(several, text)
    n = form.rows(GRID)
    assert bag.symbols.shape == (n, package.released.channels)
    assert bag.recognized.shape == (n if own else 1, 4)
    assert (bag.symbols.dtype, bag.recognized.dtype) == (np.uint8, np.uint8)
    assert (bag.symbols < np.array(package.released.levels)).all()
    assert in_canonical_order(bag, unit=form.unit(GRID))
    written = coded(bag, package.released)
    left = decoded(written.features, written.recognition, None, package)
    np.testing.assert_array_equal(left.symbols, bag.symbols)
    np.testing.assert_array_equal(left.recognized, bag.recognized)
    values = codec.dequantize(left.symbols, package.released)
    assert (values >= np.float32(package.released.low)).all()
    assert (values <= np.float32(package.released.high)).all()
    record = make_record(0, anonymizer=text, vectors=n, channels=package.released.channels)
    assert (record.anonymizer, record.vectors) == (text, n)


@settings(deadline=None, max_examples=150)
@given(cases())
def test_targets_stay_with_their_vectors_and_none_is_made_up(case: tuple[str, list[Seen], bool]) -> None:
    text, several, own = case
    form = parse_form(text)
    if form.noise or form.base == "pool" or not own:
        return
    bag, names = bag_of(several, text), list[tuple[int, ...]]()
    for seen in several:
        parts = [codec.quantize(seen.vectors, released(text)), seen.recognized]
        parts += [] if seen.changed is None else [seen.changed]
        names += [tuple(row) for row in np.concatenate(parts, axis=1).tolist()]
    parts = [bag.symbols, bag.recognized] + ([] if bag.changed is None else [bag.changed])
    left = [tuple(row) for row in np.concatenate(parts, axis=1).tolist()]
    if form.subset:
        assert not set(left) - set(names)
        assert all(left.count(row) <= names.count(row) for row in set(left))
    else:
        assert sorted(left) == sorted(names)


@settings(deadline=None, max_examples=100)
@given(cases())
def test_inputs_stay_as_they_are_and_a_repeat_gives_the_same(case: tuple[str, list[Seen], bool]) -> None:
    text, several, _ = case
    before = [
        tuple(None if x is None else x.copy() for x in (s.vectors, s.recognized, s.changed, s.view)) for s in several
    ]
    first = payload(several, text)
    for seen, was in zip(several, before, strict=True):
        for now, then in zip((seen.vectors, seen.recognized, seen.changed, seen.view), was, strict=True):
            np.testing.assert_array_equal(now, then)
    assert payload(several, text) == first


def still(value: float = 0.25) -> Seen:
    return Seen(np.full((N, CHANNELS), value, np.float32), np.zeros((N, 4), np.uint8), None, None)


@pytest.mark.parametrize("text", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(text: str, value: float) -> None:
    seen = still()
    seen.vectors[3, 1] = value
    form = released(text)
    vectors = seen.vectors[:1].repeat(form.channels, 1)[:, : form.channels] if text.startswith("pool") else seen.vectors
    vectors = np.where(np.isfinite(vectors), vectors, value).astype(np.float32)
    if text.startswith("pool"):
        vectors[0, 0] = value
    rows = seen.recognized[: len(vectors)]
    with pytest.raises(RecordError, match="NaN or infinity"):
        part_of(vectors, rows, released=form, grid=GRID, secret=SECRET)


@pytest.mark.parametrize("text", FORMS)
@pytest.mark.parametrize("n", [0, 1, N - 1, N + 1])
def test_a_map_of_another_size_is_refused(text: str, n: int) -> None:
    form = released(text)
    if n == 1 and form.form.base == "pool":
        return
    vectors = np.zeros((n, form.channels), np.float32)
    with pytest.raises(RecordError, match="values in the form"):
        part_of(vectors, np.zeros((max(n, 1), 4), np.uint8), released=form, grid=GRID, secret=SECRET)


@pytest.mark.parametrize("text", FORMS)
def test_rows_that_are_all_equal_leave_like_others(text: str) -> None:
    form = parse_form(text)
    seen = still() if form.base != "pool" else replace(still(), recognized=np.zeros((1, 4), np.uint8))
    bag = bag_of([seen] * form.mix, text)
    assert len(bag.symbols) == form.rows(GRID)
    if not form.noise:
        assert len(np.unique(bag.symbols, axis=0)) == 1


@pytest.mark.parametrize("text", [t for t in FORMS if "subset" in t or "noise" in t])
def test_a_draw_needs_a_secret_and_another_secret_draws_otherwise(text: str) -> None:
    rng = np.random.default_rng(0)
    seen = replace(still(), vectors=rng.uniform(-1, 1, (N, CHANNELS)).astype(np.float32))
    if text.startswith("pool"):
        seen = replace(seen, recognized=seen.recognized[:1])
    several = [seen] * parse_form(text).mix
    with pytest.raises(RecordError, match="secret"):
        bag_of(several, text, secret=b"")
    if "subset=16" not in text or "noise" in text:
        others = {coded(bag_of(several, text, secret=b"%d" % i), released(text)).features for i in range(8)}
        assert len(others) > 1


def test_frames_that_share_a_record_are_as_many_as_declared_and_all_changed_or_none() -> None:
    one, two = part(still(), "none mix=2"), part(still(0.5), "none mix=2")
    with pytest.raises(RecordError, match="2 frames, not 1"):
        joined([one], released=released("none mix=2"), grid=GRID)
    with pytest.raises(RecordError, match="some of the frames"):
        joined([one, replace(two, changed=two.recognized)], released=released("none mix=2"), grid=GRID)


def view_of(*inside: int) -> Bool:
    view = np.zeros(N, np.bool_)
    view[list(inside)] = True
    return view


@pytest.mark.parametrize(("lesions", "expected"), [(0, 0), (2, 2), (3, 3), (8, 3), (12, 4), (14, 6)])
def test_a_balanced_subset_is_half_lesion_as_far_as_there_are_both(lesions: int, expected: int) -> None:
    """In 14 positions in view; the two others fill up only where those don't reach."""
    rng = np.random.default_rng(1)
    rows = np.zeros((N, 4), np.uint8)
    rows[:lesions, 0] = 1
    seen = Seen(rng.uniform(-1, 1, (N, CHANNELS)).astype(np.float32), rows, None, view_of(*range(14)))
    bag = part(seen, "set subset=6,balanced")
    assert int(bag.recognized.any(axis=1).sum()) == expected


def test_balance_follows_the_result_that_leaves() -> None:
    rows = np.zeros((N, 4), np.uint8)
    seen = Seen(np.random.default_rng(1).uniform(-1, 1, (N, CHANNELS)).astype(np.float32), rows, 1 - rows, None)
    bag = part(seen, "set subset=6,balanced")
    assert bag.changed is not None
    assert bag.changed.all()


def test_a_subset_is_of_the_field_of_view_and_filled_up_where_that_is_small() -> None:
    vectors = np.linspace(-1, 1, N * CHANNELS, dtype=np.float32).reshape(N, CHANNELS)
    rows = np.zeros((N, 4), np.uint8)
    rows[:8, 0] = 1
    for inside, seen_of in ((8, 6), (4, 4), (0, 0)):
        bag = part(Seen(vectors, rows, None, view_of(*range(inside))), "set subset=6")
        assert int(bag.recognized[:, 0].sum()) >= seen_of
        assert len(bag.symbols) == 6


def test_every_vector_is_drawn_as_often_as_another() -> None:
    counts, runs = np.zeros(N), 2000
    rows = np.eye(N, dtype=np.uint8)
    vectors = np.random.default_rng(0).uniform(-1, 1, (N, CHANNELS)).astype(np.float32)
    for i in range(runs):
        bag = part_of(vectors, rows, released=released("set subset=6"), grid=GRID, secret=b"%d" % i)
        counts += bag.recognized.sum(axis=0)
    expected = runs * 6 / N
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert chi2 < 37.7  # 99.9% of chi-squared with 15 degrees of freedom


@pytest.mark.parametrize("border", ["wide", "written on", "none", "all black"])
def test_positions_in_the_border_are_out_of_view_whatever_is_written_there(border: str) -> None:
    pixels = np.full((160, 160, 3), 120, np.uint8)
    expected = np.ones((4, 4), np.bool_)
    if border in ("wide", "written on"):
        pixels[:, :48], expected[:, 0] = 4, False
        if border == "written on":
            pixels[60:64, 8:30] = 255
    elif border == "all black":
        pixels[:] = 0
    np.testing.assert_array_equal(positions_in_view(pixels, 4).reshape(4, 4), expected)


# Noise


def test_noise_is_gaussian_of_the_declared_deviation_on_vectors_of_at_most_the_norm() -> None:
    """Against the normal distribution, by the Kolmogorov-Smirnov test of scipy."""
    stats = pytest.importorskip("scipy.stats")
    vectors = np.full((N, CHANNELS), 0.9, np.float32)  # of norm 1.56
    fine = replace(released("set noise=0.5,clip=0.8"), levels=(256,) * CHANNELS)
    step = (fine.high[0] - fine.low[0]) / 255
    rows, found = np.zeros((N, 4), np.uint8), []
    for i in range(250):
        bag = part_of(vectors, rows, released=fine, grid=GRID, secret=b"%d" % i)
        found.append(codec.dequantize(bag.symbols, fine))
    values = np.concatenate(found).reshape(-1) + np.random.default_rng(0).uniform(
        -step / 2, step / 2, 250 * N * CHANNELS
    )
    mean, deviation = 0.8 / math.sqrt(CHANNELS), 0.5 * 0.8
    assert stats.kstest(values, "norm", (mean, math.hypot(deviation, step / math.sqrt(12)))).pvalue > 0.001
    short = np.full((N, CHANNELS), 0.1, np.float32)
    small = np.concatenate(
        [
            codec.dequantize(part_of(short, rows, released=fine, grid=GRID, secret=b"%d" % i).symbols, fine)
            for i in range(250)
        ]
    )
    assert abs(float(small.mean()) - 0.1) < 4 * deviation / math.sqrt(small.size)  # not clipped, not lengthened


def test_noise_of_several_channels_and_rows_has_nothing_to_do_with_each_other() -> None:
    drawn = np.concatenate([Draws(SECRET, "noise", b"%d" % i).normal((50, 4)) for i in range(100)])
    correlation = np.corrcoef(np.concatenate([drawn[:-1], drawn[1:]], axis=1).T) - np.eye(8)
    # Rows that follow each other are the same numbers once more: leave their own diagonal out.
    assert abs(correlation[:4]).max() < 5 / math.sqrt(len(drawn))
    assert abs(drawn.mean()) < 5 / math.sqrt(drawn.size)
    assert drawn.std() == pytest.approx(1, abs=0.02)


def test_several_tasks_of_one_frame_leave_the_same_noisy_vectors() -> None:
    """Else an average over them would take noise away."""
    rng = np.random.default_rng(0)
    vectors = rng.uniform(-1, 1, (N, CHANNELS)).astype(np.float32)
    text = "set subset=6 noise=0.2,clip=0.5"
    one, other = (part(Seen(vectors, rng.integers(0, 2, (n, 4)).astype(np.uint8), None, None), text) for n in (N, 1))
    np.testing.assert_array_equal(np.sort(one.symbols, axis=0), np.sort(other.symbols, axis=0))


def test_the_guarantee_is_the_librarys_closed_form_and_its_accountants() -> None:
    accounting = pytest.importorskip("dp_accounting")
    from dp_accounting.pld import PLDAccountant
    from scipy.stats import norm

    form = parse_form("set subset=9 noise=6.0,clip=1.5")
    found = guarantee(form, grid=GRID, delta=1e-5)
    for epsilon, multiplier, count in ((found.vector, 3.0, 1), (found.frame, 3.0, 9)):
        accountant = PLDAccountant()
        accountant.compose(accounting.GaussianDpEvent(multiplier), count)
        assert epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
        sigma = multiplier / math.sqrt(count)
        low, high = norm.cdf(1 / (2 * sigma) - epsilon * sigma), norm.cdf(-1 / (2 * sigma) - epsilon * sigma)
        assert low - math.exp(epsilon) * high == pytest.approx(1e-5, rel=1e-4)
    assert guarantee(parse_form("pool noise=6.0,clip=1.5"), grid=GRID).frame == pytest.approx(found.vector)
    with pytest.raises(InputError, match="no epsilon"):
        guarantee(parse_form("set"), grid=GRID)


# The grammar, and who allows what

VALUES = st.fixed_dictionaries(
    {
        "subset": st.sampled_from([0, 4, 16, 64]),
        "balanced": st.booleans(),
        "mix": st.sampled_from([1, 2, 8]),
        "noise": st.sampled_from([0.0, 0.01, 0.5, 1.0, 1000.0]),
        "clip": st.sampled_from([0.0, 0.001, 1.5, 1000.0]),
        "quantize": st.sampled_from([0, 2, 256]),
    }
)


@st.composite
def any_form(draw: st.DrawFn) -> Form | None:
    base = draw(st.sampled_from(BASES))
    try:
        return Form(base, draw(st.sampled_from([2, 4])) if base == "window" else 0, **draw(VALUES))
    except InputError:
        return None


@given(any_form())
def test_a_forms_text_says_all_of_it(form: Form | None) -> None:
    if form is not None:
        assert parse_form(str(form)) == form
        assert len(form.words()) == 1 + sum(map(bool, (form.subset, form.mix > 1, form.noise, form.quantize)))


@given(any_form(), any_form(), any_form())
def test_removing_more_is_an_order(a: Form | None, b: Form | None, c: Form | None) -> None:
    if a is None or b is None or c is None:
        return
    assert a.covered_by(a)
    if a.covered_by(b) and b.covered_by(c):
        assert a.covered_by(c)
    if a.covered_by(b) and b.covered_by(a):
        assert a == b or {a.base, b.base} <= {"window", "none", "set", "pool"}


@pytest.mark.parametrize(
    ("entry", "allowed", "refused"),
    [
        (
            "set",
            ["set", "pool", "set mix=2", "set subset=9 noise=1.0,clip=1.0"],
            ["none", "window=2", "window=2 mix=4"],
        ),
        ("pool", ["pool", "pool noise=1.0,clip=1.0"], ["set", "set subset=4", "none", "window=2"]),
        ("window", ["window=2", "window=5", "set", "pool"], ["none"]),
        ("window=4", ["window=2", "window=4 quantize=4", "set"], ["window=3", "window=8", "none"]),
        ("none", ["none", "window=9", "set", "pool"], []),
        (
            "set subset=64",
            ["set subset=64", "set subset=8 mix=2"],
            ["set", "pool", "set subset=65", "set subset=8,balanced"],
        ),
        ("set mix=4", ["set mix=4", "set mix=8"], ["set", "set mix=2"]),
        ("set noise=1.0", ["set noise=1.0,clip=9.0", "set noise=2.0"], ["set", "set noise=0.5,clip=0.1", "pool"]),
        ("set noise=1.0,clip=2.0", ["set noise=1.0,clip=2.0", "pool noise=1.0,clip=1.0"], ["set noise=1.0,clip=3.0"]),
        ("set quantize=16", ["set quantize=8"], ["set", "set quantize=17"]),
    ],
)
def test_an_entry_of_the_policy_stands_for_what_removes_more(
    entry: str, allowed: list[str], refused: list[str]
) -> None:
    assert [text for text in (*allowed, *refused) if allows(entry, parse_form(text))] == allowed


WRONG = (
    "|SET|set | set|set  mix=2|set mix=2 subset=4|set mix=2 mix=2|set mix=02|set mix=1|set mix=65|pool mix=2|"
    "pool subset=1|none subset=4|window=1|window|window=2 subset=6|set subset=0|set balanced|set noise=1|"
    "set noise=1.00|set noise=0.0|set noise=1.0,clip=0.0|set noise=nan|set clip=1.0|set quantize=1|set quantize=257|"
    "set patient=Smith|set\nmix=2|set mix=\uff12"
)


@pytest.mark.parametrize("text", WRONG.split("|"))
def test_what_is_not_of_the_grammar_is_refused_in_a_form_and_in_a_record(text: str) -> None:
    with pytest.raises(InputError):
        parse_form(text)
    with pytest.raises(RecordError, match="anonymizer"):
        make_record(0, anonymizer=text)


def test_people_may_write_modifiers_in_any_order() -> None:
    assert (
        str(request_form(" set  mix=4 noise=1,clip=2 subset=64,balanced "))
        == "set subset=64,balanced mix=4 noise=1.0,clip=2.0"
    )
    for wrong in ("", "set mix", "mix=4", "set set", "set noise=one"):
        with pytest.raises(InputError):
            request_form(wrong)


def test_a_clipping_norm_that_is_found_can_be_said() -> None:
    for norm in (0.0, 0.00004, 1.23456, 7.0, 999.0):
        form = with_clip(parse_form("set noise=1.0"), norm)
        assert form.clip >= min(norm, 999)
        assert parse_form(str(form)) == form


def edited(change: Callable[[Manifest], Manifest]) -> Manifest:
    return change(manifest("set", own=True))


@pytest.mark.parametrize(
    ("text", "own", "reason"),
    [
        ("window=3", True, "don't part a map"),
        ("set subset=17", True, "more than the 16 positions"),
        ("set noise=1.0", True, "doesn't say the norm"),
        ("set quantize=4", True, "channels of up to 8 levels"),
        ("set mix=2", False, "needs a result for every vector"),
        ("set subset=4,balanced", False, "needs a result for every vector"),
        ("grid", True, "no released form"),
    ],
)
def test_a_package_whose_form_can_not_be_made_is_refused(text: str, own: bool, reason: str) -> None:
    plain = manifest("set", own=own)
    with pytest.raises(PackageError, match=reason):
        check(replace(plain, released=replace(plain.released, anonymizer=text)))


def test_a_recognizer_that_sees_a_frames_context_does_not_go_with_parts_of_frames() -> None:
    for text in ("set subset=4", "set mix=2"):
        package = manifest(text, own=True)
        with pytest.raises(PackageError, match="say together"):
            check(replace(package, recognizer=replace(package.recognizer, context=True)))


# Who shares a record


def test_frames_wait_until_enough_groups_are_there_and_leave_once() -> None:
    mixer: Mixer[str] = Mixer(3)
    assert [dict(mixer.put(i, f"x{i}", group=g)) for i, g in enumerate("aab")] == [{}, {}, {}]
    together = mixer.put(3, "x3", group="c")
    assert dict(together) == {0: "x0", 2: "x2", 3: "x3"}
    assert len(mixer) == 4  # they wait until the record is safe
    assert dict(mixer.put(3, "again", group="c")) == {0: "x0", 2: "x2", 3: "again"}
    mixer.drop(together)
    assert len(mixer) == 1
    assert not mixer.put(4, "x4", group="a")


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 4))
def test_no_two_frames_of_a_record_are_of_one_group_and_none_leaves_twice(groups: list[int], count: int) -> None:
    mixer: Mixer[int] = Mixer(count)
    left: list[int] = []
    for i, group in enumerate(groups):
        together = mixer.put(i, i, group=group)
        mixer.drop(together)
        assert len({groups[k] for k in together.values()}) == len(together) in (0, count)
        left += together.values()
    assert len(left) == len(set(left))
    assert len(left) + len(mixer) == len(groups)
    waiting = set(range(len(groups))) - set(left)
    assert len({groups[i] for i in waiting}) < count


def test_what_waits_is_bounded() -> None:
    mixer: Mixer[int] = Mixer(2)
    for i in range(MOST + 50):
        mixer.put(i, i, group="one")
    assert len(mixer) == MOST
    assert dict(mixer.put("last", -1, group="two")) == {50: 50, "last": -1}


def test_the_cases_cover_every_base_and_modifier() -> None:
    forms = [parse_form(text) for text in FORMS]
    assert {f.base for f in forms} == set(BASES)
    for a, b in itertools.combinations(("subset", "noise", "quantize"), 2):
        assert any(getattr(f, a) and getattr(f, b) for f in forms)
    assert any(f.mix > 1 and f.noise and f.subset and f.quantize for f in forms)
