"""The privacy report as a page: one picture, one verdict per question, the evidence, and the limits in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, select_autoescape

from featureloop.audit.findings import Arm, Finding, Measure, strongest
from featureloop.audit.run import Audited
from featureloop.audit.verdicts import Judgement, judge_figures, verdicts
from featureloop.model.charts import ACCENT, COLOURS, SOFT, Chart, drawn, new_axes
from featureloop.model.package import Package
from featureloop.sharing.privacy import RULES, Privacy
from featureloop.sharing.record import quarter_text

BEYOND = COLOURS[1]
ARMS = {
    "release": "what leaves",
    "shallow": "positive control: an ordered map of the first layers",
    "planted": "positive control: a planted leak",
    "random": "negative control: random values",
    "baseline": "without features",
}


@dataclass(frozen=True, slots=True)
class _Brief:
    """A headline figure on what leaves, on the two controls and without features; None where it wasn't measured."""

    text: str
    by: str
    arms: tuple[Measure | None, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    """A figure on the picture's scale: 0 is chance, 1 is the positive control."""

    judgement: Judgement
    value: float
    low: float
    high: float
    limit: float | None


def render(audited: Audited, package: Package, *, privacy: Privacy | None = None, with_sheet: bool = False) -> str:
    """The report's page as HTML, one file.

    Parameters
    ----------
    package
        The view of the task that was audited.
    privacy
        The limits to judge by; None takes the default ones.
    with_sheet
        Whether originals and reconstructions are shown: victims' images, which don't go into a package.
    """
    judged = judge_figures(audited, privacy or Privacy())
    answers = verdicts(judged)
    environment = Environment(loader=PackageLoader("featureloop.audit"), autoescape=select_autoescape())
    environment.filters["number"] = _number
    report = audited.report
    return environment.get_template("privacy.html").render(
        package=package.short,
        manifest=package.manifest,
        report=report,
        when=quarter_text(report.quarter),
        picture=_picture(judged, audited.findings),
        verdicts=answers,
        within=all(v.state == "within" for v in answers),
        judged=list(judged.values()),
        findings=audited.findings,
        briefs={name: _briefs(found, judged) for name, found in audited.findings.items()},
        failed=audited.failed,
        curves=[c for f in audited.findings.values() if (c := _curve(f))],
        arms=ARMS,
        rules=RULES,
        sheet=next((f.sheet for f in audited.findings.values() if f.sheet), None) if with_sheet else None,
    )


def _briefs(found: Finding, judged: Mapping[str, Judgement]) -> list[_Brief]:
    """Each headline figure of an attack beside the strongest of the same figure on the controls."""
    out = []
    kinds: tuple[tuple[Arm, ...], ...] = (("shallow", "planted"), ("random",), ("baseline",))
    for name, headline in found.headline.items():
        others = (strongest(found.measures, headline.figure, arms=arms) for arms in kinds)
        arms = (headline, *(m if math.isfinite(m.value) else None for m in others))
        out.append(_Brief(judged[name].text if name in judged else name, headline.by, arms))
    return out


def _number(value: float | None) -> str:
    return "unknown" if value is None or not math.isfinite(value) else f"{value:.3g}"


def _picture(judged: Mapping[str, Judgement], findings: Mapping[str, Finding]) -> Chart | None:
    """All headline figures between chance and the positive control, with their limits."""
    rows = [r for j in judged.values() if (r := _row(j, findings))]
    if not rows:
        return None
    figure, axes = new_axes("", "", width=9.6, height=1.0 + 0.42 * len(rows))
    for y, row in enumerate(reversed(rows)):
        colour = BEYOND if row.judgement.state == "beyond" else ACCENT if row.judgement.state == "within" else SOFT
        axes.plot([0, 1], [y, y], color=SOFT, alpha=0.35, linewidth=7, solid_capstyle="round")
        if row.limit is not None:
            axes.plot([row.limit] * 2, [y - 0.34, y + 0.34], color="black", linewidth=1.6)
        axes.plot([row.low, row.high], [y, y], color=colour, linewidth=2.5)
        axes.scatter([row.value], [y], s=64, color=colour, zorder=3)
        axes.text(1.36, y, _beside_limit(row.judgement), va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [r.judgement.text for r in reversed(rows)], fontsize=9)
    axes.set_xticks([0, 1], ["chance", "the positive control:\na leak that is there"], fontsize=9)
    axes.set_xlim(-0.12, 1.33)
    axes.grid(visible=False)
    axes.spines[["left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    text = (
        "Every figure with its 95% interval, between what guessing gives and what the same attack gets from a map that "
        "leaks. The black mark is the limit; orange is beyond it, green within, grey is disclosed without a limit."
    )
    return drawn(figure, text)


def _beside_limit(judgement: Judgement) -> str:
    """What is judged, and its limit, in few words."""
    found = judgement.found
    if found is None or judgement.limit is None:
        return judgement.said
    upper = "" if RULES[judgement.name].judged == "value" else f", at most {_number(found.high)}"
    return f"{_number(found.value)}{upper}; limit {judgement.limit:g}"


def _row(judgement: Judgement, findings: Mapping[str, Finding]) -> _Row | None:
    found = judgement.found
    finding = next((f for f in findings.values() if judgement.name in f.headline), None)
    if found is None or found.value is None or finding is None:
        return None
    chance = found.chance or 0.0
    control = _control(finding, finding.headline[judgement.name])
    # A share without a control of its own stands between chance and always.
    leaks = control if control is not None and control > chance else max(found.value, judgement.limit or 0.0, 1.0)
    span = leaks - chance if leaks > chance else 1.0

    def scaled(value: float) -> float:
        return min(1.25, max(-0.1, (value - chance) / span))

    low, high = (found.value if v is None else v for v in (found.low, found.high))
    limit = None if judgement.limit is None else scaled(judgement.limit)
    return _Row(judgement, scaled(found.value), scaled(low), scaled(high), limit)


def _control(finding: Finding, headline: Measure) -> float | None:
    """What the positive control gives for the same figure: of 'site AUC' and any other attribute's, 'AUC'."""
    values = [
        m.value
        for m in finding.measures
        if m.arm in {"shallow", "planted"} and f" {headline.figure}".endswith(f" {m.figure}") and math.isfinite(m.value)
    ]
    return max(values, default=None)


def _curve(finding: Finding) -> Chart | None:
    """The first headline figure over the attacker's images."""
    if len(finding.curve) < 2:
        return None
    first = next(iter(finding.headline))
    points = sorted(finding.curve, key=lambda p: p.images)
    figure, axes = new_axes("images that the attacker learned from", RULES[first].text if first in RULES else first)
    images = [p.images for p in points]
    axes.plot(images, [p.value for p in points], marker="o", color=ACCENT)
    axes.fill_between(images, [p.low for p in points], [p.high for p in points], color=ACCENT, alpha=0.2)
    chance = finding.headline[first].chance
    if chance is not None:
        axes.axhline(chance, color=SOFT, linestyle="--")
    axes.yaxis.label.set_fontsize(8)
    by = f", by {finding.curve_by}" if finding.curve_by else ""
    return drawn(figure, f"{finding.attack}{by}: does more material help the attacker? Dashed: chance.")
