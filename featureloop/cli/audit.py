"""`featureloop audit`: attacks on what a package releases, and the report for privacy officers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featureloop.cli.console import AsJson, progress_bars, report, table, tell
from featureloop.cli.folders import Seed, tell_skipped
from featureloop.core.errors import InputError
from featureloop.core.types import Frame, Skipped, Task
from featureloop.images.labelled import open_labelled
from featureloop.images.sidecar import ATTRIBUTES, look_up, read_attributes, read_group_table
from featureloop.images.source import open_source
from featureloop.model.package import Package, load_package, write_atomically
from featureloop.model.reseal import check_resealable
from featureloop.sharing.near import NEAR_DUPLICATES
from featureloop.sharing.privacy import ATTACKS, PAGE, REPORT, report_file

if TYPE_CHECKING:
    from featureloop.audit.material import Party
    from featureloop.audit.run import Audited

app = typer.Typer(no_args_is_help=True, help="Attack what leaves, and report what that gave away.")
MOST = 400
"""Images of the attacker, and of the victims, where nothing else is said."""

AttackName = StrEnum("AttackName", {name: name for name in ATTACKS})  # type: ignore[misc]  # one list of names


@app.callback()
def audit() -> None:
    """Attack what leaves, and report what that gave away."""


@app.command()
def privacy(
    package: Annotated[Path, typer.Option("--package", help="The package; its directory gets the report.")],
    images: Annotated[Path, typer.Option("--images", help="The victims' images, labelled or not.")],
    out: Annotated[Path, typer.Option("--out", help="Directory of the report and its evidence.")],
    attacker_images: Annotated[
        Path | None,
        typer.Option("--attacker-images", help="Another hospital's images; else half of the patients of --images."),
    ] = None,
    groups: Annotated[
        Path | None, typer.Option("--groups", help="A table image,group of --images: whose patient's each is.")
    ] = None,
    outsiders: Annotated[
        Path | None,
        typer.Option("--outsiders", help="Labelled images like the founding ones that no training saw (membership)."),
    ] = None,
    task: Annotated[Task | None, typer.Option("--task", help="Which of the package's tasks, if not the first.")] = None,
    attacks: Annotated[
        list[AttackName] | None, typer.Option("--attack", help="Only this one; may be given several times.")
    ] = None,
    near: Annotated[
        float,
        typer.Option(
            "--near-duplicates",
            min=0.0,
            max=0.99,
            help="As the sites' policies say it: the victims' frames nearer to one before are not attacked, since they "
            "don't leave. 0 for all frames: such a report is good for every site.",
        ),
    ] = NEAR_DUPLICATES,
    most: Annotated[int, typer.Option("--images-most", min=20, help="Images of either side, at most.")] = MOST,
    diffusion_steps: Annotated[
        int | None,
        typer.Option(
            "--diffusion-steps",
            min=0,
            help="Of a diffusion model's training (inversion); 0 for none. Else 8000 where there is a GPU, and none "
            "without.",
        ),
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", help="An Ed25519 key in PEM that signs the package.")] = None,
    seed: Seed = 1,
    as_json: AsJson = False,
) -> None:
    """Attack exactly what a package releases, and put the report into the package.

    The attacker holds the package and images of other patients. The package's digest changes with
    the report, so audit a package before a learner takes it over. Stopped, the audit goes on where it was when the
    same command is given again. Only with all attacks does a report go into the package.
    """
    from featureloop.audit.attach import attach
    from featureloop.audit.diffusion import DiffusionSettings
    from featureloop.audit.inversion_settings import InversionSettings
    from featureloop.audit.material import Lab
    from featureloop.audit.page import render
    from featureloop.audit.provided import provided
    from featureloop.audit.run import audit as run
    from featureloop.learner.keys import load_key

    started = time.perf_counter()
    loaded = load_package(package)
    view = loaded.view(task or Task(loaded.manifest.task))
    secret = load_key(key) if key else None
    names = [str(a) for a in attacks] if attacks else list(ATTACKS)
    whole = set(names) == set(ATTACKS)
    if whole:
        check_resealable(loaded, secret)
    with progress_bars() as progress:
        sides = _parties(view, images, attacker_images, groups, seed=seed)
        mine = sides[0].thinned(most, seed=seed)
        theirs = provided(sides[1], view, near=near, progress=progress).thinned(most, seed=seed)
        tell(f"{len(mine)} images of {_patients(mine)} patients attack {len(theirs)} of {_patients(theirs)} others")
        unseen = None if outsiders is None else _side(view, outsiders, None)
        lab = Lab(view, mine, theirs, outsiders=unseen, seed=seed, progress=progress)
        diffusion = DiffusionSettings() if diffusion_steps is None else DiffusionSettings(steps=diffusion_steps)
        settings = {"inversion": InversionSettings(diffusion=diffusion)}
        found = run(lab, out, attacks=names, settings=settings, tell=tell)
    page, shown = render(found, view), render(found, view, with_sheet=True)
    write_atomically(out / Path(REPORT).name, found.report.to_json())
    write_atomically(out / Path(PAGE).name, shown.encode())
    digest = loaded.digest
    if whole and not found.failed:
        digest = attach(view, found.report, page, key=secret).digest
        tell(f"report: {out / Path(PAGE).name}, and {report_file(view)} in the package, whose digest has changed")
    else:
        tell(f"report: {out / Path(PAGE).name}; not put into the package: it lacks {_lacking(found)}")
    data = _data(found, digest=digest, seconds=time.perf_counter() - started)
    report(data, as_json=as_json, show=lambda: _table(found))


def _patients(side: Party) -> int:
    return len(set(side.groups.tolist()))


def _lacking(found: Audited) -> str:
    return ", ".join(name for name in ATTACKS if name not in found.findings)


def _parties(
    view: Package, images: Path, attacker_images: Path | None, groups: Path | None, *, seed: int
) -> tuple[Party, Party]:
    """The attacker and the victims.

    Raises
    ------
    InputError
        A folder can't be read, or holds too few patients.
    """
    from featureloop.audit.material import split_party

    if attacker_images is None:
        return split_party(_side(view, images, groups), seed=seed)
    return _side(view, attacker_images, None), _side(view, images, groups)


def _side(view: Package, path: Path, groups: Path | None) -> Party:
    """A folder's images as a party; raises as `_parties`."""
    from featureloop.audit.material import party

    size, known = view.manifest.preprocessing.size, _attributes(path)
    side, bad = party(_frames(view, path, groups), size=size, attributes=known)
    tell_skipped(bad)
    return side


