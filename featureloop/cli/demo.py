"""`featureloop demo`: the whole loop on generated frames, with real processes on this machine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from featureloop.cli.console import AsJson, people, progress_bars, report, size_text, table, tell
from featureloop.cli.processes import Children, children
from featureloop.core.errors import GateError
from featureloop.core.ports import Progress
from featureloop.sharing.policy import NO_REPORT

CURVE = (0.1, 0.3, 1.0)
"""Shares of hospital B's records at which the curve of quality is drawn."""


SITES = ("hospital-a", "hospital-b")


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """How large the demonstration is.

    Attributes
    ----------
    founding
        Further settings of the founding training (`model.founding_settings`), by name.
    """

    founding_frames: int = 280
    site_sequences: int = 120
    frames_each: int = 2
    test_frames: int = 80
    side: int = 192
    input_size: int = 160
    epochs: float = 6.0
    recognizer_epochs: float = 18.0
    train_epochs: float = 6.0
    seed: int = 1
    founding: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the generated frames are."""

    founding: Path
    test_a: Path
    loop_b: Path
    test_b: Path


def demo(
    out: Annotated[Path, typer.Option("--out", help="Where the report goes.")] = Path("demo-report"),
    seed: Annotated[int, typer.Option(help="Of the generated frames and of every training.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Show the whole loop on generated frames: two hospitals, one learner, no image sent.

    A learner and two hospitals' devices run as processes of their own on
    127.0.0.1. Takes under three minutes on two cores. Ctrl-C ends everything.
    """
    from featureloop.cli.demo_report import write_report

    settings = DemoSettings(seed=seed)
    started = time.perf_counter()
    tell("featureloop demo: generated frames, not patients. Not a medical device.\n")
    with tempfile.TemporaryDirectory(prefix="featureloop-demo-") as work, children() as group:
        result = run_demo(Path(work), group, settings)
        result["seconds"] = round(time.perf_counter() - started, 1)
        page = write_report(result, out)
    result["report"] = str(page.resolve())
    rows = [
        (f"hospital {r['site']}, {r['when']}", f"{r['dice']:.3f}", f"{r['low']:.3f} to {r['high']:.3f}")
        for r in result["quality"]
    ]
    keep = {k: v for k, v in result.items() if k != "pictures"}
    report(
        keep,
        as_json=as_json,
        show=lambda: table("Dice on frames that no network learned from", ["", "mean", "95% interval"], rows),
    )
    sent = result["bytes"]
    tell(
        f"\nwhat left hospital B: {size_text(sent['left'])} in {sent['records']} records "
        f"({size_text(sent['left'] / max(1, sent['records']))} each); its images: {size_text(sent['images'])} "
        f"({sent['images'] / max(1, sent['left']):.0f} times as much), none of which left"
    )
    tell(f"{result['seconds']:.0f} seconds; report: {result['report']}")


def _policy(work: Path) -> Path:
    """A site's policy that asks for no privacy report: generated frames are nobody's."""
    path = work / "policy.toml"
    path.write_text(NO_REPORT, encoding="utf-8")
    return path


def run_demo(work: Path, group: Children, settings: DemoSettings) -> dict[str, Any]:
    """The loop, step by step; returns what the report shows."""
    tell("1  two hospitals' frames are generated; B's colour, light, optics and lesions differ from A's")
    with progress_bars() as progress:
        folders = make_frames(work, settings, progress)
    tell("2  the founding package is trained on hospital A's frames")
    with progress_bars() as progress:
        founding = found(folders.founding, work / "P0", settings, progress)
    tell("3  the learner starts, adopts and signs the package; two devices enroll")
    data = str(work / "learner")
    with people.status("learner and devices start"):
        url = group.serve("learner", "serve", "--data", data, "--package", str(founding), "--port", "0")
        for site in SITES:
            code = group.run("learner", "invite", "--site", site, "--data", data)["code"]
            group.run("device", "enroll", "--learner", url, "--code", code, "--state", str(work / site))
    tell("4  hospital B runs it; doubtful frames are changed by the phantom's ground truth, in the physician's place")
    with people.status("hospital B's device recognizes and shares"):
        done = group.run(
            "device", "process", str(folders.loop_b), "--package", str(founding), "--learner", url,
            "--review", "masks", "--state", str(work / "hospital-b"), "--policy", str(_policy(work)),
        )  # fmt: skip
    outcomes = ", ".join(f"{n} {k}" for k, n in done["outcomes"].items())
    tell(f"   {done['frames']} frames, {done['doubtful']} below the threshold; provided: {outcomes}")
    tell("5  the learner trains, the gate compares, the registry signs and promotes")
    curve = train_curve(group, data, settings, provided=done["outbox"]["delivered"])
    final = curve[-1]
    gate = final["gate"]
    if gate["passed"]:
        live = group.run("package", "promote", final["candidate"], "--data", data)["live"]
        tell(f"   gate: better with probability {gate['probability']:.2f}; package {live[:12]} is live")
    else:
        live = final["parent"]
        tell(f"   gate: refused ({'; '.join(gate['reasons'])}); the founding package stays live")
    tell("6  both devices take the new package over" if gate["passed"] else "6  both devices ask for a newer package")
    after = {}
    with people.status("devices verify and swap"):
        for site in SITES:
            taken = group.run("device", "update", "--package", str(founding), "--state", str(work / site))
            after[site] = Path(taken["package"])
    tell("7  before and after are measured on held-out frames of both hospitals")
    with progress_bars() as progress:
        return measure(folders, founding, after, curve=curve, done=done, live=live, progress=progress)


