"""The privacy report of a package: what attacks on its released form found, and whether a site accepts that.

A report is bound to the extractor, the released form and the recognizer that were attacked. The audit writes it, the
package carries it under its signature, and the device compares it with the site's limits before it provides.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Self

from featureloop.core.errors import PackageError, PolicyError
from featureloop.model.manifest import Manifest
from featureloop.model.manifest_checks import build
from featureloop.model.package import EXTRACTOR, RECOGNIZER, Package, head_file

FORMAT = 1
REPORT = "reports/privacy.json"
PAGE = "reports/privacy.html"
MAX_BYTES = 1 << 20
ATTACKS = ("linkage", "inversion", "text", "position", "attributes", "membership")

Judged = Literal["value", "upper bound"]
"""What of a figure is compared with its limit: itself, or the upper end of its interval."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How a figure is judged, and its limit where the site sets none.

    Attributes
    ----------
    text
        What it is, for people.
    limit
        At most this; None discloses the figure without a limit.
    judged
        What is compared with the limit.
    attack
        Which one finds it.
    """

    text: str
    limit: float | None
    judged: Judged
    attack: str


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "linkage.top1": Rule("records of one patient put together, at the first guess", 0.09, "upper bound", "linkage"),
        "linkage.auc": Rule("pairs of one patient told from other pairs", 0.60, "value", "linkage"),
        "linkage.image_top1": Rule("a record found by somebody who holds its image", None, "value", "linkage"),
        "inversion.gain_db": Rule(
            "reconstruction against the best guess without features, dB", 1.0, "value", "inversion"
        ),
        "inversion.linkage_top1": Rule("reconstructions put together by patient", 0.09, "upper bound", "inversion"),
        "text.presence_auc": Rule("whether there is burned-in text", 0.60, "value", "text"),
        "text.character_ratio": Rule("its characters read, against chance", 1.5, "value", "text"),
        "position.exact_ratio": Rule("vectors put back where they stood, against chance", None, "value", "position"),
        "membership.tpr": Rule("training frames told at 0.1% false alarms", 0.01, "value", "membership"),
    }
)
"""With the default policy's limits; 0.09 is what EMA's Policy 0070 and Health Canada recommend for public release."""


@dataclass(frozen=True, slots=True)
class ReportedFigure:
    """A headline figure with its 95% interval over patients.

    Attributes
    ----------
    value, low, high
        None where they aren't known; a value that isn't is beyond every limit.
    chance
        What guessing gives.
    groups
        Patients that decide it.
    by
        The strongest attacker.
    """

    value: float | None
    low: float | None
    high: float | None
    chance: float | None
    groups: int
    by: str


@dataclass(frozen=True, slots=True)
class PrivacyReport:
    """What the audit of one task of a package found.

    Attributes
    ----------
    task
        Whose released form was attacked.
    of
        The networks and the form that were attacked.
    figures
        By the names that policies use.
    controls
        For each attack that was run, whether its controls hold: it found the leak where there is one, and none where
        there is none.
    images, patients
        Of the attacker and of the victims.
    seed
        Of every random choice.
    quarter
        When it was made, `4 * year + quarter - 1`.
    near_duplicates
        The share by which near-duplicates of the victims' frames were held back, as a policy says it; 0: none were.
    """

    task: str
    of: Bound
    figures: dict[str, ReportedFigure]
    controls: dict[str, bool]
    images: dict[str, int]
    patients: dict[str, int]
    seed: int
    quarter: int
    near_duplicates: float = 0.0
    format: int = FORMAT

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, UTF-8."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """Parse a report.

        Raises
        ------
        PackageError
            It is too long, no JSON, of another format, or a field is missing or of a wrong type.
        """
        if len(raw) > MAX_BYTES:
            raise PackageError(f"a privacy report of {len(raw)} bytes is over the limit of {MAX_BYTES}")
        try:
            data = json.loads(raw)
            if not isinstance(data, dict) or data.get("format") != FORMAT:
                raise ValueError(f"this version reads format {FORMAT}")
            report: Self = build(cls, data)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise PackageError(f"the privacy report is malformed: {error}; run 'audit privacy' again") from error
        return report


@dataclass(frozen=True, slots=True)
class Bound:
    """What a report is of: SHA-256 of the extractor's and the recognizer's file, and `form_digest` (hexadecimal)."""

    extractor: str
    recognizer: str
    form: str


def bound_to(view: Package) -> Bound:
    """What a report of a package of one task has to be of."""
    files = view.manifest.files
    recognizer = head_file(RECOGNIZER, view.head) if view.head else RECOGNIZER
    return Bound(files[EXTRACTOR], files[recognizer], form_digest(view.manifest))


def form_digest(manifest: Manifest) -> str:
    """SHA-256 of the released form and of how frames are made to fit the extractor (hexadecimal)."""
    said = {"released": asdict(manifest.released), "preprocessing": asdict(manifest.preprocessing)}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def report_file(view: Package, name: str = REPORT) -> str:
    """Where a package of one task has its report (or, by `name`, its page)."""
    return name.replace("reports/", f"reports/{view.head}/", 1) if view.head else name


def load_report(view: Package) -> PrivacyReport | None:
    """The report that a package of one task carries; None where it has none.

    Raises
    ------
    PackageError
        The report is malformed.
    """
    name = report_file(view)
    return PrivacyReport.from_json((view.path / name).read_bytes()) if name in view.manifest.files else None


@dataclass(frozen=True, slots=True)
class Privacy:
    """What a site demands of a package's privacy report: the table `[privacy]` of its policy.

    Attributes
    ----------
    report
        `required`, or `optional`: a package without a report may share all the same; one that is there must be
        within the limits.
    membership_of_parent
        Whether a successor, whose recognizer is another one, may share on its parent's membership figure.
    limits
        By figure; None discloses it without a limit. What isn't named has the limit of `RULES`.
    """

    report: Literal["required", "optional"] = "required"
    membership_of_parent: bool = True
    limits: Mapping[str, float | None] = field(default_factory=dict)

    def limit(self, name: str) -> float | None:
        """The limit of a figure; None for no limit."""
        return self.limits.get(name, RULES[name].limit)


def check_privacy(view: Package, privacy: Privacy, *, near_duplicates: float = 0.0) -> None:
    """Refuse to provide under a package of one task whose report doesn't meet the site's demands.

    Parameters
    ----------
    near_duplicates
        The site's: a report of what leaves where more frames are held back says too little.

    Raises
    ------
    PolicyError
        There is no report, it is of something else, or figures are missing, over their limits, or of attacks whose
        controls failed; which ones, and what to do.
    PackageError
        The report is malformed.
    """
    report, name = load_report(view), f"package {view.short}"
    if report is None and privacy.report == "optional":
        return
    if report is None:
        raise PolicyError(
            f"{name} has no privacy report, and the site's policy requires one; run 'featureloop audit privacy "
            '--package ... --images ...\', or say report = "optional" under [privacy] in the policy'
        )
    own = bound_to(view)
    for part in ("extractor", "form", "recognizer"):
        successor = part == "recognizer" and privacy.membership_of_parent
        if getattr(report.of, part) != getattr(own, part) and not successor:
            raise PolicyError(
                f"{name}: its privacy report is of another {part}; run 'featureloop audit privacy' for this package"
            )
    if report.near_duplicates > near_duplicates:
        raise PolicyError(
            f"{name}: its privacy report is of frames without near-duplicates nearer than {report.near_duplicates:g}, "
            f"the site's policy lets frames as near as {near_duplicates:g} leave; say near_duplicates = "
            f"{report.near_duplicates:g} under [share], or audit again with --near-duplicates {near_duplicates:g}"
        )
    if wrong := [text for figure in RULES if (text := _wrong(report, figure, privacy.limit(figure)))]:
        raise PolicyError(
            f"{name} is beyond what the site's policy allows: {'; '.join(wrong)}. Take another package, audit again "
            "with more images where controls failed, or set other limits under [privacy.limits]"
        )


def _wrong(report: PrivacyReport, figure: str, limit: float | None) -> str | None:
    """What of a figure is against the site's policy; None where nothing is."""
    rule, found = RULES[figure], report.figures.get(figure)
    if limit is None:
        return None
    if found is None:
        return f"its report lacks {figure}, whose limit is {limit:g}"
    if not report.controls.get(rule.attack, False):
        return f"{figure} proves nothing, the controls of the {rule.attack} attack failed"
    if beyond(found, limit, rule.judged):
        return f"{figure} is {said(found, rule.judged)}, the limit is {limit:g}"
    return None


