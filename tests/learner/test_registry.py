"""The registry: the life cycle as a table, one live package a line, files that match their digests."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from featureloop.core.errors import GateError, PackageError
from featureloop.learner.control import Control
from featureloop.learner.keys import SigningKeys
from featureloop.learner.registry import ENTRIES, TRANSITIONS, Registry, State, Step, after
from featureloop.model.package import SIGNATURE, Package, load_package, verify_signature
from featureloop.testing import FakeClock, tiny_package

EXPECTED = {
    ("candidate", "promote"): "live",
    ("candidate", "reject"): "rejected",
    ("live", "retire"): "retired",
    ("retired", "rollback"): "live",
}


@pytest.fixture
def registry(tmp_path: Path, clock: FakeClock) -> Registry:
    return Registry(
        tmp_path / "packages",
        Control(f"sqlite:///{tmp_path / 'control.sqlite'}"),
        SigningKeys(tmp_path / "keys"),
        clock,
    )


def states(registry: Registry) -> list[str]:
    return [str(e.state) for e in registry.list()]


@pytest.mark.parametrize(("state", "step"), list(itertools.product(State, Step)))
def test_every_step_from_every_state(state: State, step: Step) -> None:
    """The whole table: what is not in it is forbidden, and the message says what is allowed."""
    expected = EXPECTED.get((state.value, step.value))
    if expected is None:
        with pytest.raises(GateError, match=f"{state} can't be changed by '{step}'"):
            after(state, step)
    else:
        assert after(state, step) == expected
    assert len(TRANSITIONS) == len(EXPECTED)


def test_a_package_is_copied_whole_and_signed(registry: Registry, founding: Package) -> None:
    """The original isn't touched; the copy is complete, signed, and named by its digest."""
    added = registry.add(founding, metrics={"dice": 0.5})
    assert added.path == registry.path / founding.digest.hex()
    assert load_package(added.path).digest == founding.digest
    verify_signature(added, registry.keys.public())
    assert not founding.file(SIGNATURE).exists()
    (entry,) = registry.list()
    assert (entry.state, entry.line, entry.parent) == (State.CANDIDATE, founding.line, None)
    assert entry.metrics == {"dice": 0.5}
    assert [p.name for p in registry.path.iterdir()] == [founding.digest.hex()]


def test_adding_is_harmless_when_repeated(registry: Registry, founding: Package) -> None:
    """A package that is live stays live."""
    registry.add(founding.path, metrics={})
    registry.promote(founding.digest.hex())
    assert registry.add(founding, metrics={"other": 1}, state="rejected").digest == founding.digest
    assert states(registry) == ["live"]


@pytest.mark.parametrize("state", [s for s in State if s not in ENTRIES])
def test_nothing_comes_in_as_live(registry: Registry, founding: Package, state: State) -> None:
    """Somebody decides what is live."""
    with pytest.raises(GateError, match=f"can't be added as '{state}'"):
        registry.add(founding, metrics={}, state=state)
    assert registry.list() == ()


def test_a_line_has_one_live_package(
    registry: Registry, founding: Package, successor: Package, clock: FakeClock
) -> None:
    """Promotion retires the earlier one in the same transaction."""
    assert registry.live(founding.line) is None
    for package in (founding, successor):
        clock.advance(1)
        registry.add(package, metrics={})
        registry.promote(package.digest.hex())
        live = registry.live(founding.line)
        assert live is not None
        assert live.digest == package.digest
        assert registry.live_digest(founding.line) == package.digest.hex()
    assert states(registry) == ["retired", "live"]


def test_lines_do_not_touch_each_other(registry: Registry, founding: Package, tmp_path: Path) -> None:
    """Another extractor is another line."""
    other = tiny_package(tmp_path / "other", seed=7)
    for package in (founding, other):
        registry.add(package, metrics={})
        registry.promote(package.digest.hex())
    assert states(registry) == ["live", "live"]


def test_rollback_returns_to_what_was_live_before(
    registry: Registry, founding: Package, successor: Package, third: Package, clock: FakeClock
) -> None:
    """Step by step back to the first, and no further; another promotion goes on from there."""
    for package in (founding, successor, third):
        clock.advance(1)
        registry.add(package, metrics={})
    with pytest.raises(GateError, match="no live package"):
        registry.rollback(founding.line)
    for package in (founding, successor):
        registry.promote(package.digest.hex())
    assert registry.rollback(founding.line).digest == founding.digest
    assert states(registry) == ["live", "retired", "candidate"]
    with pytest.raises(GateError, match="the first of its line"):
        registry.rollback(founding.line)
    registry.promote(third.digest.hex())
    assert registry.rollback(founding.line).digest == founding.digest
    assert states(registry) == ["live", "retired", "retired"]


