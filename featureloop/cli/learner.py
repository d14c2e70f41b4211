"""`featureloop learner`: serve, invite devices, train, and look."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from featureloop.cli.console import AsJson, progress_bars, report, size_text, table, tell
from featureloop.config import settings
from featureloop.core.errors import GateError
from featureloop.core.types import Task

app = typer.Typer(no_args_is_help=True, help="The central learner.")

Data = Annotated[Path | None, typer.Option("--data", help="The learner's directory (FEATURELOOP_LEARNER_DATA).")]


def learner_data(path: Path | None) -> Path:
    """The learner's directory, from the flag or the settings."""
    return path or settings().learner_data


@app.command()
def serve(
    data: Data = None,
    package: Annotated[Path | None, typer.Option("--package", help="A founding package to adopt as live.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; loopback unless told otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 8470,
) -> None:
    """Run the learner: records in, packages out. Stops on Ctrl-C or SIGTERM."""
    from featureloop.learner.adopt import adopt
    from featureloop.learner.service import open_learner
    from featureloop.learner.service import serve as run
    from featureloop.model.package import load_package

    learner = open_learner(learner_data(data))
    if package is not None:
        with progress_bars() as progress:
            adopted = adopt(learner, load_package(package), progress=progress)
        tell(f"package {adopted.package.short} is live; {adopted.records} founding records are in the store")
    run(learner, host=host, port=port, on_ready=lambda url: tell(f"learner ready at {url}"))


@app.command()
def invite(
    site: Annotated[str, typer.Option("--site", help="Lower-case letters, digits and hyphens.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make a one-time code with which one device of a site can enroll."""
    from featureloop.learner.service import open_learner

    code = open_learner(learner_data(data)).auth.invite(site)
    report({"site": site, "code": code}, as_json=as_json, show=lambda: code)


@app.command()
def train(
    data: Data = None,
    line: Annotated[str | None, typer.Option(help="First digits of the package line, where there are several.")] = None,
    task: Annotated[
        list[Task] | None, typer.Option("--task", help="Which of the package's tasks; all that sites provided for.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(min=0.1, help="Passes over the records.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Learn from at most so many of the sites' records.")] = None,
    interpolation: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, help="How far to go from the live weights; else cross-validation chooses."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Train a candidate on what all sites provided, and let the gate judge it.

    Ends with exit code 10 when the gate does not let it pass; it is then kept as rejected.
    """
    from featureloop.learner.adopt import live_package
    from featureloop.learner.service import open_learner
    from featureloop.learner.training import TrainSettings, train_candidate
    from featureloop.model.fit import FitSettings

    started = time.perf_counter()
    learner = open_learner(learner_data(data))
    learner.ingest.drain()
    live = live_package(learner, line)
    fit = FitSettings(seed=seed) if epochs is None else FitSettings(seed=seed, epochs=epochs)
    with progress_bars() as progress:
        done = train_candidate(
            learner.store,
            learner.registry,
            live,
            settings=TrainSettings(fit=fit, limit=limit, interpolation=interpolation),
            tasks=task or (),
            progress=progress,
        )
    result: dict[str, Any] = {
        "candidate": done.package.digest.hex(),
        "path": str(done.package.path),
        "parent": live.digest.hex(),
        "records": dict(done.records),
        "unreadable": done.unreadable,
        "interpolation": done.interpolation,
        "tasks": {
            str(task): {"passed": v.passed, "interpolation": done.shares[task], "reasons": v.reasons}
            for task, v in done.verdicts.items()
        },
        "gate": done.verdict.as_dict(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    rows = [
        (s.task, s.site, s.frames, s.groups, f"{s.before:.3f}", f"{s.after:.3f}", f"{s.low:+.3f} to {s.high:+.3f}")
        for s in done.verdict.sites
    ]
    title = f"candidate {done.package.short}: {'passed' if done.verdict.passed else 'rejected'}"
    columns = ["task", "held back at", "frames", "groups", "live", "candidate", "difference, 95%"]
    report(result, as_json=as_json, show=lambda: table(title, columns, rows))
    for judged, one in done.verdicts.items():
        if done.verdict.passed and not one.passed:
            tell(f"{judged} keeps its live recognizer: {'; '.join(one.reasons)}")
    if not done.verdict.passed:
        raise GateError(f"the gate did not let it pass: {'; '.join(done.verdict.reasons)}")


@app.command()
def status(data: Data = None, as_json: AsJson = False) -> None:
    """What the store and the registry hold."""
    from featureloop.learner.service import open_learner

    learner = open_learner(learner_data(data))
    learner.ingest.drain()
    counts, sizes = learner.store.counts(), learner.store.bytes_by_site()
    result = {
        "data": str(learner.path),
        "store_version": learner.store.version,
        "records": counts,
        "bytes": sizes,
    }
    rows = [(site, n, size_text(sizes.get(site, 0))) for site, n in sorted(counts.items())]
    report(result, as_json=as_json, show=lambda: table(f"learner {learner.path}", ["site", "records", "payload"], rows))
