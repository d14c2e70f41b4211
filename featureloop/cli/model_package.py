"""`featureloop model`: evaluate, show, export and import packages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group

from featureloop.cli.console import AsJson, progress_bars, report, table, tell
from featureloop.cli.folders import HoldOut, Images, Part, Seed, part_of, tell_notes, tell_skipped
from featureloop.core.types import Task
from featureloop.images.several import folders_for
from featureloop.model.manifest import Lineage, Manifest, ReleasedForm
from featureloop.model.package import Package, load_package
from featureloop.sharing.privacy import PAGE, load_report, report_file

if TYPE_CHECKING:
    from featureloop.images.labelled import LabelledFolder
    from featureloop.learner.evaluation import Evaluation


def evaluate(
    package: Annotated[Path, typer.Argument(help="A package directory.")],
    images: Images,
    task: Annotated[
        Task | None, typer.Option("--task", help="Which of the package's tasks, if not all that the images serve.")
    ] = None,
    part: Annotated[Part, typer.Option(help="Which side of the split by groups.")] = Part.ALL,
    hold_out: HoldOut = 0.2,
    seed: Seed = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A directory for report.html and evaluation.json; one a task where several are."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a package on labelled images: figures with 95% intervals, resampled by group."""
    from featureloop.learner.evaluation import evaluate as run

    loaded = load_package(package)
    views = loaded.views if task is None else (loaded.view(task),)
    by_task = {Task(view.manifest.task): view for view in views}
    folders = folders_for(images, {t: view.manifest.labels for t, view in by_task.items()})
    tell_notes(folders)
    _tell_split(loaded.manifest.lineage, part, hold_out=hold_out, seed=seed)
    found: dict[Task, Evaluation] = {}
    for folder in folders:
        items = part_of(folder.items, part, hold_out=hold_out, seed=seed)
        with progress_bars() as progress:
            one = found[folder.task] = run(by_task[folder.task], folder, items, seed=seed, progress=progress)
        tell_skipped(one.skipped)
        for caution in one.cautions:
            tell(caution)
        if out is not None:
            place = out if len(folders) == 1 else out / str(folder.task)
            _write_report(one, by_task[folder.task], folder, place)
    data: dict[str, Any] = {"package": loaded.digest.hex()}
    if len(found) == 1:
        data |= next(iter(found.values())).as_dict()
    else:
        data["tasks"] = {str(t): one.as_dict() for t, one in found.items()}
    report(data, as_json=as_json, show=lambda: _figures(loaded, found))


def _tell_split(lineage: Lineage, part: Part, *, hold_out: float, seed: int) -> None:
    """Say where a package may have learned from what it is measured on."""
    if not lineage.hold_out or (part is Part.HELD_OUT and (hold_out, seed) == (lineage.hold_out, lineage.seed)):
        return
    tell(
        "if these are the package's founding images, it learned from some of them; what it didn't: "
        f"--part held-out --hold-out {lineage.hold_out:g} --seed {lineage.seed}"
    )


def _write_report(found: Evaluation, view: Package, folder: LabelledFolder, out: Path) -> None:
    from featureloop.learner.evaluation_report import write_report

    tell(f"report: {write_report(found, view, folder, out)}")


def _figures(package: Package, found: Mapping[Task, Evaluation]) -> Group:
    """The figures of every task, for people."""
    tables = []
    for task, one in found.items():
        of = f", {task}," if len(found) > 1 else ""
        rows = [(f.name, f.value_text, f.interval_text) for f in one.figures]
        title = (
            f"package {package.short}{of} on {one.frames} frames of {one.groups} groups ({len(one.skipped)} skipped)"
        )
        tables.append(table(title, ["figure", "mean", "95% interval"], rows))
    return Group(*tables)