def test_a_rejected_candidate_stays_so(registry: Registry, founding: Package, successor: Package) -> None:
    """Forbidden steps change nothing."""
    registry.add(founding, metrics={})
    registry.add(successor, metrics={}, state="rejected")
    assert registry.reject(founding.digest.hex()).state is State.REJECTED
    for package in (founding, successor):
        with pytest.raises(GateError, match="rejected can't be changed by 'promote'; allowed is nothing"):
            registry.promote(package.digest.hex())
    assert states(registry) == ["rejected", "rejected"]


@pytest.mark.parametrize("prefix", ["", "abc", "zzzz", "../..", "%%%%", "0" * 64])
def test_an_unknown_prefix_is_told(registry: Registry, founding: Package, prefix: str) -> None:
    """Too short, no digits, or nobody's."""
    registry.add(founding, metrics={})
    calls: list[Callable[[str], object]] = [registry.promote, registry.reject, registry.find, registry.get]
    for call in calls:
        with pytest.raises(GateError, match=r"no package begins with|no beginning of a digest"):
            call(prefix)


def test_a_prefix_finds_one_or_asks_for_more(
    registry: Registry, founding: Package, successor: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upper and lower case are alike; an ambiguous beginning names what it could mean."""
    registry.add(founding, metrics={})
    assert registry.get(founding.digest.hex()[:8].upper()).digest == founding.digest
    entry = registry.list()[0]
    monkeypatch.setattr(Registry, "list", lambda _self: (entry, entry))
    with pytest.raises(GateError, match=r"2 packages begin .* give more digits"):
        registry.find(entry.digest[:4])


def test_a_damaged_candidate_is_not_promoted(registry: Registry, founding: Package) -> None:
    """Its files are checked first, and nothing changes."""
    added = registry.add(founding, metrics={})
    added.file("docs/README.md").write_text("altered")
    with pytest.raises(PackageError, match=r"docs/README\.md"):
        registry.promote(founding.digest.hex())
    assert states(registry) == ["candidate"]


def test_a_damaged_predecessor_is_not_rolled_back_to(registry: Registry, founding: Package, successor: Package) -> None:
    """The live package stays where the earlier one can't be used."""
    for package in (founding, successor):
        registry.add(package, metrics={})
        registry.promote(package.digest.hex())
    shutil.rmtree(registry.path / founding.digest.hex())
    with pytest.raises(PackageError, match="is no package"):
        registry.rollback(founding.line)
    live = registry.live(founding.line)
    assert live is not None
    assert live.digest == successor.digest


def test_a_package_that_was_changed_since_it_was_loaded_is_refused(registry: Registry, tmp_path: Path) -> None:
    """What was judged is what comes in."""
    package = tiny_package(tmp_path / "p")
    tiny_package(tmp_path / "p", recognizer_seed=5)
    with pytest.raises(PackageError, match="was changed since it was loaded"):
        registry.add(package, metrics={})
    assert registry.list() == ()


def test_what_a_killed_process_left_is_replaced(registry: Registry, founding: Package) -> None:
    """A directory that the database doesn't name may be half a package."""
    (registry.path / founding.digest.hex()).mkdir(parents=True)
    added = registry.add(founding, metrics={})
    assert load_package(added.path).digest == founding.digest


def test_what_devices_may_hold_is_declared(registry: Registry, founding: Package, successor: Package) -> None:
    """A rejected or unknown package declares nothing."""
    registry.add(founding, metrics={})
    registry.add(successor, metrics={}, state="rejected")
    assert registry.declared(founding.digest) == founding.manifest
    assert registry.declared(successor.digest) is None
    assert registry.declared(bytes(32)) is None


def test_every_step_is_a_kept_decision(registry: Registry, founding: Package, successor: Package) -> None:
    """Who made what live can be read later."""
    for package in (founding, successor):
        registry.add(package, metrics={})
        registry.promote(package.digest.hex())
    registry.rollback(founding.line)
    kept = [(e.action, e.outcome, e.subject) for e in reversed(registry.control.decisions())]
    f, s = founding.digest.hex(), successor.digest.hex()
    assert kept == [
        ("add", "candidate", f),
        ("promote", "live", f),
        ("add", "candidate", s),
        ("retire", "retired", f),
        ("promote", "live", s),
        ("retire", "retired", s),
        ("rollback", "live", f),
    ]
