"""The audit as a whole: attacks are kept, one that fails costs no other, and the report goes into the package."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from featureloop.audit.attach import attach
from featureloop.audit.attacks import Attack, finding_from_json, finding_to_json
from featureloop.audit.diffusion import DiffusionSettings
from featureloop.audit.findings import Finding
from featureloop.audit.inversion_settings import InversionSettings
from featureloop.audit.material import Lab
from featureloop.audit.page import _row, render
from featureloop.audit.run import audit
from featureloop.audit.verdicts import judge_figures, verdicts
from featureloop.core.errors import InputError, PackageError
from featureloop.model.package import load_package, sign_package, verify_signature
from featureloop.sharing.privacy import ATTACKS, PAGE, REPORT, Privacy, check_privacy, load_report
from tests.audit.conftest import made_finding

Find = Callable[[str], Attack]


class Counted:
    """Attacks that count how often they were run."""

    def __init__(self, *, fails: str = "", value: float = 0.008) -> None:
        self.runs: list[str] = []
        self.given: dict[str, InversionSettings | None] = {}
        self.fails, self.value = fails, value

    def __call__(self, name: str) -> Attack:
        """The attack of this name."""

        def attack(_lab: Lab, settings: InversionSettings | None = None) -> Finding:
            self.runs.append(name)
            self.given[name] = settings
            if name == self.fails:
                raise InputError("too few images")
            return made_finding(name, value=self.value)

        return attack


def test_a_stopped_audit_goes_on_with_what_is_missing(lab: Lab, tmp_path: Path) -> None:
    first, second = Counted(), Counted()
    audit(lab, tmp_path / "out", attacks=("linkage", "text"), find=first)
    found = audit(lab, tmp_path / "out", find=second)
    assert first.runs == ["linkage", "text"]
    assert sorted([*first.runs, *second.runs]) == sorted(ATTACKS)
    assert found.report == audit(lab, tmp_path / "other", find=Counted()).report


@pytest.mark.parametrize("what", ["seed", "images", "attributes", "damaged"])
def test_nothing_is_taken_from_another_audit(lab: Lab, tmp_path: Path, what: str) -> None:
    audit(lab, tmp_path / "out", attacks=("linkage",), find=Counted())
    other, again = Lab(lab.package, lab.attacker, lab.victims, seed=2 if what == "seed" else lab.seed), Counted()
    if what == "images":
        other.victims = lab.victims.only(np.arange(len(lab.victims) - 1))
    if what == "attributes":
        other.victims = replace(lab.victims, attributes={f.name: {"sex": "f"} for f in lab.victims.frames})
    if what == "damaged":
        kept = tmp_path / "out" / "attacks" / "linkage.json"
        kept.write_bytes(kept.read_bytes()[:-20])
    audit(other, tmp_path / "out", attacks=("linkage",), find=again)
    assert again.runs == ["linkage"]


def test_a_finding_is_taken_only_where_its_attack_had_the_same_settings(lab: Lab, tmp_path: Path) -> None:
    little, more = ({"inversion": InversionSettings(diffusion=DiffusionSettings(steps=n))} for n in (0, 100))
    first, same, other = Counted(), Counted(), Counted()
    two = ("linkage", "inversion")
    audit(lab, tmp_path / "out", attacks=two, settings=little, find=first)
    audit(lab, tmp_path / "out", attacks=two, settings=little, find=same)
    audit(lab, tmp_path / "out", attacks=two, settings=more, find=other)
    assert first.given == {"linkage": None, "inversion": little["inversion"]}
    assert same.runs == []
    assert other.given == {"inversion": more["inversion"]}, "linkage's settings are the same"


def test_an_attack_that_fails_is_told_and_costs_no_other(lab: Lab, tmp_path: Path) -> None:
    told: list[str] = []
    found = audit(lab, tmp_path / "out", find=Counted(fails="text"), tell=told.append)
    assert set(found.findings) == set(ATTACKS) - {"text"}
    assert found.failed == {"text": "too few images"}
    assert told == ["the text attack could not be run: InputError: too few images"]
    assert "text.presence_auc" not in found.report.figures
    assert "could not be run" in render(found, lab.package)
    assert {v.name: v.state for v in verdicts(judge_figures(found, Privacy()))}["Inference"] == "unknown"


def test_a_fault_of_an_attack_is_told_by_its_kind_and_costs_no_other(lab: Lab, tmp_path: Path) -> None:
    def find(name: str) -> Attack:
        def attack(_lab: Lab) -> Finding:
            if name == "position":
                raise RuntimeError("patient-17.png")
            return made_finding(name)

        return attack

    found = audit(lab, tmp_path / "out", find=find)
    assert found.failed == {"position": "RuntimeError"}, "a fault's text may name a file"
    assert len(found.findings) == len(ATTACKS) - 1


def test_findings_are_read_as_they_were_written() -> None:
    own = made_finding("linkage")
    again = finding_from_json(finding_to_json(own))
    assert finding_to_json(again) == finding_to_json(own)
    assert list(again.headline.items()) == list(own.headline.items()), "the curve is of the first one"
    assert np.isnan([m.value for m in again.measures if m.arm == "random"]).all()


def test_the_report_goes_into_the_package_under_its_signature(lab: Lab, tmp_path: Path) -> None:
    found, key = audit(lab, tmp_path / "out", find=Counted()), Ed25519PrivateKey.generate()
    page = render(found, lab.package)
    made = attach(lab.package, found.report, page, key=key)
    again = load_package(lab.package.path)
    assert made.digest == again.digest != lab.package.digest
    assert {REPORT, PAGE} <= set(again.manifest.files)
    verify_signature(again, [key.public_key()])
    assert load_report(again) == found.report
    check_privacy(again, Privacy())
    with pytest.raises(PackageError, match="is signed"):
        attach(again, found.report, page)
    attach(again, found.report, page, key=key)
    assert sorted(p.name for p in lab.package.path.parent.iterdir() if p.name.startswith(".")) == []


def test_a_signed_package_is_not_changed_without_a_key(lab: Lab, tmp_path: Path) -> None:
    sign_package(lab.package, Ed25519PrivateKey.generate())
    found = audit(lab, tmp_path / "out", find=Counted())
    with pytest.raises(PackageError, match="--key"):
        attach(lab.package, found.report, "page")
    assert load_package(lab.package.path).digest == lab.package.digest


@pytest.mark.parametrize(("value", "state"), [(0.008, "within"), (0.95, "beyond")])
def test_the_page_opens_with_a_picture_and_the_three_answers(
    lab: Lab, tmp_path: Path, value: float, state: str
) -> None:
    found = audit(lab, tmp_path / "out", find=Counted(value=value))
    answers = {v.name: v for v in verdicts(judge_figures(found, Privacy()))}
    assert list(answers) == ["Singling out", "Linkability", "Inference"]
    assert answers["Linkability"].state == state
    assert answers["Singling out"].state == "disclosed", "no limit is set on it, and it is above chance"
    page = render(found, lab.package)
    assert page.index("data:image/png") < page.index("Singling out") < page.index("<h2>Evidence</h2>")
    assert "positive control</th>" in page, "each headline figure stands beside its controls"
    assert f"{value:.3g}" in page[page.index("positive control</th>") :]
    assert "This form is not anonymous" in page
    assert "Not a medical device" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "victims' images: this sheet" not in page, "the package's page shows no victim"
    assert "victims' images: this sheet" in " ".join(render(found, lab.package, with_sheet=True).split())


def test_the_report_names_no_file_and_no_patient(lab: Lab, tmp_path: Path) -> None:
    found = audit(lab, tmp_path / "out", find=Counted())
    text = json.dumps(json.loads(found.report.to_json())) + render(found, lab.package)
    for frame in (*lab.attacker.frames, *lab.victims.frames):
        assert frame.name not in text


def test_an_attribute_is_drawn_between_chance_and_its_control_whose_figure_names_no_attribute(
    lab: Lab, tmp_path: Path
) -> None:
    def found(name: str) -> Attack:
        def attack(_lab: Lab) -> Finding:
            made = made_finding(name)
            site = replace(made.measures[0], figure="site AUC", arm="release", value=0.7, chance=0.5)
            planted = replace(site, figure="AUC", arm="planted", value=0.9)
            return replace(made, headline={"attributes.site_auc": site}, measures=(site, planted))

        return attack

    audited = audit(lab, tmp_path / "out", attacks=["attributes"], find=found)
    row = _row(judge_figures(audited, Privacy())["attributes.site_auc"], audited.findings)
    assert row is not None
    assert row.value == pytest.approx(0.5)
