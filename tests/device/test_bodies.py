"""Bodies that are coded together on a device: by packages in use and before, and not where a site says no."""

from __future__ import annotations

import shutil
from pathlib import Path

from featureloop.device.bodies import Bodies, bodies_for
from featureloop.device.state import DeviceState
from featureloop.sharing.policy import Sending, load_policy
from featureloop.sharing.together import from_together
from featureloop.testing import tiny_package
from tests.learner.conftest import coded


def test_records_of_packages_in_use_and_of_those_before_are_coded(tmp_path: Path) -> None:
    state = DeviceState(tmp_path / "state")
    now, before, gone = (tiny_package(tmp_path / name, recognizer_seed=i) for i, name in enumerate("abc"))
    shutil.copytree(before.path, state.package_path(before.digest))
    made = {p.digest: [coded(p, i, site="clinic-a", device="tower-1") for i in range(20)] for p in (now, before, gone)}
    bodies = Bodies(state, now)
    lengths = {digest: len(bodies(records)) for digest, records in made.items()}
    assert lengths[now.digest] == lengths[before.digest]
    assert lengths[gone.digest] > lengths[now.digest]  # Carried as they are, padding and all.
    for package in (now, before, gone):
        back = from_together(bodies(made[package.digest]), {package.digest: package.manifest}.get)
        assert {r.id for r in back} == {r.id for r in made[package.digest]}


def test_a_folder_of_another_package_than_its_name_says_is_not_used(tmp_path: Path) -> None:
    state = DeviceState(tmp_path / "state")
    one, other = (tiny_package(tmp_path / name, recognizer_seed=i) for i, name in enumerate("ab"))
    shutil.copytree(other.path, state.package_path(one.digest))
    records = [coded(one, i, site="clinic-a", device="tower-1") for i in range(3)]
    assert from_together(Bodies(state)(records), lambda _: None)


def test_the_policy_decides(tmp_path: Path) -> None:
    state, file = DeviceState(tmp_path / "state"), tmp_path / "policy.toml"
    assert bodies_for(Sending(), state) is not None
    file.write_text("[sending]\ntogether = false\n", encoding="utf-8")
    assert bodies_for(load_policy(file).sending, state) is None
