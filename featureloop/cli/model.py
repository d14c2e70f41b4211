"""`featureloop model`: train, evaluate and show packages."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featureloop.cli.calibrate import calibrate
from featureloop.cli.console import AsJson, progress_bars, report, table, tell
from featureloop.cli.folders import HoldOut, Images, Part, Seed, part_of, tell_notes, tell_rare, tell_skipped
from featureloop.cli.model_package import evaluate, export, import_, show
from featureloop.cli.training_options import (
    FURTHER,
    Adversary,
    AdversaryEpochs,
    AdversaryHidden,
    AdversaryRate,
    Augmentation,
    Augmentations,
    BatchSize,
    Blocks,
    Curves,
    Form,
    Heads,
    LearningRate,
    LocalWidth,
    PooledBits,
    Pooling,
    RecognizerEpochs,
    Release,
    Risk,
    Score,
    Where,
    Width,
    release_text,
    statistics,
)
from featureloop.core.types import Task
from featureloop.images.labelled import open_labelled
from featureloop.model.package import load_package
from featureloop.model.score_words import AUTO

if TYPE_CHECKING:
    from featureloop.learner.founding import Founded
    from featureloop.model.backbones import Backbone

app = typer.Typer(no_args_is_help=True, help="Train, evaluate and show packages.")


class Profile(StrEnum):
    """How much of the backbone is tuned."""

    FAST = "fast"
    FULL = "full"


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
    blank_border: Annotated[
        bool, typer.Option(help="Make black what is outside the field of view, and written there.")
    ] = True,
    channels: Annotated[int | None, typer.Option(min=4, max=256, help="Values per position vector.")] = None,
    epochs: Annotated[float | None, typer.Option(min=0.1, help="Passes over the frames.")] = None,
    form: Form = None,
    heads: Heads = 0,
    augmentation: Augmentation = "auto",
    pooling: Pooling = None,
    release: Release = "",
    backbone: Annotated[
        Path | None, typer.Option(help="A network made elsewhere: a MONAI Bundle, or a TOML file for an ONNX one.")
    ] = None,
    profile: Annotated[
        Profile, typer.Option(help="'fast' caches the early stages; 'full' tunes the whole backbone, for a GPU.")
    ] = Profile.FAST,
    width: Width = 128,
    blocks: Blocks = 3,
    local_width: LocalWidth = None,
    bits_per_vector: Annotated[
        float, typer.Option(min=4, max=2048, help="What a position vector of a set may take.", rich_help_panel=FURTHER)
    ] = 8.0,
    pooled_bits: PooledBits = None,
    breadth: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            max=1,
            help="Share of a vector's bits' worth that is not for today's task, but for what others may teach.",
            rich_help_panel=FURTHER,
        ),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.5,
            help="Make the steps of what leaves as coarse as this loss on calibration frames allows, e.g. 0.005.",
            rich_help_panel=FURTHER,
        ),
    ] = None,
    augmentations: Augmentations = 5,
    recognizer_epochs: RecognizerEpochs = None,
    batch: BatchSize = 16,
    learning_rate: LearningRate = 1e-3,
    adversary: Adversary = 0.0,
    adversary_hidden: AdversaryHidden = 0,
    adversary_rate: AdversaryRate = 0.0,
    adversary_epochs: AdversaryEpochs = None,
    risk: Risk = None,
    score: Score = None,
    compute: Where = "auto",
    tensorboard: Curves = None,
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
    from featureloop.model.compute import compute_on
    from featureloop.model.founding_settings import FoundingSettings
    from featureloop.model.lesson import Surroundings

    started = time.perf_counter()
    made: Backbone | None = None
    if backbone is not None:
        made = bundle_backbone(backbone) if backbone.is_dir() else read_backbone(backbone)
    folders = [open_labelled(images, task=t) for t in task] if task else [open_labelled(images)]
    tell_notes(folders)
    parts = [(f, part_of(f.items, Part.REST, hold_out=hold_out, seed=seed, among=folders)) for f in folders]
    folder, items = parts[0]
    place = compute_on(compute)
    given = {
        "blank_border": blank_border,
        "channels": channels,
        "epochs": epochs,
        "form": form,
        "pooling": statistics(pooling),
        "release": release_text(release),
        "heads": heads,
        "width": width,
        "blocks": blocks,
        "local_width": local_width,
        "bits_per_vector": bits_per_vector,
        "pooled_bits": pooled_bits,
        "breadth": breadth,
        "max_loss": max_loss,
        "augmentations": augmentations,
        "recognizer_epochs": recognizer_epochs,
        "batch": batch,
        "learning_rate": learning_rate,
        "augmentation": augmentation,
        "adversary": adversary,
        "adversary_hidden": adversary_hidden,
        "adversary_rate": adversary_rate,
        "adversary_epochs": adversary_epochs,
        "profile": profile.value,
        "score": score,
    }
    settings = FoundingSettings(size=size, seed=seed, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]  # narrowed by the options' types
    tell(f"{len(folder.items)} labelled images, {len(items)} to learn from, {len(folder.items) - len(items)} held out")
    for labelled, some in parts:
        tell_rare(labelled, some)
    with progress_bars() as progress, curves.tensorboard(tensorboard) as log:
        around = Surroundings(compute=place, log=log, progress=progress)
        founded = found_package(
            folder,
            items,
            out,
            settings=settings,
            further=parts[1:],
            backbone=made,
            risk=risk,
            hold_out=hold_out,
            around=around,
        )
    _report_founded(founded, started=started, as_json=as_json)


@app.command("add-task")
def add_task(
    package: Annotated[Path, typer.Argument(help="A package directory.")],
    images: Images,
    out: Annotated[Path, typer.Option("--out", help="Directory of the new package.")],
    task: Annotated[Task | None, typer.Option("--task", help="What to learn, if not what the folder is for.")] = None,
    hold_out: HoldOut = 0.2,
    seed: Seed = 1,
    form: Form = None,
    heads: Heads = 0,
    augmentation: Augmentation = "auto",
    pooling: Pooling = None,
    pooled_bits: PooledBits = None,
    width: Width = 128,
    blocks: Blocks = 3,
    augmentations: Augmentations = 5,
    recognizer_epochs: RecognizerEpochs = None,
    batch: BatchSize = 16,
    learning_rate: LearningRate = 1e-3,
    risk: Risk = None,
    score: Score = None,
    compute: Where = "auto",
    tensorboard: Curves = None,
    as_json: AsJson = False,
) -> None:
    """Teach a package a further task on the same extractor, from labelled images.

    The new package is of the same line: what devices provided stays good, and
    they take it over once a learner that has the package live is started with
    the new one ('learner serve --package').
    """
    from featureloop.learner import curves
    from featureloop.learner.founding import add_task as run
    from featureloop.model.compute import compute_on
    from featureloop.model.founding_settings import FoundingSettings
    from featureloop.model.lesson import Surroundings

    started = time.perf_counter()
    loaded, folder = load_package(package), open_labelled(images, task=task)
    tell_notes([folder])
    items = part_of(folder.items, Part.REST, hold_out=hold_out, seed=seed)
    tell_rare(folder, items)
    settings = FoundingSettings(
        size=loaded.manifest.preprocessing.size,
        form=form,
        heads=heads,
        augmentation=augmentation,
        pooling=statistics(pooling),
        pooled_bits=pooled_bits,
        width=width,
        blocks=blocks,
        augmentations=augmentations,
        recognizer_epochs=recognizer_epochs,
        batch=batch,
        learning_rate=learning_rate,
        seed=seed,
        score=score or AUTO,
    )
    place = compute_on(compute)
    with progress_bars() as progress, curves.tensorboard(tensorboard) as log:
        around = Surroundings(compute=place, log=log, progress=progress)
        founded = run(loaded, folder, items, out, settings=settings, risk=risk, around=around)
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
    for which, leak in zip(("computed neck tells", "trained neck tells"), founded.leaks, strict=False):
        data[which] = leak.text
    report(data, as_json=as_json, show=lambda: table("founding package", ["", "value"], list(data.items())))


app.command()(evaluate)
app.command()(calibrate)
app.command()(show)
app.command()(export)
app.command("import")(import_)
