"""The attacks by their names, and their findings as JSON, so that an audit that was stopped goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import import_module
from typing import Any

from featureloop.audit.findings import Finding, Measure, Point
from featureloop.model.charts import Chart

Attack = Callable[..., Finding]
"""From a `Lab`, and the attack's own settings where they aren't its defaults, to what it finds."""

_MODULES: Mapping[str, str] = {
    "linkage": "featureloop.audit.linkage",
    "inversion": "featureloop.audit.inversion",
    "text": "featureloop.audit.text",
    "position": "featureloop.audit.position",
    "attributes": "featureloop.audit.attributes",
    "membership": "featureloop.audit.membership",
}


def attack_named(name: str) -> Attack:
    """The attack of a name of `sharing.privacy.ATTACKS`; its libraries are imported now."""
    attack: Attack = getattr(import_module(_MODULES[name]), f"attack_{name}")
    return attack


def finding_to_json(found: Finding) -> bytes:
    """A finding as JSON; what is not finite is null. Keys keep their order: the curve is of the first headline."""
    return json.dumps(_plain(asdict(found)), indent=1, allow_nan=False).encode()


def finding_from_json(raw: bytes) -> Finding:
    """A finding from what `finding_to_json` wrote.

    Raises
    ------
    ValueError, KeyError, TypeError
        It is something else.
    """
    data = json.loads(raw)
    return Finding(
        attack=data["attack"],
        headline={name: _measure(m) for name, m in data["headline"].items()},
        measures=tuple(_measure(m) for m in data["measures"]),
        controls=data["controls"],
        curve=tuple(Point(images=p["images"], **_numbers(p, "value", "low", "high")) for p in data["curve"]),
        curve_by=data["curve_by"],
        budget=data["budget"],
        notes=tuple(data["notes"]),
        charts=tuple(Chart(c["image"], c["text"]) for c in data["charts"]),
        sheet=data["sheet"],
    )


def _measure(data: Mapping[str, Any]) -> Measure:
    return Measure(
        figure=data["figure"],
        arm=data["arm"],
        by=data["by"],
        groups=data["groups"],
        chance=data["chance"],
        **_numbers(data, "value", "low", "high"),
    )


def _numbers(data: Mapping[str, Any], *names: str) -> dict[str, float]:
    return {name: math.nan if data[name] is None else float(data[name]) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if hasattr(value, "item") else value
