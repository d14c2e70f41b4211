"""`featureloop model`: train, evaluate and show packages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featureloop.cli.console import AsJson, progress_bars, report, table, tell
from featureloop.core.types import Skipped, Task
from featureloop.images.labelled import LabelledFolder, open_labelled, split
from featureloop.images.truths import LabelledItem
from featureloop.model.manifest import Manifest
from featureloop.model.package import load_package

if TYPE_CHECKING:
    from featureloop.learner.founding import Founded
    from featureloop.model.backbones import Backbone

app = typer.Typer(no_args_is_help=True, help="Train, evaluate and show packages.")

Images = Annotated[
    Path, typer.Option("--images", help="A labelled folder: images + masks, boxes, or one folder a class.")
]
FEW = 10
"""Groups of a class below which nothing can be promised of it."""
HoldOut = Annotated[float, typer.Option("--hold-out", min=0.0, max=0.9, help="Share of the groups to hold out.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the split and of every random choice.")]


class Part(StrEnum):
    """Which side of the split."""

    ALL = "all"
    HELD_OUT = "held-out"
    REST = "rest"


class Profile(StrEnum):
    """How much of the backbone is tuned."""

    FAST = "fast"
    FULL = "full"


def part_of(items: Sequence[LabelledItem], part: Part, *, hold_out: float, seed: int) -> Sequence[LabelledItem]:
    """The items on one side of the split by groups."""
    if part is Part.ALL:
        return items
    rest, held = split(items, hold_out=hold_out, seed=seed)
    return held if part is Part.HELD_OUT else rest


def tell_skipped(skipped: Sequence[Skipped]) -> None:
    """Name what could not be read, and why."""
    for item in skipped[:20]:
        tell(f"skipped {item.name}: {item.reason}")
    if len(skipped) > 20:
        tell(f"... and {len(skipped) - 20} more")


def tell_rare(folder: LabelledFolder, items: Sequence[LabelledItem]) -> None:
    """Say which classes have too few groups to be learned and judged."""
    for label, name in enumerate(folder.classes):
        groups = len({item.group for item in items if item.label == label})
        if folder.task is Task.CLASSIFICATION and groups < FEW:
            tell(f"class '{name}' has {groups} groups to learn from: expect nothing of it, give at least {FEW}")


@app.command()
def train(
    images: Images,
    out: Annotated[Path, typer.Option("--out", help="Directory of the new package.")],
    task: Annotated[
        list[Task] | None,
        typer.Option("--task", help="What to learn, if not what the folder is for; again for a further task."),
    ] = None,
    hold_out: HoldOut = 0.2,
    seed: Seed = 1,
    size: Annotated[int, typer.Option(help="Pixels per side of the extractor's input; a multiple of 32.")] = 320,
    channels: Annotated[int | None, typer.Option(min=4, max=256, help="Values per position vector.")] = None,
    epochs: Annotated[float | None, typer.Option(min=0.1, help="Passes over the frames.")] = None,
    form: Annotated[
        str | None,
        typer.Option(help="The recognizer's form for classes: 'global' (one vector) or 'attention' (set)."),
    ] = None,
    heads: Annotated[
        int, typer.Option(min=0, max=64, help="Of attention among a set's rows, without position encoding; 0 for none.")
    ] = 0,
    augmentation: Annotated[
        str,
        typer.Option(help="What may change in a frame: free (endoscopy, microscopy), upright (X-ray, CT), or auto."),
    ] = "auto",
    pooling: Annotated[
        str | None,
        typer.Option(help="What the one vector is made of: 'mean', 'deviation', 'generalized-mean', with commas."),
    ] = None,
    backbone: Annotated[
        Path | None, typer.Option(help="A network made elsewhere: a MONAI Bundle, or a TOML file for an ONNX one.")
    ] = None,
    profile: Annotated[
        Profile, typer.Option(help="'fast' caches the early stages; 'full' tunes the whole backbone, for a GPU.")
    ] = Profile.FAST,
    compute: Annotated[str, typer.Option(help="Where to calculate: auto (a GPU where there is one), cpu or cuda.")] = (
        "auto"
    ),
    tensorboard: Annotated[
        Path | None, typer.Option(help="A folder for the training's curves, for 'tensorboard --logdir'.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a founding package on the images that a centre already holds.

    A part of the groups is held out and not looked at: evaluate on it with
    'model evaluate --part held-out' and the same --hold-out and --seed.
    A training that was killed goes on when the same command is given again.
    Beside the package, its founding features are written as records, for the
    learner to replay. Of several tasks, the first one tunes the extractor, and
    all are recognized from its features.
    """
    from featureloop.learner import curves
    from featureloop.learner.founding import found_package
    from featureloop.model.backbone_monai import bundle_backbone
    from featureloop.model.backbone_onnx import read_backbone
    from featureloop.model.founding_settings import FoundingSettings
    from featureloop.model.loop import Surroundings, compute_on

    started = time.perf_counter()
    made: Backbone | None = None
    if backbone is not None:
        made = bundle_backbone(backbone) if backbone.is_dir() else read_backbone(backbone)
    folders = [open_labelled(images, task=t) for t in task] if task else [open_labelled(images)]
    parts = [(f, part_of(f.items, Part.REST, hold_out=hold_out, seed=seed)) for f in folders]
    folder, items = parts[0]
    statistics = None if pooling is None else tuple(name.strip() for name in pooling.split(","))
    place = compute_on(compute)
    given = {
        "channels": channels,
        "epochs": epochs,
        "form": form,
        "pooling": statistics,
        "heads": heads,
        "augmentation": augmentation,
        "profile": profile.value,
    }
    settings = FoundingSettings(size=size, seed=seed, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]  # narrowed by the options' types
    tell(f"{len(folder.items)} labelled images, {len(items)} to learn from, {len(folder.items) - len(items)} held out")
    for labelled, some in parts:
        tell_rare(labelled, some)
    with progress_bars() as progress, curves.tensorboard(tensorboard) as log:
        around = Surroundings(compute=place, log=log, progress=progress)
        founded = found_package(folder, items, out, settings=settings, further=parts[1:], backbone=made, around=around)
    _report_founded(founded, started=started, as_json=as_json)