def _attributes(path: Path) -> Mapping[str, Mapping[str, str]]:
    """What `attributes.csv` says of a folder's images."""
    beside = path / ATTRIBUTES
    return read_attributes(beside) if beside.is_file() else {}


def _frames(view: Package, path: Path, groups: Path | None) -> Iterator[Frame | Skipped]:
    """All frames of a folder, with their truth where it is labelled for the package's task.

    Two folders' groups and files are told apart by the folders' own names.
    """
    frames: Iterable[Frame | Skipped]
    try:
        folder = open_labelled(path, task=Task(view.manifest.task), known=view.manifest.labels)
        frames = folder.with_classes(view.manifest.labels).frames()
    except InputError as error:
        tell(f"'{path}' is taken as images without labels: {error}")
        frames = open_source(path)
    by_image = read_group_table(groups) if groups else {}
    for frame in frames:
        if isinstance(frame, Skipped):
            yield frame
        else:
            own = look_up(by_image, frame.name) or frame.group
            group = None if own is None else f"{path.resolve()}:{own}"
            yield replace(frame, group=group, name=f"{path.name}/{frame.name}")


def _data(found: Audited, *, digest: bytes, seconds: float) -> dict[str, Any]:
    return {
        "package": digest.hex(),
        **asdict(found.report),
        "failed": dict(found.failed),
        "verdicts": {v.name: {"state": v.state, "answer": v.answer} for v in _answers(found)},
        "seconds": round(seconds, 1),
    }


def _answers(found: Audited) -> list[Any]:
    from featureloop.audit.verdicts import judge_figures, verdicts
    from featureloop.sharing.privacy import Privacy

    return [*verdicts(judge_figures(found, Privacy()))]


def _table(found: Audited) -> Any:
    from rich.console import Group

    from featureloop.audit.verdicts import judge_figures
    from featureloop.sharing.privacy import Privacy

    judged = judge_figures(found, Privacy())
    rows = [(j.name, j.said, "disclosed" if j.limit is None else f"{j.limit:g}", j.state) for j in judged.values()]
    answers = [(v.name, v.answer) for v in _answers(found)]
    return Group(
        table("privacy report", ["figure", "found", "limit", ""], rows),
        table("in short", ["question", "answer"], answers),
    )
