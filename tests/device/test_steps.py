"""The policy's steps and its named policies on the device: what of a film's frames leaves, and what a record says."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featureloop.core.types import Change, ChangedBy, Float32, Frame, Opinion, Recognition, Task, UInt8
from featureloop.device.outbox import Outbox
from featureloop.device.pipeline import Summary, run_pipeline
from featureloop.device.provide import Provider
from featureloop.learner.checks import check_declared
from featureloop.model.package import Package
from featureloop.sharing.policy import Policy, Share, load_policy
from featureloop.sharing.presets import PRESETS
from featureloop.sharing.record import Record
from featureloop.sharing.release import decoded
from featureloop.testing import FakeClock, FakeReviewer, FakeSecondOpinion, tiny_package

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reference" / "policy.md"
THRESHOLD = 0.8


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return tiny_package(tmp_path_factory.mktemp("steps") / "package")


@dataclass
class Brightness:
    """A runtime that recognizes brightness: a frame of one grey value has that probability everywhere."""

    package: Package
    at_once: int = 1
    heads: tuple[Any, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.heads = (self,)

    def extract(self, pixels: UInt8) -> Float32:
        """Vectors by the brightness."""
        return np.full((16, 8), pixels.mean() / 127.5 - 1, np.float32)

    def recognize(self, vectors: Float32) -> Recognition:
        """The brightness as the probability."""
        return Recognition(Task.SEGMENTATION, np.full((16, 16), (vectors.mean() + 1) / 2, np.float32))


def film(*values: int, name: str = "film") -> list[Frame]:
    return [Frame(np.full((4, 4, 3), v, np.uint8), name, i, name) for i, v in enumerate(values)]


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with Outbox(tmp_path / "outbox.sqlite") as opened:
        yield opened


def provider(package: Package, outbox: Outbox, share: Share, **more: Any) -> Provider:
    return Provider(
        site="site-a",
        device="tower-1",
        site_key=bytes(32),
        package=package,
        policy=Policy(replace(share, threshold=THRESHOLD)),
        keeper=outbox,
        reviewer=more.pop("reviewer", None),
        clock=FakeClock(),
        **more,
    )


def run(
    package: Package, outbox: Outbox, share: Share, frames: list[Frame], **more: Any
) -> tuple[Summary, list[Record]]:
    owner = provider(package, outbox, share, **more)
    summary = run_pipeline(frames, runtime=Brightness(package), provider=owner)  # type: ignore[arg-type]  # a stand-in
    assert not summary.faults
    return summary, list(outbox.lease(limit=99, seconds=60))


def test_a_doubtful_frame_of_a_film_is_settled_by_those_before_and_after_it(package: Package, outbox: Outbox) -> None:
    frames = film(250, 250, 140, 250, 250, 110, 250, 250)
    summary, records = run(package, outbox, Share(below_threshold=("consensus", "ask")), frames)
    assert (summary.outcomes, summary.doubtful) == ({"provided": 6, "confirmed": 1, "changed": 1}, 2)
    by = [r for r in records if r.changed_by is not None]
    assert {r.changed_by for r in by} == {"consensus"}
    for record in by:
        check_declared(record, package.manifest)
        assert record.reliability is not None
        assert record.reliability < THRESHOLD
        bag = decoded(record.features, record.recognition or b"", record.changed, package.manifest)
        assert bag.result().all()


def test_frames_that_disagree_settle_nothing_and_the_next_step_is_tried(package: Package, outbox: Outbox) -> None:
    frames = film(140, 100, 140, 100)
    second = FakeSecondOpinion(Opinion(Recognition(Task.SEGMENTATION, np.ones((16, 16), np.float32)), 0.9))
    share = Share(below_threshold=("consensus", "second-opinion"))
    summary, records = run(package, outbox, share, frames, second_opinion=second)
    assert summary.outcomes == {"confirmed": 2, "changed": 2}
    assert {r.changed_by for r in records} == {"second-opinion"}
    assert len(second.asked) == 4


def test_frames_of_another_film_or_beyond_a_cut_have_no_say(package: Package, outbox: Outbox) -> None:
    share = Share(below_threshold=("consensus", "withhold"), near_duplicates=0)
    summary, _ = run(package, outbox, share, [*film(140), *film(250, 250, name="other")])
    assert summary.outcomes == {"withheld": 1, "provided": 2}
    for usually, outcome in ((100.0, "confirmed"), (1.0, "withheld")):
        released = replace(package.manifest.released, usually_apart=usually)
        knows = replace(package, manifest=replace(package.manifest, released=released))
        summary, _ = run(knows, outbox, share, film(250, 250, 140, 250, 250))
        assert summary.outcomes == {"provided": 4, outcome: 1}


def test_a_softened_result_leaves_as_probabilities_beside_what_was_recognized(package: Package, outbox: Outbox) -> None:
    summary, (record,) = run(package, outbox, Share(below_threshold=("ask", "soften")), film(140))
    assert summary.outcomes == {"softened": 1}
    check_declared(record, package.manifest)
    bag = decoded(record.features, record.recognition or b"", record.changed, package.manifest, soft=True)
    assert record.changed_by == "softened"
    assert bag.recognized.all()
    assert set(np.unique(bag.result())) == {140}


def test_a_frame_is_asked_about_only_where_nothing_else_settles_it(package: Package, outbox: Outbox) -> None:
    reviewer = FakeReviewer([Change(np.zeros((16, 16), np.uint8), ChangedBy.CLINICIAN)])
    share = Share(below_threshold=("consensus", "ask"))
    summary, records = run(package, outbox, share, film(250, 140, 250, 250, 250, 250, 140), reviewer=reviewer)
    # The film's last frame has two neighbours, which are sure of it, too.
    assert (summary.outcomes, reviewer.asked) == ({"provided": 5, "confirmed": 2}, [])
    summary, records = run(package, outbox, share, film(140, name="alone"), reviewer=reviewer)
    assert (summary.outcomes, [r.changed_by for r in records]) == ({"changed": 1}, ["clinician"])


# Of each named policy what a sure result, a doubtful one, one that the consensus changed, and one that a person changed
# at any reliability leave: recognition, reliability, what it was changed to; None where nothing leaves.
Leaves = tuple[bool, bool, bool] | None
ALL, RESULT, RELIABILITY = (True, True, False), (True, False, False), (False, True, False)
CHANGED = (True, True, True)
NAMED: dict[str, tuple[Leaves, Leaves, Leaves, Leaves]] = {
    "results": (RESULT, RESULT, RESULT, RESULT),
    "changed-below-threshold": (None, None, CHANGED, None),
    "doubtful-results": (None, RESULT, RESULT, None),
    "doubtful-reliabilities": (None, RELIABILITY, RELIABILITY, None),
    "doubtful-results-and-reliabilities": (None, ALL, ALL, None),
    "changed": (None, None, CHANGED, CHANGED),
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_named_policy_provides_what_its_name_says(name: str, package: Package, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(f'[share]\npreset = "{name}"\n', encoding="utf-8")
    share = load_policy(path).share
    changes = [Change(np.zeros((16, 16), np.uint8), ChangedBy.CLINICIAN)]
    ways: list[tuple[list[Frame], dict[str, Any]]] = [
        (film(250), {}),
        (film(140), {}),
        (film(250, 250, 110, 250, 250), {}),
        (film(250), {"reviewer": FakeReviewer(changes)}),
    ]
    for i, ((frames, more), expected) in enumerate(zip(ways, NAMED[name], strict=True)):
        with Outbox(tmp_path / f"{i}.sqlite") as outbox:
            _, records = run(package, outbox, share, frames, **more)
        found = {(r.recognition is not None, r.reliability is not None, r.changed is not None) for r in records}
        assert found == (set() if expected is None else {expected}), (name, i)


def test_the_reference_has_every_named_policy_with_what_it_stands_for() -> None:
    """The page's table and its lines of TOML are read, and are what the code does."""
    text = DOCS.read_text(encoding="utf-8").split("\n## Named policies\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \| `(.+)` \|$", text, re.MULTILINE)
    told = {name: tomllib.loads(settings.replace("; ", "\n")) for name, words, settings in rows if words}
    assert {name: as_toml(settings) for name, settings in PRESETS.items()} == told


def as_toml(settings: Any) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}


def test_what_a_file_says_stands_before_its_preset(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('[share]\npreset = "changed"\nbelow_threshold = "ask"\nthreshold = 0.7\n', encoding="utf-8")
    share = load_policy(path).share
    assert (share.provide, share.change, share.steps, share.threshold) == ("changed", "any", ("ask",), 0.7)
