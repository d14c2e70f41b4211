"""Options of the commands that train a recognizer from images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featureloop.model.forms import request_form

FURTHER = "Further"
"""The panel of the options that few need."""

Form = Annotated[
    str | None,
    typer.Option("--form", help="The recognizer's form for classes: 'global' (one vector) or 'attention' (set)."),
]
Heads = Annotated[
    int,
    typer.Option(
        "--heads", min=0, max=64, help="Of attention among a set's rows, without position encoding; 0 for none."
    ),
]
Augmentation = Annotated[
    str,
    typer.Option(
        "--augmentation", help="What may change in a frame: free (endoscopy, microscopy), upright (X-ray, CT), or auto."
    ),
]
Pooling = Annotated[
    str | None,
    typer.Option(
        "--pooling", help="What the one vector is made of: 'mean', 'deviation', 'generalized-mean', with commas."
    ),
]
PooledBits = Annotated[
    float | None,
    typer.Option(
        "--pooled-bits",
        min=1,
        max=4096,
        help="What a pooled vector may take, if not two bits for each class and four at least.",
        rich_help_panel=FURTHER,
    ),
]
Release = Annotated[
    str,
    typer.Option(
        "--release",
        help="The form in which features leave, if not 'pool' of classes and 'set subset=2,balanced' of masks and "
        "boxes: 'pool', 'set', 'window=2' or 'none', and after it 'subset=64,balanced', 'mix=4', 'noise=1.0', "
        "'quantize=16', as in 'set subset=64'.",
    ),
]
Where = Annotated[
    str, typer.Option("--compute", help="Where to calculate: auto (a GPU where there is one), cpu or cuda.")
]
Curves = Annotated[
    Path | None,
    typer.Option("--tensorboard", help="A folder for the training's curves, for 'tensorboard --logdir'."),
]
Width = Annotated[int, typer.Option("--width", min=4, max=1024, help="Of the recognizer.", rich_help_panel=FURTHER)]
Blocks = Annotated[int, typer.Option("--blocks", min=1, max=32, help="Of a set's recognizer.", rich_help_panel=FURTHER)]
LocalWidth = Annotated[
    int | None,
    typer.Option(
        "--local-width",
        min=0,
        max=1024,
        help="Of the convolutions that put a position's neighbours into its vector, where rows leave by "
        "themselves; 0 for none; usually 88 for masks alone.",
        rich_help_panel=FURTHER,
    ),
]
Augmentations = Annotated[
    int,
    typer.Option("--augmentations", min=0, max=64, help="Changed versions of every frame.", rich_help_panel=FURTHER),
]
RecognizerEpochs = Annotated[
    float | None,
    typer.Option(
        "--recognizer-epochs", min=0.1, help="Passes of the recognizer's own training.", rich_help_panel=FURTHER
    ),
]
BatchSize = Annotated[int, typer.Option("--batch", min=1, max=4096, help="Frames of a step.", rich_help_panel=FURTHER)]
LearningRate = Annotated[
    float,
    typer.Option("--learning-rate", min=1e-7, max=1.0, help="Of AdamW, at its highest.", rich_help_panel=FURTHER),
]
Adversary = Annotated[
    float,
    typer.Option(
        "--adversary",
        min=0.0,
        max=1000.0,
        help="Train the neck against what it must not tell, so strongly; 0 leaves it as computed.",
        rich_help_panel=FURTHER,
    ),
]
AdversaryHidden = Annotated[
    int,
    typer.Option(
        "--adversary-hidden", min=0, max=1024, help="Hidden layer of a neck that is trained.", rich_help_panel=FURTHER
    ),
]
AdversaryRate = Annotated[
    float,
    typer.Option(
        "--adversary-rate",
        min=0.0,
        max=100.0,
        help="What the computed neck's bits would cost one that is trained.",
        rich_help_panel=FURTHER,
    ),
]
AdversaryEpochs = Annotated[
    float | None,
    typer.Option("--adversary-epochs", min=0.1, help="Passes of the neck's training.", rich_help_panel=FURTHER),
]
Risk = Annotated[
    float | None,
    typer.Option(
        "--risk",
        min=0.001,
        max=1.0,
        help="Mean loss that results above the threshold may have.",
        rich_help_panel=FURTHER,
    ),
]
Score = Annotated[
    str | None,
    typer.Option(
        "--score",
        help="How a reliability is calculated: by one of the task's scores, 'combined', or 'auto': what is best on "
        "held-out frames.",
        rich_help_panel=FURTHER,
    ),
]


def release_text(release: str) -> str:
    """The form in `--release` as its own text; empty where nothing was said.

    Raises
    ------
    InputError
        There is no such form.
    """
    return str(request_form(release)) if release.strip() else ""


def statistics(pooling: str | None) -> tuple[str, ...]:
    """The names in `--pooling`."""
    return () if pooling is None else tuple(name.strip() for name in pooling.split(","))