@app.command("add-task")
def add_task(
    package: Annotated[Path, typer.Argument(help="A package directory.")],
    images: Images,
    out: Annotated[Path, typer.Option("--out", help="Directory of the new package.")],
    task: Annotated[Task | None, typer.Option("--task", help="What to learn, if not what the folder is for.")] = None,
    hold_out: HoldOut = 0.2,
    seed: Seed = 1,
    as_json: AsJson = False,
) -> None:
    """Teach a package a further task on the same extractor, from labelled images.

    The new package is of the same line: what devices provided stays good, and
    they take it over once a learner that has the package live is started with
    the new one ('learner serve --package').
    """
    from featureloop.learner.founding import add_task as run
    from featureloop.model.founding_settings import FoundingSettings
    from featureloop.model.loop import Surroundings, compute_on

    started = time.perf_counter()
    loaded, folder = load_package(package), open_labelled(images, task=task)
    items = part_of(folder.items, Part.REST, hold_out=hold_out, seed=seed)
    tell_rare(folder, items)
    settings = FoundingSettings(size=loaded.manifest.preprocessing.size, seed=seed)
    with progress_bars() as progress:
        around = Surroundings(compute=compute_on("auto"), progress=progress)
        founded = run(loaded, folder, items, out, settings=settings, around=around)
    _report_founded(founded, started=started, as_json=as_json)