def beyond(found: ReportedFigure, limit: float, judged: Judged) -> bool:
    """Whether a figure is over its limit; one that isn't known is."""
    value = found.high if judged == "upper bound" else found.value
    return value is None or value > limit


def said(found: ReportedFigure, judged: Judged) -> str:
    """A figure in words, with what of it is judged."""
    value = _said(found.value)
    return value if judged == "value" else f"{value}, with an upper bound of {_said(found.high)}"


def _said(value: float | None) -> str:
    return "an unknown value" if value is None else f"{value:.3g}"


def limits_from(data: Any, path: object) -> dict[str, float | None]:
    """The table `[privacy.limits]` of a policy.

    Raises
    ------
    PolicyError
        A figure is unknown, or a limit is neither a number of at least 0 nor `disclosed`.
    """
    if not isinstance(data, dict):
        raise PolicyError(f"the policy '{path}': privacy.limits must be a table")
    out: dict[str, float | None] = {}
    for name, limit in data.items():
        if name not in RULES:
            raise PolicyError(
                f"the policy '{path}' limits the unknown figure {name!r} (in quotes, with its dot); known are "
                f"{', '.join(RULES)}"
            )
        number = isinstance(limit, int | float) and not isinstance(limit, bool) and math.isfinite(limit) and limit >= 0
        if not number and limit != "disclosed":
            raise PolicyError(
                f"the policy '{path}': the limit of {name} must be at least 0 or \"disclosed\", not {limit!r}"
            )
        out[name] = float(limit) if number else None
    return out
