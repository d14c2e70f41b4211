"""`featureloop audit privacy`, and what a device does with its report."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featureloop.audit import attacks
from featureloop.audit.findings import Finding
from featureloop.audit.inversion_settings import InversionSettings
from featureloop.audit.material import Lab
from featureloop.device.state import DeviceState, Identity
from featureloop.model.package import load_package
from featureloop.sharing.privacy import ATTACKS
from featureloop.testing import tiny_package
from tests.audit.conftest import made_finding
from tests.cli.rig import featureloop, write_frames

POLICY = 5


def images(folder: Path, count: int = 24) -> Path:
    write_frames(folder, range(count))
    rows = "".join(f"frame-{i:04}.png,p{i // 2}\n" for i in range(count))
    (folder / "groups.csv").write_text(f"image,group\n{rows}")
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks that take no time: what they find is tested where they are."""
    monkeypatch.setattr(attacks, "attack_named", lambda name: lambda _lab, **_known: made_finding(name))


@pytest.mark.usefixtures("quick")
def test_the_report_is_written_and_put_into_the_package(tmp_path: Path) -> None:
    package, out = tiny_package(tmp_path / "P0"), tmp_path / "report"
    source = images(tmp_path / "in")
    done = featureloop("audit", "privacy", "--package", package.path, "--images", source, "--out", out, "--json")
    assert done.code == 0, done.said
    assert done.data["patients"] == {"attacker": 6, "victims": 6}
    assert done.data["package"] == load_package(package.path).digest.hex() != package.digest.hex()
    assert set(done.data["verdicts"]) == {"Singling out", "Linkability", "Inference"}
    assert {p.name for p in out.iterdir()} >= {"privacy.html", "privacy.json", "attacks"}
    assert "linkage.top1" in featureloop("model", "show", package.path).out
    assert featureloop("model", "show", package.path, "--json").data["privacy"]["segmentation"]["seed"] == 1


@pytest.mark.usefixtures("quick")
def test_a_part_of_the_attacks_makes_no_report_for_the_package(tmp_path: Path) -> None:
    package, out = tiny_package(tmp_path / "P0"), tmp_path / "report"
    args = ("--package", package.path, "--images", images(tmp_path / "in"), "--out", out, "--attack", "linkage")
    done = featureloop("audit", "privacy", *args)
    assert done.code == 0
    assert "it lacks inversion, text, position" in done.said
    assert load_package(package.path).digest == package.digest
    assert "none: devices refuse" in " ".join(featureloop("model", "show", package.path).out.split())


@pytest.mark.parametrize(("option", "steps"), [((), 0), (("--diffusion-steps", "30"), 30)])
def test_diffusion_takes_the_steps_that_are_given_and_none_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...], steps: int
) -> None:
    asked: list[int] = []

    def inversion(_lab: Lab, settings: InversionSettings) -> Finding:
        asked.append(settings.diffusion.steps)
        return made_finding("inversion")

    monkeypatch.setattr(attacks, "attack_named", lambda _name: inversion)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    package = tiny_package(tmp_path / "P0")
    args = ("--package", package.path, "--images", images(tmp_path / "in"), "--out", tmp_path / "out")
    done = featureloop("audit", "privacy", *args, "--attack", "inversion", *option)
    assert done.code == 0, done.said
    assert asked == [steps]


@pytest.mark.usefixtures("quick")
def test_another_hospitals_images_attack_and_a_table_says_whose_they_are(tmp_path: Path) -> None:
    package, groups = tiny_package(tmp_path / "P0"), tmp_path / "groups.csv"
    theirs = write_frames(tmp_path / "theirs", range(12))
    groups.write_text("image,group\n" + "".join(f"frame-{i:04},p{i // 3}\n" for i in range(12)))
    args = ("--package", package.path, "--images", theirs, "--attacker-images", images(tmp_path / "ours", 20))
    done = featureloop("audit", "privacy", *args, "--groups", groups, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.said
    assert done.data["patients"] == {"attacker": 10, "victims": 4}
    assert set(done.data["controls"]) == set(ATTACKS)


def test_the_same_images_on_both_sides_are_refused(tmp_path: Path) -> None:
    package, source = tiny_package(tmp_path / "P0"), images(tmp_path / "in")
    args = ("--package", package.path, "--images", source, "--attacker-images", source, "--out", tmp_path / "out")
    done = featureloop("audit", "privacy", *args)
    assert done.code == 3
    assert "patients are on both sides" in done.said


@pytest.mark.parametrize("count", [1, 6])
def test_too_few_patients_are_refused(tmp_path: Path, count: int) -> None:
    package, source = tiny_package(tmp_path / "P0"), images(tmp_path / "in", count)
    done = featureloop("audit", "privacy", "--package", package.path, "--images", source, "--out", tmp_path / "out")
    assert done.code == 3
    assert "too few" in done.said


def test_a_device_recognizes_but_does_not_provide_without_a_report(tmp_path: Path) -> None:
    package, state = tiny_package(tmp_path / "P0"), tmp_path / "state"
    url = "http://127.0.0.1:9"
    # Nothing is sent, so any token will do.
    identity = Identity(learner=url, site="site-a", device="tower", token="t", keys=(bytes(32),))  # noqa: S106
    DeviceState(state).save_identity(identity)
    source = write_frames(tmp_path / "in", range(3))
    args = ("--package", package.path, "--learner", url, "--state", state, "--out", tmp_path / "results")
    done = featureloop("device", "process", source, *args, "--json")
    assert done.code == POLICY
    assert "has no privacy report" in done.said
    assert done.data["frames"] == 3
    assert done.data["outbox"] is None
    assert (tmp_path / "results" / "results.jsonl").read_text().count("\n") == 3