def _report_founded(founded: Founded, *, started: float, as_json: bool) -> None:
    tell_skipped(founded.skipped)
    package = founded.package
    data = {
        "package": str(package.path),
        "digest": package.digest.hex(),
        "tasks": ", ".join(package.manifest.tasks),
        "founding_records": str(founded.records),
        "frames": founded.frames,
        "skipped": len(founded.skipped),
        "seconds": round(time.perf_counter() - started, 1),
    }
    report(data, as_json=as_json, show=lambda: table("founding package", ["", "value"], list(data.items())))


@app.command()
def evaluate(
    package: Annotated[Path, typer.Argument(help="A package directory.")],
    images: Images,
    task: Annotated[Task | None, typer.Option("--task", help="Which of the package's tasks, if not the first.")] = None,
    part: Annotated[Part, typer.Option(help="Which side of the split by groups.")] = Part.ALL,
    hold_out: HoldOut = 0.2,
    seed: Seed = 1,
    out: Annotated[Path | None, typer.Option("--out", help="A directory for report.html and evaluation.json.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a package on labelled images: figures with 95% intervals, resampled by group."""
    from featureloop.learner.evaluation import evaluate as run

    whole = load_package(package)
    loaded = whole if task is None else whole.view(task)
    folder = open_labelled(images, task=Task(loaded.manifest.task))
    items = part_of(folder.items, part, hold_out=hold_out, seed=seed)
    with progress_bars() as progress:
        found = run(loaded, folder, items, seed=seed, progress=progress)
    tell_skipped(found.skipped)
    if out is not None:
        from featureloop.learner.evaluation_report import write_report

        tell(f"report: {write_report(found, loaded, folder, out)}")
    rows = [(f.name, f"{f.value:.3f}", f"{f.low:.3f} to {f.high:.3f}") for f in found.figures]
    title = f"package {loaded.short} on {found.frames} frames of {found.groups} groups ({len(found.skipped)} skipped)"
    data = {"package": loaded.digest.hex(), **found.as_dict()}
    report(data, as_json=as_json, show=lambda: table(title, ["figure", "mean", "95% interval"], rows))


@app.command()
def show(package: Annotated[Path, typer.Argument(help="A package directory.")], as_json: AsJson = False) -> None:
    """Check every digest of a package and print what it says of itself."""
    import json

    loaded = load_package(package)
    manifest = json.loads(loaded.manifest.to_json())
    m = loaded.manifest
    released = {"anonymizer": m.released.anonymizer, "pooling": m.released.statistics, "channels": m.released.channels}
    data = {"digest": loaded.digest.hex(), "line": loaded.line, **manifest, "released": released}
    rows: list[tuple[str, object]] = [
        ("digest", loaded.short),
        ("line (extractor)", loaded.line[:12]),
        ("version", m.version),
        ("input", f"{m.preprocessing.size} x {m.preprocessing.size}"),
        *(row for view in loaded.views for row in _task_rows(view.manifest)),
        ("parent", m.lineage.parent[:12] if m.lineage.parent else "none: a founding package"),
        ("backbone", m.features.backbone),
        ("trained on", ", ".join(f"{n} of {s}" for s, n in m.lineage.records.items())),
        ("files, digests checked", len(m.files)),
    ]
    report(data, as_json=as_json, show=lambda: table(f"package {package}", ["", "value"], rows))


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


@app.command("export")
def export(
    package: Annotated[Path, typer.Argument(help="A package directory.")],
    monai_bundle: Annotated[Path, typer.Option("--monai-bundle", help="Directory of the new MONAI Bundle.")],
    as_json: AsJson = False,
) -> None:
    """Write a package as a MONAI Bundle, for MONAI's own commands and tools.

    Its network recognizes the package's first task; all of the package is inside, for 'model import'.
    """
    from featureloop.learner.bundle import export_bundle

    loaded = load_package(package)
    export_bundle(loaded, monai_bundle)
    data = {"package": loaded.digest.hex(), "bundle": str(monai_bundle)}
    report(data, as_json=as_json, show=lambda: f"{monai_bundle}: package {loaded.short} as a MONAI Bundle")


@app.command("import")
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
