"""Records and outcomes in words, for people: the privacy officer, the clinician."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from featureloop.device.outbox_file import State, payload_bytes
from featureloop.model.forms import parse_form
from featureloop.sharing.record import Record, quarter_text

OUTCOMES = {
    "provided": "provided, as recognized",
    "changed": "provided, changed",
    "confirmed": "provided, confirmed by a person",
    "softened": "provided, with its probabilities",
    "asked": "waiting for a person's answer",
    "unanswered": "doubtful, and nobody answered",
    "withheld": "withheld",
    "not-wanted": "not provided: the site's policy",
    "near-duplicate": "not provided: like one before",
}
"""What the sharing makes of a result (`sharing.change.Outcome`)."""

STATES = {
    State.PENDING: "waits",
    State.LEASED: "on its way",
    State.DELIVERED: "delivered",
    State.REFUSED: "refused",
    State.EXPIRED: "expired",
}


def outcome_in_words(outcome: str) -> str:
    """An outcome for people; one without words of its own is its own name."""
    return OUTCOMES.get(outcome, outcome.replace("-", " "))


def size_in_words(size: float) -> str:
    """Bytes as a person reads them: `831 bytes`, `12.4 kB`."""
    if size < 1_000:
        return f"{size:.0f} byte{'' if round(size) == 1 else 's'}"
    thousands = min(3, 1 + int(math.log10(size / 1_000) / 3))
    return f"{size / 1_000**thousands:.1f} {('kB', 'MB', 'GB')[thousands - 1]}"


def record_in_words(record: Record) -> list[tuple[str, Any, str]]:
    """Every field of a record: its name, its value, and what it means, for people."""
    changed, form = record.changed is not None, parse_form(record.anonymizer)
    return [
        ("id", record.id.hex(), "hash of all that follows"),
        ("site", record.site, "name given at enrolment"),
        ("device", record.device, "random name given at enrolment; no serial number"),
        ("package", record.package.hex()[:12], "which package recognized"),
        ("extractor", record.extractor.hex()[:12], "which extractor made the features"),
        ("task", record.task, "what was recognized"),
        ("anonymizer", record.anonymizer, " ".join(form.words())),
        ("vectors", record.vectors, f"feature vectors; {_ORDERS[form.base]}"),
        ("channels", record.channels, "values in each vector"),
        ("codec", record.codec, "how the features are compressed"),
        ("features", f"{len(record.features)} bytes", f"{record.vectors * record.channels} quantized values"),
        ("recognition", _bytes(record.recognition), _ROWS[record.task]),
        ("reliability", _number(record.reliability), "calibrated, from 0 to 1"),
        ("reliability_method", record.reliability_method or "not provided", "how the reliability was computed"),
        ("changed", _bytes(record.changed), "what replaced the recognition" if changed else "the recognition stands"),
        ("changed_by", record.changed_by or "nobody", "a role or a way, never a person's name"),
        ("changed_when", quarter_text(record.changed_when) if record.changed_when else "-", "quarter, never a date"),
        ("group", record.group.hex() if record.group else "not provided", "keyed pseudonym; the key stays at the site"),
        ("period", quarter_text(record.period), "quarter of the year, never a date"),
        ("total", f"{payload_bytes(record)} bytes", "payload; no pixel, name, date, UID or free text"),
    ]


_ROWS = {
    "classification": "what the device recognized: one row for the whole frame",
    "detection": "by vector, not by place: labels, and how far from it the sides of its box are",
    "multilabel": "what the device recognized: one row for the whole frame",
    "segmentation": "what the device recognized, by vector, not by place",
}
_ORDERS = {
    "pool": "their order carries nothing",
    "set": "their order carries nothing",
    "window": "their order tells which are neighbours",
    "none": "their order tells their places",
}


def _bytes(payload: bytes | None) -> str:
    return "not provided" if payload is None else f"{len(payload)} bytes"


def _number(value: float | None) -> str:
    return "not provided" if value is None else f"{value:.3f}"


def moment_in_words(at: float) -> str:
    """A moment (seconds since the epoch) in the site's own time."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%d %b %Y, %H:%M")
