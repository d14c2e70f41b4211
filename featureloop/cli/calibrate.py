"""`featureloop model calibrate`: a threshold with a guarantee."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from featureloop.cli.console import AsJson, progress_bars, report, table, tell
from featureloop.cli.folders import HoldOut, Images, Part, Seed, part_of, tell_notes, tell_skipped
from featureloop.cli.training_options import Score
from featureloop.core.types import Task
from featureloop.images.several import folders_for
from featureloop.model.package import load_package
from featureloop.model.reseal import check_resealable
from featureloop.model.score_words import AGREEMENT, check_score


def calibrate(
    package: Annotated[Path, typer.Argument(help="A package directory; its digest changes.")],
    images: Images,
    risk: Annotated[
        float, typer.Option(min=0.001, max=0.999, help="Mean loss that results above the threshold may have.")
    ] = 0.05,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="How sure that has to be.")] = 0.95,
    task: Annotated[Task | None, typer.Option("--task", help="Which of the package's tasks, if not the first.")] = None,
    part: Annotated[Part, typer.Option(help="Which side of the split by groups.")] = Part.ALL,
    hold_out: HoldOut = 0.2,
    seed: Seed = 1,
    out: Annotated[Path | None, typer.Option("--out", help="A directory for report.html and evaluation.json.")] = None,
    score: Score = None,
    key: Annotated[Path | None, typer.Option("--key", help="An Ed25519 key in PEM that signs the package.")] = None,
    as_json: AsJson = False,
) -> None:
    """Choose the reliability below which results are doubtful, with a guarantee for those above it.

    On labelled images that no network of the package learned from, of patients like those that it will see: with the
    stated confidence, results above the threshold then have a mean loss (1 - Dice, the error, 1 - F1 of boxes) of at
    most the stated risk, every patient counting once. Where nothing can be guaranteed, every result is doubtful.
    Second opinions by the same package get a map of their own, on these images too. With --score, a third of the
    patients is for fitting that score, and the others are for the threshold.
    """
    from featureloop.learner.evaluation import evaluate
    from featureloop.learner.evaluation_report import write_report
    from featureloop.learner.guaranteed import rescored, with_guarantee
    from featureloop.learner.keys import load_key
    from featureloop.learner.means import calibrated_means, see_otherwise
    from featureloop.model.runtime import Runtime

    loaded = load_package(package)
    view = loaded.view(task or Task(loaded.manifest.task))
    secret = load_key(key) if key else None
    check_resealable(loaded, secret)
    wanted = Task(view.manifest.task)
    if score is not None:
        check_score(wanted, score)
    (folder,) = folders_for(images, {wanted: view.manifest.labels})
    tell_notes([folder])
    items = part_of(folder.items, part, hold_out=hold_out, seed=seed)
    with progress_bars() as progress:
        found = evaluate(view, folder, items, seed=seed, views=score == AGREEMENT, progress=progress)
    tell_skipped(found.skipped)
    calibration = view.manifest.calibration
    if score is not None:
        calibration, found = rescored(view, found, score=score, seed=seed)
    with progress_bars() as progress:
        frames = folder.frames(items)
        seen = see_otherwise(Runtime(view), frames, calibration, number=len(items), progress=progress)
    calibration = calibrated_means(seen, calibration)
    made, of = with_guarantee(view, found, risk=risk, confidence=confidence, key=secret, calibration=calibration)
    if out is not None:
        tell(f"report: {write_report(replace(found, guarantee=of), made.view(wanted), folder, out)}")
    if not of.accepted:
        tell(
            f"no threshold can be guaranteed with these {of.groups} patients: every result is doubtful now; give more "
            "of them, or allow a larger risk"
        )
    rows = [
        ("doubtful below", f"{of.threshold:.2f}"),
        ("accepted without review", f"{100 * of.accepted:.0f}% of {of.frames} frames"),
        ("their mean loss is at most", f"{of.risk:g}, with a confidence of {of.confidence:g}"),
        ("found on", f"{of.groups} patients"),
        ("reliability by", made.view(wanted).manifest.calibration.method),
    ]
    data = {"package": made.digest.hex(), "task": str(wanted), "guarantee": asdict(of)}
    report(data, as_json=as_json, show=lambda: table(f"package {made.short}", ["", ""], rows))
