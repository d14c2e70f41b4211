"""`featureloop device`: recognize and share, enroll, update, and run for long."""

from __future__ import annotations

import threading
import time
from contextlib import closing, nullcontext
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from featureloop.cli import users
from featureloop.cli.console import AsJson, report, table, tell
from featureloop.cli.folders import HoldOut, Part, Seed
from featureloop.cli.places import State, device_state
from featureloop.cli.processing import frames_of, run_and_send, run_frames
from featureloop.cli.sharing import sharing
from featureloop.cli.summary import Done, finish, summary_table
from featureloop.config import settings
from featureloop.core.errors import AuthError, InputError, PackageError, PolicyError, StorageError
from featureloop.device.bodies import bodies_for
from featureloop.device.exchange import TIMEOUT_S
from featureloop.device.metered import MeteredWire
from featureloop.device.outbox import Outbox
from featureloop.device.provide import Provider, check_policy
from featureloop.device.review.opening import open_queue
from featureloop.device.reviewers import TruthReviewer
from featureloop.device.second_opinion import second_opinion_for
from featureloop.device.state import DeviceState, Identity, pseudonyms
from featureloop.device.switch import SharingSwitch
from featureloop.device.update import poll_update
from featureloop.device.wire import HttpWire
from featureloop.device.wire import enroll as enroll_device
from featureloop.model.package import Package, load_package
from featureloop.model.runtime import Runtime
from featureloop.sharing.policy import Policy, load_policy
from featureloop.sharing.record import quarter_of

app = typer.Typer(no_args_is_help=True, help="The device at the hospital.")
app.add_typer(users.app, name="user")
app.command("sharing")(sharing)

PolicyFile = Annotated[Path | None, typer.Option("--policy", help="The site's policy.toml (FEATURELOOP_POLICY).")]


class Review(StrEnum):
    """Who is asked about doubtful results."""

    NOBODY = "nobody"
    PAGE = "page"
    MASKS = "masks"


def site_policy(path: Path | None) -> Policy:
    """The site's policy, from the flag, the settings, or the default."""
    chosen = path or settings().policy
    return load_policy(chosen) if chosen else Policy()


def open_outbox(state: DeviceState, policy: Policy) -> Outbox:
    """The device's outbox under the policy's limits."""
    limits = policy.limits
    return Outbox(
        state.outbox,
        byte_budget=limits.bytes_per_day or None,
        max_bytes=limits.outbox_bytes,
        retention_s=limits.retention_days * 86_400.0,
        sending=policy.sending,
    )


