"""`featureloop outbox`: what leaves, in words and numbers, for the privacy officer."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from featureloop.cli.console import AsJson, report, size_text, table
from featureloop.cli.device import PolicyFile, open_outbox, site_policy
from featureloop.cli.places import State, device_state
from featureloop.core.errors import StorageError
from featureloop.device.outbox_file import State as OutboxState
from featureloop.device.outbox_file import payload_bytes
from featureloop.model.forms import parse_form
from featureloop.sharing.record import Record, quarter_text

app = typer.Typer(no_args_is_help=True, help="What leaves this device, and what has left it.")


@app.command("list")
def list_records(
    only: Annotated[OutboxState | None, typer.Option("--only", help="Only records in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    state: State = None,
    policy: PolicyFile = None,
    as_json: AsJson = False,
) -> None:
    """List the records that wait, were delivered, or were refused."""
    outbox = open_outbox(device_state(state), site_policy(policy))
    entries = outbox.rows(state=only, limit=limit)
    outbox.close()
    data = [{"id": e.id.hex(), "state": str(e.state), "bytes": e.size, "reason": e.reason} for e in entries]
    rows = [(e.id.hex()[:12], str(e.state), size_text(e.size), e.reason or "") for e in entries]
    report(data, as_json=as_json, show=lambda: table("outbox", ["id", "state", "payload", "reason"], rows))


@app.command()
def show(
    record: Annotated[str, typer.Argument(metavar="ID", help="The first digits of a record's id.")],
    state: State = None,
    policy: PolicyFile = None,
    as_json: AsJson = False,
) -> None:
    """Print all that a record says: there is nothing else in it."""
    outbox = open_outbox(device_state(state), site_policy(policy))
    item = outbox.get(record)
    outbox.close()
    if item.record is None:
        raise StorageError(
            f"record {item.entry.id.hex()[:12]} was {item.entry.state} and its content purged; only its id is left"
        )
    rows = record_in_words(item.record)
    data = {"state": str(item.entry.state), **{name: value for name, value, _ in rows}}
    report(
        data,
        as_json=as_json,
        show=lambda: table(f"record {data['id'][:12]}, {data['state']}", ["field", "value", "what it is"], rows),
    )


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
        ("changed_by", record.changed_by or "nobody", "a role, never a person's name"),
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


@app.command()
def purge(
    days: Annotated[float, typer.Option(min=0, help="Only records older than so many days.")] = 30.0,
    state: State = None,
    policy: PolicyFile = None,
    as_json: AsJson = False,
) -> None:
    """Delete the content of delivered, refused and expired records; their ids stay, so nothing is sent twice."""
    outbox = open_outbox(device_state(state), site_policy(policy))
    over = (OutboxState.DELIVERED, OutboxState.REFUSED, OutboxState.EXPIRED)
    n = outbox.purge(states=over, older_than_s=days * 86_400)
    outbox.close()
    report({"purged": n}, as_json=as_json, show=lambda: f"{n} records purged")
