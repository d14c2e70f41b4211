"""`featureloop package`: the registry's life cycle, at the learner."""

from __future__ import annotations

from typing import Annotated

import typer

from featureloop.cli.console import AsJson, report, table
from featureloop.cli.learner import Data, learner_data

app = typer.Typer(no_args_is_help=True, help="Packages at the learner: list, promote, roll back, compare.")

Digest = Annotated[str, typer.Argument(metavar="DIGEST", help="The first digits of a package's digest.")]


@app.command("list")
def list_packages(data: Data = None, as_json: AsJson = False) -> None:
    """List all packages and their states."""
    from featureloop.learner.service import open_learner

    entries = open_learner(learner_data(data)).registry.list()
    rows = [(e.digest[:12], e.line[:12], str(e.state), (e.parent or "founding")[:12]) for e in entries]
    found = [{"digest": e.digest, "line": e.line, "state": str(e.state), "parent": e.parent} for e in entries]
    report(found, as_json=as_json, show=lambda: table("packages", ["package", "line", "state", "parent"], rows))


@app.command()
def promote(digest: Digest, data: Data = None, as_json: AsJson = False) -> None:
    """Make a candidate that passed the gate live; the devices take it over."""
    from featureloop.learner.service import open_learner

    package = open_learner(learner_data(data)).registry.promote(digest)
    result = {"live": package.digest.hex(), "path": str(package.path), "version": package.manifest.version}
    report(result, as_json=as_json, show=lambda: f"package {package.short} is live")


@app.command()
def rollback(
    line: Annotated[str | None, typer.Option(help="First digits of the package line, where there are several.")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Retire the live package and make its predecessor live again."""
    from featureloop.learner.adopt import live_package
    from featureloop.learner.service import open_learner

    learner = open_learner(learner_data(data))
    package = learner.registry.rollback(live_package(learner, line).line)
    report({"live": package.digest.hex()}, as_json=as_json, show=lambda: f"package {package.short} is live again")


@app.command()
def compare(digest: Digest, data: Data = None, as_json: AsJson = False) -> None:
    """Show what the gate found when it compared a candidate with the then live package."""
    from featureloop.learner.service import open_learner

    package = open_learner(learner_data(data)).registry.get(digest)
    gate = package.manifest.reports.get("gate", {})
    rows = [
        (
            s.get("task", ""),
            s["site"],
            s["frames"],
            f"{s['before']:.3f}",
            f"{s['after']:.3f}",
            f"{s['low']:+.3f} to {s['high']:+.3f}",
        )
        for s in gate.get("sites", [])
    ]
    columns = ["task", "held back at", "frames", "live", "candidate", "difference, 95%"]
    report(gate, as_json=as_json, show=lambda: table(f"package {package.short}", columns, rows))
