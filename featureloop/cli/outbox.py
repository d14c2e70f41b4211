"""`featureloop outbox`: what leaves, in words and numbers, for the privacy officer."""

from __future__ import annotations

from typing import Annotated

import typer

from featureloop.cli.console import AsJson, report, size_text, table
from featureloop.cli.device import PolicyFile, open_outbox, site_policy
from featureloop.cli.places import State, device_state
from featureloop.core.errors import StorageError
from featureloop.device.outbox_file import State as OutboxState
from featureloop.device.words import record_in_words

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