def make_frames(work: Path, settings: DemoSettings, progress: Progress) -> Folders:
    """Generate both hospitals' frames as labelled folders."""
    from featureloop.images.phantom import write_phantom_folder
    from featureloop.images.phantom_look import HOSPITAL_A, HOSPITAL_B

    folders = Folders(work / "a-founding", work / "a-test", work / "b-loop", work / "b-test")
    stills = settings.frames_each
    plan = (
        (folders.founding, HOSPITAL_A, settings.founding_frames // 2, 2, 0),
        (folders.test_a, HOSPITAL_A, settings.test_frames // 2, 2, 1),
        (folders.loop_b, HOSPITAL_B, settings.site_sequences, stills, 2),
        (folders.test_b, HOSPITAL_B, settings.test_frames // 2, 2, 3),
    )
    for i, (folder, look, sequences, frames, offset) in enumerate(plan):
        write_phantom_folder(
            folder,
            look,
            seed=settings.seed * 1000 + offset * 100_000,
            sequences=sequences,
            frames_each=frames,
            size=(settings.side, settings.side),
        )
        progress("frames generated", i + 1, len(plan))
    return folders


def found(images: Path, out: Path, settings: DemoSettings, progress: Progress) -> Path:
    """Train the founding package."""
    from featureloop.images.labelled import open_labelled
    from featureloop.learner.founding import found_package
    from featureloop.model.founding_settings import FoundingSettings
    from featureloop.model.lesson import Surroundings

    folder = open_labelled(images)
    training = FoundingSettings(
        size=settings.input_size,
        epochs=settings.epochs,
        recognizer_epochs=settings.recognizer_epochs,
        augmentations=2,
        width=64,
        blocks=2,
        seed=settings.seed,
        **settings.founding,
    )
    found_package(folder, folder.items, out, settings=training, around=Surroundings(progress=progress))
    return out


def train_curve(group: Children, data: str, settings: DemoSettings, *, provided: int) -> list[dict[str, Any]]:
    """Train on growing shares of what was provided; the last is the candidate for promotion."""
    points = []
    steps = (CURVE[:-1], CURVE[-1:])  # the small ones at once
    with progress_bars() as progress:
        for shares in steps:
            common = ("learner", "train", "--data", data, "--seed", str(settings.seed))
            plan = [
                (*common, "--epochs", str(settings.train_epochs), "--limit", str(max(4, round(share * provided))))
                for share in shares
            ]
            points += group.run_together(plan, accept=(0, GateError.exit_code))
            progress("trainings", len(points), len(CURVE))
    return points


def measure(
    folders: Folders,
    founding: Path,
    after: dict[str, Path],
    *,
    curve: Sequence[dict[str, Any]],
    done: dict[str, Any],
    live: str,
    progress: Progress,
) -> dict[str, Any]:
    """Evaluate before and after at both hospitals, and collect pictures and bytes."""
    from featureloop.cli.demo_report import before_and_after
    from featureloop.images.labelled import open_labelled
    from featureloop.learner.evaluation import evaluate
    from featureloop.model.package import load_package

    first = load_package(founding)
    quality, values = [], {}
    for site, test, package in (("A", folders.test_a, "hospital-a"), ("B", folders.test_b, "hospital-b")):
        folder = open_labelled(test)
        for when, loaded in (("before", first), ("after", load_package(after[package]))):
            found_here = evaluate(loaded, folder, folder.items, progress=progress)
            figure = found_here.figures[0]
            values[site, when] = found_here
            quality.append({"site": site, "when": when, "dice": figure.value, "low": figure.low, "high": figure.high})
    folder_b = open_labelled(folders.test_b)
    points = [{"records": 0, "dice": values["B", "before"].figures[0].value}]
    for trained in curve:
        found_here = evaluate(load_package(Path(trained["path"])), folder_b, folder_b.items, progress=progress)
        used = sum(n for site, n in trained["records"].items() if site == "hospital-b")
        points.append({"records": used, "dice": found_here.figures[0].value})
    images = sum(p.stat().st_size for p in (folders.loop_b / "images").iterdir())
    return {
        "quality": quality,
        "curve": points,
        "bytes": {"left": done["sent_bytes"], "images": images, "records": done["outbox"]["delivered"]},
        "process": {k: done[k] for k in ("frames", "doubtful", "outcomes", "frames_per_second")},
        "gate": curve[-1]["gate"],
        "package": live,
        "pictures": before_and_after(
            folder_b, first, load_package(after["hospital-b"]), values["B", "before"], values["B", "after"]
        ),
    }
