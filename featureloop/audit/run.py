"""The audit: attacks one after the other, each kept when it is done, and the report that they make."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from featureloop import __version__
from featureloop.audit import attacks as known
from featureloop.audit.attacks import Attack, finding_from_json, finding_to_json
from featureloop.audit.findings import Finding, Measure
from featureloop.audit.material import Lab, Party
from featureloop.core.errors import FeatureloopError, StorageError
from featureloop.model.package import write_atomically
from featureloop.sharing.privacy import ATTACKS, PrivacyReport, ReportedFigure, bound_to
from featureloop.sharing.record import quarter_of

KEPT = "attacks"
"""Where findings are kept, below the report's directory."""


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit found.

    Attributes
    ----------
    findings
        By attack, in the order of `ATTACKS`.
    failed
        Attacks that could not be run, and why.
    report
        What of it a package carries and a device judges by.
    """

    findings: Mapping[str, Finding]
    failed: Mapping[str, str]
    report: PrivacyReport


def audit(
    lab: Lab,
    out: Path,
    *,
    attacks: Sequence[str] = ATTACKS,
    settings: Mapping[str, Any] | None = None,
    find: Callable[[str], Attack] | None = None,
    tell: Callable[[str], None] = lambda _text: None,
) -> Audited:
    """Run attacks on what a package of one task releases; findings that an earlier run kept are taken as they are.

    An attack that can't be run doesn't stop the others; the report then lacks its figures.

    Parameters
    ----------
    out
        The report's directory.
    settings
        Of attacks, by name, as dataclasses; the others have their defaults. A finding of other settings isn't taken.
    find
        From an attack's name to what runs it; None takes those of `audit.attacks`.

    Raises
    ------
    StorageError
        A finding can't be kept.
    """
    of = fingerprint(lab)
    findings, failed = {}, {}
    for name in attacks:
        path = out / KEPT / f"{name}.json"
        given = {"settings": settings[name]} if settings and name in settings else {}
        mark = of + "".join(json.dumps(asdict(own), sort_keys=True) for own in given.values())
        found = _kept(path, mark)
        if found is None:
            try:
                found = (find or known.attack_named)(name)(lab, **given)
            except StorageError:
                raise
            except Exception as error:  # noqa: BLE001 - hours of other attacks must not be lost; it is told
                failed[name] = str(error) if isinstance(error, FeatureloopError) else type(error).__name__
                tell(f"the {name} attack could not be run: {type(error).__name__}: {error}")
                continue
            write_atomically(path, json.dumps({"of": mark}).encode() + b"\n" + finding_to_json(found))
        else:
            tell(f"{name}: taken from '{path}'")
        findings[name] = found
    return Audited(findings, failed, _report(lab, findings))


def fingerprint(lab: Lab) -> str:
    """What findings follow from beside their settings: package, images of both sides, seed, and the attacks' code."""
    digest = hashlib.sha256(json.dumps([__version__, asdict(bound_to(lab.package)), lab.seed]).encode())
    for module in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(module.read_bytes())
    for side in (lab.attacker, lab.victims, *([lab.outsiders] if lab.outsiders else [])):
        for i, (frame, group) in enumerate(zip(side.frames, side.groups.tolist(), strict=True)):
            digest.update(json.dumps([frame.name, frame.index, group, dict(side.said(i))], sort_keys=True).encode())
            digest.update(np.ascontiguousarray(frame.pixels).tobytes())
        digest.update(b"|")
    return digest.hexdigest()


def _kept(path: Path, mark: str) -> Finding | None:
    """A finding that an earlier run kept; None where there is none of the same kind."""
    try:
        head, _, rest = path.read_bytes().partition(b"\n")
        return finding_from_json(rest) if json.loads(head)["of"] == mark else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _report(lab: Lab, findings: Mapping[str, Finding]) -> PrivacyReport:
    figures = {name: _reported(m) for f in findings.values() for name, m in f.headline.items()}
    sides: dict[str, Party] = {"attacker": lab.attacker, "victims": lab.victims}
    return PrivacyReport(
        task=lab.package.manifest.task,
        of=bound_to(lab.package),
        figures=figures,
        controls={name: bool(f.controls) for name, f in findings.items()},
        images={name: len(side) for name, side in sides.items()},
        patients={name: len(set(side.groups.tolist())) for name, side in sides.items()},
        seed=lab.seed,
        quarter=quarter_of(datetime.now(UTC).date()),
        near_duplicates=lab.victims.near_duplicates,
    )


def _reported(m: Measure) -> ReportedFigure:
    def known(value: float | None) -> float | None:
        return float(value) if value is not None and math.isfinite(value) else None

    value = known(m.value)
    # A figure that could not be determined is beyond every limit.
    return ReportedFigure(
        math.inf if value is None else value, known(m.low), known(m.high), known(m.chance), m.groups, m.by
    )