def show(package: Annotated[Path, typer.Argument(help="A package directory.")], as_json: AsJson = False) -> None:
    """Check every digest of a package and print what it says of itself."""
    import json

    loaded = load_package(package)
    manifest = json.loads(loaded.manifest.to_json())
    m = loaded.manifest
    further = manifest.pop("heads", [])
    heads = [head | {"released": _form(own.released)} for head, own in zip(further, m.heads, strict=True)]
    data = {"digest": loaded.digest.hex(), "line": loaded.line, **manifest, "released": _form(m.released)}
    data |= {"heads": heads} if heads else {}
    data["privacy"] = {v.manifest.task: asdict(r) if (r := load_report(v)) else None for v in loaded.views}
    rows: list[tuple[str, object]] = [
        ("digest", loaded.short),
        ("line (extractor)", loaded.line[:12]),
        ("version", m.version),
        ("input", f"{m.preprocessing.size} x {m.preprocessing.size}"),
        *(row for view in loaded.views for row in (*_task_rows(view.manifest), *report_rows(view))),
        ("parent", m.lineage.parent[:12] if m.lineage.parent else "none: a founding package"),
        ("backbone", m.features.backbone),
        ("trained on", ", ".join(f"{n} of {s}" for s, n in m.lineage.records.items())),
        ("files, digests checked", len(m.files)),
    ]
    report(data, as_json=as_json, show=lambda: table(f"package {package}", ["", "value"], rows))


def _form(released: ReleasedForm) -> dict[str, object]:
    """A released form without its tables, for JSON."""
    return {"anonymizer": released.anonymizer, "pooling": released.statistics, "channels": released.channels}


def _task_rows(view: Manifest) -> list[tuple[str, object]]:
    """What a package says of one of its tasks."""
    released = view.released
    pooled = f" of {', '.join(released.statistics)}" if released.statistics else ""
    return [
        ("task", view.task),
        ("labels", ", ".join(view.labels)),
        (
            "released form",
            f"{released.anonymizer}{pooled}, {released.channels} channels, {max(released.levels)} levels",
        ),
        ("reliability", f"{view.calibration.method}, doubtful below {view.calibration.threshold:.3f}"),
    ]


def report_rows(view: Package) -> list[tuple[str, object]]:
    """What a package says of the privacy report of one of its tasks."""
    found = load_report(view)
    if found is None:
        return [("privacy report", "none: devices refuse to provide by default, see 'audit privacy'")]
    shown = ", ".join(f"{name} {f.value:.3g}" for name, f in found.figures.items() if f.value is not None)
    return [("privacy report", f"{shown or 'no figure'}; {report_file(view, PAGE)}")]


def export(
    package: Annotated[Path, typer.Argument(help="A package directory.")],
    monai_bundle: Annotated[Path, typer.Option("--monai-bundle", help="Directory of the new MONAI Bundle.")],
    task: Annotated[Task | None, typer.Option("--task", help="Which of the package's tasks, if not the first.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a package as a MONAI Bundle, for MONAI's own commands and tools.

    Its network recognizes one task; all of the package is inside, for 'model import'.
    """
    from featureloop.learner.bundle import export_bundle

    loaded = load_package(package)
    export_bundle(loaded if task is None else loaded.view(task), monai_bundle)
    data = {"package": loaded.digest.hex(), "bundle": str(monai_bundle)}
    report(data, as_json=as_json, show=lambda: f"{monai_bundle}: package {loaded.short} as a MONAI Bundle")


def import_(
    bundle: Annotated[Path, typer.Argument(help="A MONAI Bundle that 'model export' made.")],
    out: Annotated[Path, typer.Option("--out", help="Directory of the package.")],
    as_json: AsJson = False,
) -> None:
    """Take a package out of a MONAI Bundle; every digest is checked.

    A bundle of another origin becomes a founding package by
    'model train --backbone BUNDLE', on labelled images.
    """
    from featureloop.learner.bundle import import_bundle

    package = import_bundle(bundle, out)
    data = {"package": str(out), "digest": package.digest.hex()}
    report(data, as_json=as_json, show=lambda: f"{out}: package {package.short}")
