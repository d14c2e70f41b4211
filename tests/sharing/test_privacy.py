"""A package's privacy report, and whether a site accepts it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from featureloop.core.errors import PackageError, PolicyError
from featureloop.core.types import Task
from featureloop.model.package import Package, load_package, seal_package, write_atomically
from featureloop.sharing.policy import Policy, load_policy
from featureloop.sharing.privacy import (
    ATTACKS,
    REPORT,
    RULES,
    Privacy,
    PrivacyReport,
    ReportedFigure,
    bound_to,
    check_privacy,
    load_report,
    report_file,
)
from featureloop.testing import tiny_package, tiny_package_of

GOOD = ReportedFigure(0.01, 0.0, 0.02, 0.01, 29, "cosine")


def report_of(view: Package, **figures: ReportedFigure | None) -> PrivacyReport:
    """A report that meets every default limit, but for these figures (`linkage__top1`)."""
    named = dict.fromkeys(RULES, GOOD) | {k.replace("__", "."): v for k, v in figures.items()}
    return PrivacyReport(
        task=view.manifest.task,
        of=bound_to(view),
        figures={k: v for k, v in named.items() if v is not None},
        controls=dict.fromkeys(ATTACKS, True),
        images={"attacker": 100, "victims": 200},
        patients={"attacker": 50, "victims": 29},
        seed=1,
        quarter=4 * 2026 + 3,
    )


def reported(view: Package, report: PrivacyReport) -> Package:
    """The package with a report in it."""
    write_atomically(view.path / report_file(view), report.to_json())
    whole = load_manifest_of(view)
    sealed = seal_package(view.path, whole)
    return sealed.view(Task(view.manifest.task))


def load_manifest_of(view: Package) -> Any:
    from featureloop.model.manifest import Manifest

    return Manifest.from_json((view.path / "featureloop.json").read_bytes())


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return tiny_package(tmp_path / "p")


def test_a_report_without_near_duplicates_is_not_good_for_a_site_that_lets_them_leave(package: Package) -> None:
    made = reported(package, replace(report_of(package), near_duplicates=0.3))
    check_privacy(made, Privacy(), near_duplicates=0.3)
    check_privacy(made, Privacy(), near_duplicates=0.5)
    with pytest.raises(
        PolicyError, match=r"near-duplicates nearer than 0\.3.*as near as 0\.1 leave.*--near-duplicates"
    ):
        check_privacy(made, Privacy(), near_duplicates=0.1)


def test_a_package_within_the_limits_is_accepted(package: Package) -> None:
    check_privacy(reported(package, report_of(package)), Privacy())


def test_without_a_report_nothing_is_provided_unless_the_policy_says_so(package: Package) -> None:
    assert load_report(package) is None
    with pytest.raises(PolicyError, match=r"has no privacy report.*audit privacy"):
        check_privacy(package, Privacy())
    check_privacy(package, Privacy(report="optional"))


def test_a_report_that_is_optional_must_be_within_the_limits_all_the_same(package: Package) -> None:
    made = reported(package, report_of(package, linkage__auc=replace(GOOD, value=0.9)))
    with pytest.raises(PolicyError, match=r"linkage\.auc is 0\.9"):
        check_privacy(made, Privacy(report="optional"))


def test_all_figures_that_are_beyond_are_named(package: Package) -> None:
    bad = replace(GOOD, value=7.0, high=8.0)
    with pytest.raises(PolicyError) as caught:
        check_privacy(reported(package, report_of(package, linkage__auc=bad, membership__tpr=bad)), Privacy())
    assert "linkage.auc" in str(caught.value)
    assert "membership.tpr" in str(caught.value)


@pytest.mark.parametrize("figure", [name for name, rule in RULES.items() if rule.limit is not None])
def test_the_figure_beyond_its_limit_is_named_with_both_values(package: Package, figure: str) -> None:
    bad = replace(GOOD, value=7.0, high=8.0)
    made = reported(package, report_of(package, **{figure.replace(".", "__"): bad}))
    with pytest.raises(PolicyError, match=rf"{figure} is 7.*the limit is {RULES[figure].limit:g}"):
        check_privacy(made, Privacy())
    check_privacy(made, Privacy(limits={figure: None}))
    check_privacy(made, Privacy(limits={figure: 8.0}))


def test_of_top1_the_upper_bound_counts(package: Package) -> None:
    made = reported(package, report_of(package, linkage__top1=replace(GOOD, value=0.05, high=0.12)))
    with pytest.raises(PolicyError, match=r"0\.05, with an upper bound of 0\.12"):
        check_privacy(made, Privacy())


@pytest.mark.parametrize("unknown", [replace(GOOD, value=None), None], ids=["not determined", "missing"])
def test_what_is_not_known_is_not_accepted(package: Package, unknown: ReportedFigure | None) -> None:
    with pytest.raises(PolicyError, match=r"linkage\.auc"):
        check_privacy(reported(package, report_of(package, linkage__auc=unknown)), Privacy())


def test_an_attack_whose_controls_failed_proves_nothing(package: Package) -> None:
    bad = replace(report_of(package), controls=dict.fromkeys(ATTACKS, True) | {"text": False})
    with pytest.raises(PolicyError, match=r"text\.presence_auc proves nothing, the controls of the text attack failed"):
        check_privacy(reported(package, bad), Privacy())


@pytest.mark.parametrize("part", ["extractor", "form"])
def test_a_report_of_something_else_is_not_accepted(package: Package, part: str) -> None:
    own = report_of(package)
    other = replace(own, of=replace(own.of, **{part: "0" * 64}))
    with pytest.raises(PolicyError, match=f"of another {part}"):
        check_privacy(reported(package, other), Privacy())


def test_a_successor_shares_on_its_parents_report_where_the_site_allows_it(package: Package) -> None:
    own = report_of(package)
    made = reported(package, replace(own, of=replace(own.of, recognizer="0" * 64)))
    check_privacy(made, Privacy())
    with pytest.raises(PolicyError, match="of another recognizer"):
        check_privacy(made, Privacy(membership_of_parent=False))


def test_every_task_has_its_own_report(tmp_path: Path) -> None:
    whole = tiny_package_of(tmp_path / "p", "segmentation", "detection")
    first, second = whole.views
    assert report_file(first) == REPORT
    assert report_file(second) == "reports/detection/privacy.json"
    reported(first, report_of(first))
    first, second = load_package(whole.path).views
    check_privacy(first, Privacy())
    with pytest.raises(PolicyError, match="has no privacy report"):
        check_privacy(second, Privacy())
    second = reported(second, report_of(second))
    check_privacy(second, Privacy())


def test_a_report_is_read_as_it_was_written(package: Package) -> None:
    own = report_of(package, linkage__top1=replace(GOOD, low=None, high=None, chance=None))
    assert PrivacyReport.from_json(own.to_json()) == own


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("figures"),
        lambda d: d.update(format=2),
        lambda d: d.update(more=1),
        lambda d: d["figures"].update({"linkage.top1": {"value": "low"}}),
        lambda d: d["controls"].update(text="yes"),
        lambda d: d["of"].pop("form"),
    ],
)
def test_a_malformed_report_is_refused(package: Package, change: Any) -> None:
    data = json.loads(report_of(package).to_json())
    change(data)
    with pytest.raises(PackageError, match="privacy report is malformed"):
        PrivacyReport.from_json(json.dumps(data).encode())


def test_a_report_that_is_too_long_or_no_json_is_refused() -> None:
    for raw in (b" " * (1 << 21), b"[", b"\xff", b"[" * 100_000):
        with pytest.raises(PackageError):
            PrivacyReport.from_json(raw)


def test_the_policys_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(
        '[privacy]\nreport = "optional"\nmembership_of_parent = false\n\n'
        '[privacy.limits]\n"linkage.top1" = 0.2\n"inversion.gain_db" = "disclosed"\n'
    )
    found = load_policy(path).privacy
    limits = {"linkage.top1": 0.2, "inversion.gain_db": None}
    assert found == Privacy("optional", membership_of_parent=False, limits=limits)
    assert found.limit("linkage.top1") == 0.2
    assert found.limit("inversion.gain_db") is None
    assert found.limit("linkage.auc") == RULES["linkage.auc"].limit
    assert Policy().privacy.report == "required"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[privacy]\nreport = "maybe"\n', "required, optional"),
        ('[privacy]\nreports = "optional"\n', "reports"),
        ("[privacy.limits]\nlinkage.top1 = 0.2\n", "unknown figure 'linkage'"),
        ('[privacy.limits]\n"linkage.top2" = 0.2\n', "linkage.top2"),
        ('[privacy.limits]\n"linkage.top1" = -1\n', "at least 0"),
        ('[privacy.limits]\n"linkage.top1" = true\n', "at least 0"),
        ('[privacy.limits]\n"linkage.top1" = "none"\n', "disclosed"),
        ("[privacy]\nlimits = 3\n", "must be a table"),
        ("[privacy]\nmembership_of_parent = 1\n", "true or false"),
    ],
)
def test_a_typing_error_in_the_policys_table_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=says):
        load_policy(path)
