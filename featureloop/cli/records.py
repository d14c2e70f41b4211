"""`featureloop records`: what the learner's store holds, and its erasure."""

from __future__ import annotations

from typing import Annotated

import typer

from featureloop.cli.console import AsJson, report, size_text, table
from featureloop.cli.learner import Data, learner_data
from featureloop.core.errors import InputError

app = typer.Typer(no_args_is_help=True, help="Records in the learner's store: list and erase.")


@app.command("list")
def list_records(data: Data = None, as_json: AsJson = False) -> None:
    """Count the records of every site, and those whose result somebody changed or confirmed."""
    from featureloop.learner.service import open_learner

    learner = open_learner(learner_data(data))
    learner.ingest.drain()
    counts, sizes = learner.store.counts(), learner.store.bytes_by_site()
    changed = learner.store.changed_by_site()
    found = [
        {"site": s, "records": n, "bytes": sizes.get(s, 0), "changed_by": changed.get(s, {})}
        for s, n in sorted(counts.items())
    ]
    rows = [
        (s, n, size_text(float(sizes.get(s, 0))), ", ".join(f"{k} by {by}" for by, k in changed.get(s, {}).items()))
        for s, n in sorted(counts.items())
    ]
    report(found, as_json=as_json, show=lambda: table("records", ["site", "records", "payload", "changed"], rows))


@app.command()
def erase(
    site: Annotated[str | None, typer.Option(help="All records of a site.")] = None,
    device: Annotated[str | None, typer.Option(help="All records of a device.")] = None,
    group: Annotated[
        list[str] | None, typer.Option(help="All records of a group: its pseudonym in hexadecimal, or several.")
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Erase records for good: deleted, compacted, old versions removed."""
    from featureloop.learner.service import open_learner

    if sum(bool(x) for x in (site, device, group)) != 1:
        raise InputError("name exactly one of --site, --device and --group")
    try:
        groups = [bytes.fromhex(g) for g in group or ()]
        if wrong := [g for g in groups if len(g) != 16]:
            raise ValueError(wrong)
    except ValueError as error:
        raise InputError(f"a group's pseudonym is 32 hexadecimal digits, not {group!r}") from error
    learner = open_learner(learner_data(data))
    learner.ingest.drain()
    store = learner.store
    n = sum(store.erase(group=g) for g in groups) if groups else store.erase(site=site, device=device)
    report({"erased": n}, as_json=as_json, show=lambda: f"{n} records erased")