@app.command()
def enroll(
    learner: Annotated[str, typer.Option("--learner", help="The learner's URL.")],
    code: Annotated[str, typer.Option("--code", help="The one-time code from 'learner invite'.")],
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Exchange a one-time code for this device's identity and the learner's public keys."""
    place = device_state(state)
    identity = enroll_device(learner, code)
    place.save_identity(identity)
    data = {"site": identity.site, "device": identity.device, "learner": identity.learner, "state": str(place.path)}
    report(data, as_json=as_json, show=lambda: table("enrolled", ["", "value"], list(data.items())))


@app.command()
def process(
    sources: Annotated[list[Path], typer.Argument(help="Images, DICOM files, videos, or folders of them.")],
    package: Annotated[Path | None, typer.Option("--package", help="A package; else the one taken over.")] = None,
    learner: Annotated[str | None, typer.Option("--learner", help="Share with this learner (enroll first).")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write results.jsonl and pictures here.")] = None,
    review: Annotated[
        Review,
        typer.Option(help="'page': on the pages of 'device run'. 'masks': the labels in the physician's place."),
    ] = Review.NOBODY,
    part: Annotated[Part, typer.Option(help="Of a labelled folder: which side of the split.")] = Part.ALL,
    hold_out: HoldOut = 0.2,
    seed: Seed = 1,
    policy: PolicyFile = None,
    state: State = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait at the end until all is sent.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Recognize every frame, share what the site's policy allows, then exit.

    Started again after a stop, it goes on where it was: no frame is provided twice.
    """
    place = device_state(state)
    loaded = _package(place, package)
    rules = site_policy(policy)
    reviewer = None
    if review is Review.MASKS:
        tell("review: the folder's labels answer in the physician's place (an experiment; records say 'ground-truth')")
        reviewer = TruthReviewer(loaded.manifest)
    labelled = review is Review.MASKS or part is not Part.ALL
    labels_of = loaded.manifest if labelled else None
    frames, total = frames_of(sources, labels_of=labels_of, part=part, hold_out=hold_out, seed=seed)
    runtime = Runtime(loaded, threads=settings().threads)
    started = time.perf_counter()
    if learner is None:
        tell("no --learner: frames are recognized, nothing is shared")
        done = Done(run_frames(frames, runtime=runtime, out=out, total=total))
    elif not SharingSwitch(place.path).is_on():
        tell("sharing is switched off ('featureloop device sharing on'): frames are recognized, nothing is shared")
        done = Done(run_frames(frames, runtime=runtime, out=out, total=total))
    else:
        identity = _identity(place, learner)
        try:
            check_policy(loaded, rules)
            second = second_opinion_for(rules, runtime, threads=settings().threads)
            outbox, site_key, group_key = open_outbox(place, rules), place.site_key(), place.group_keys()[0]
            later = open_queue(place, rules) if review is Review.PAGE else None
        except (PolicyError, PackageError, StorageError) as error:
            tell(f"nothing is shared, recognition goes on: {error}")
            done = Done(run_frames(frames, runtime=runtime, out=out, total=total), error)
        else:
            provider = Provider(
                site=identity.site,
                device=identity.device,
                site_key=site_key,
                group_key=group_key,
                package=loaded,
                policy=rules,
                keeper=outbox,
                reviewer=reviewer,
                later=later,
                second_opinion=second,
                clock=time.time,
            )
            # Who waits only a moment at the end doesn't wait longer for one answer.
            wire = MeteredWire(HttpWire(identity, timeout=min(TIMEOUT_S, max(wait, 1.0)) if wait else TIMEOUT_S))
            with closing(later) if later else nullcontext():
                done = run_and_send(
                    frames,
                    runtime=runtime,
                    provider=provider,
                    outbox=outbox,
                    wire=wire,
                    out=out,
                    total=total,
                    wait=wait,
                    bodies=bodies_for(rules.sending, place, loaded),
                )
    data = done.as_dict(seconds=time.perf_counter() - started)
    report(data, as_json=as_json, show=lambda: summary_table(data))
    finish(done)


def _package(place: DeviceState, path: Path | None) -> Package:
    if path is not None:
        return load_package(path)
    current = place.current_package()
    if current is None:
        raise PackageError("this device has taken no package over yet; name one with --package")
    return current


def _identity(place: DeviceState, learner: str) -> Identity:
    identity = place.load_identity()
    if identity.learner.rstrip("/") != learner.rstrip("/"):
        raise AuthError(f"this device is enrolled at {identity.learner}, not at {learner}; enroll there first")
    return identity


@app.command()
def update(
    package: Annotated[Path | None, typer.Option("--package", help="The package now in use, the first time.")] = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Ask the learner for a newer package; verify it, and take it over."""
    place = device_state(state)
    current = place.current_package() or _package(place, package)
    taken = poll_update(place, place.load_identity(), current=current)
    now = taken or current
    data = {
        "updated": taken is not None,
        "package": str(now.path),
        "digest": now.digest.hex(),
        "version": now.manifest.version,
    }
    report(data, as_json=as_json, show=lambda: table("update", ["", "value"], list(data.items())))


@app.command()
def status(state: State = None, policy: PolicyFile = None, as_json: AsJson = False) -> None:
    """Who this device is, which package it runs, and what waits in its outbox."""
    place = device_state(state)
    data: dict[str, Any] = {"state": str(place.path)}
    try:
        identity = place.load_identity()
        data |= {"site": identity.site, "device": identity.device, "learner": identity.learner}
    except AuthError:
        data |= {"site": None, "device": None, "learner": None}
    current = place.current_package()
    digest, version = (current.digest.hex(), current.manifest.version) if current else (None, None)
    data |= {"package": digest, "version": version}
    outbox = open_outbox(place, site_policy(policy))
    data["outbox"] = {str(k): v for k, v in outbox.counts().items()}
    outbox.close()
    report(data, as_json=as_json, show=lambda: table("device", ["", "value"], list(data.items())))


@app.command("rotate-key")
def rotate_key(state: State = None, as_json: AsJson = False) -> None:
    """Give every patient and examination a new pseudonym from now on; old keys stay here, for erasure.

    A 'device run' that is under way takes the new key over when it is started again.
    """
    data = {"keys": device_state(state).rotate_key()}
    report(data, as_json=as_json, show=lambda: f"pseudonyms have a new key, {data['keys']} in all")


@app.command("pseudonyms")
def list_pseudonyms(
    group: Annotated[str, typer.Argument(help="A patient or examination, as the images name it.")],
    since: Annotated[int, typer.Option(min=1900, max=2199, help="The year of the first record.")] = 2025,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """All pseudonyms that a group may have at the learner, one a line: what to erase there."""
    keys, last = device_state(state).group_keys(), quarter_of(datetime.now(UTC).date())
    found = [p.hex() for p in pseudonyms(keys, group, first=4 * since, last=last)]
    report(found, as_json=as_json, show=lambda: "\n".join(found))


@app.command()
def run(
    watch: Annotated[
        Path | None, typer.Option("--watch", help="A folder; new images and videos in it are processed.")
    ] = None,
    live: Annotated[
        str | None, typer.Option("--live", metavar="SOURCE", help="/dev/video0, rtsp://..., http://..., or a video.")
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="A live video begins again at its end.")] = False,
    package: Annotated[Path | None, typer.Option("--package", help="The package to begin with.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write results.jsonl and pictures here.")] = None,
    policy: PolicyFile = None,
    state: State = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks at the folder.")] = 2.0,
    update_every: Annotated[float, typer.Option(min=1, help="Seconds between questions for a new package.")] = 60.0,
    pages: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the pages, 8471 if it is free; 0: a free one.")
    ] = None,
    no_pages: Annotated[bool, typer.Option("--no-pages", help="Serve no pages; what is doubtful stays so.")] = False,
    pages_host: Annotated[str, typer.Option(help="Another address to serve the pages on.")] = "127.0.0.1",
    pages_name: Annotated[list[str] | None, typer.Option(help="A host name that browsers may ask for.")] = None,
) -> None:
    """Watch a folder or a live source, share what the policy allows, and take new packages over, until stopped.

    Of a live source the newest frame is recognized and shown; what comes too fast is left out. '--out' is for files.
    Doubtful results are decided on the pages; 'featureloop device user add NAME' says by whom.
    """
    from featureloop.device.review.desk import Listen
    from featureloop.device.service import DeviceService
    from featureloop.images.live import LiveSource
    from featureloop.images.stream import address_of

    if watch is None and live is None:
        raise InputError(
            "there is nothing to recognize: name a folder with --watch, a live source with --live, or both"
        )
    place = device_state(state)
    rules = site_policy(policy)
    service = DeviceService(
        state=place,
        identity=place.load_identity(),
        package=_package(place, package),
        policy=rules,
        outbox=open_outbox(place, rules),
        watch=watch,
        out=out,
        tell=tell,
        threads=settings().threads,
        pages=None if no_pages else Listen(pages, pages_host, tuple(pages_name or ())),
        live=None if live is None else LiveSource(address_of(live), loop=loop, tell=tell),
    )
    service.run(every_s=every, update_every_s=update_every, stop=threading.Event())
