"""What the command line's tests share: `featureloop` itself, tiny frames, a learner that is always stopped."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from featureloop.cli.main import main
from featureloop.cli.processes import READY
from featureloop.config import settings
from featureloop.core.types import Bag
from featureloop.learner.founding_records import FOUNDING_SITE, HELD_SITE, founding_records_path, save_records
from featureloop.model.package import Package
from featureloop.sharing import codec
from featureloop.sharing.anonymize import canonical_order
from featureloop.sharing.policy import NO_REPORT
from featureloop.sharing.record import Record
from featureloop.testing import make_record, tiny_package, tiny_package_of


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Its stdout, which must be JSON and nothing else."""
        return json.loads(self.out)

    @property
    def said(self) -> str:
        """Its stderr on one line, whatever the terminal's width was."""
        return " ".join(self.err.split())


def featureloop(*args: object) -> Result:
    """Run the real command line, from `main()` to its exit, in this process: starting one takes seconds."""
    out, err = io.StringIO(), io.StringIO()
    settings.cache_clear()
    argv = ["featureloop", *map(str, args)]
    quiet = mock.patch.multiple(sys, argv=argv, stdout=out, stderr=err)
    code = 0
    with quiet, mock.patch.dict(os.environ, environment(), clear=True):
        try:
            main()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
        finally:
            settings.cache_clear()
    return Result(code, out.getvalue(), err.getvalue())


def as_process(*args: object, fsize: int | None = None, env: dict[str, str] | None = None) -> Result:
    """Run the real command line in a process of its own.

    Parameters
    ----------
    fsize
        The largest file in bytes that it can write: a disk that is full.
    env
        Added to its environment.
    """
    limited = _LIMITED.format(fsize=fsize)
    start = ["-m", "featureloop"] if fsize is None else ["-c", limited]
    done = subprocess.run(
        [sys.executable, *start, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment() | (env or {}),
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Result(done.returncode, done.stdout, done.stderr)


_LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({fsize}, {fsize}))
from featureloop.cli.main import main
main()
"""


def environment() -> dict[str, str]:
    """The environment of the tests without the user's settings, with quiet threads."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FEATURELOOP_")}
    return kept | {"OMP_WAIT_POLICY": "PASSIVE"}


@dataclass
class Server:
    """A learner process."""

    data: Path
    url: str
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)


@contextmanager
def learner(data: Path, package: Path | None = None, *, port: int = 0) -> Iterator[Server]:
    """`learner serve`, stopped with SIGTERM at the end whatever happens."""
    founding = ["--package", str(package)] if package else []
    command = [sys.executable, "-m", "featureloop", "learner", "serve", "--data", str(data), "--port", str(port)]
    process = subprocess.Popen([*command, *founding], stderr=subprocess.PIPE, text=True, env=environment())
    assert process.stderr is not None
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if READY in line:
                break
        assert lines, "the learner said nothing"
        assert READY in lines[-1], "".join(lines)
        yield Server(data, lines[-1].split(READY)[1].strip(), process, lines)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stderr.close()


def enroll(server: Server, state: Path, *, site: str) -> None:
    """Invite and enroll one device by the commands that people type."""
    code = featureloop("learner", "invite", "--site", site, "--data", server.data, "--json").data["code"]
    done = featureloop("device", "enroll", "--learner", server.url, "--code", code, "--state", state)
    assert done.code == 0, done.err


def founding_package(path: Path, *tasks: str, recognizer_seed: int | None = None, release: str = "") -> Package:
    """A tiny package with founding records beside it, as 'model train' writes them."""
    tasks = tasks or ("segmentation",)
    package = (
        tiny_package(path, task=tasks[0], release=release)
        if release
        else tiny_package_of(path, *tasks, recognizer_seed=recognizer_seed)
    )
    sites = [*4 * [HELD_SITE], *8 * [FOUNDING_SITE]]
    save_records(
        [coded(view, i, site=site) for view in package.views for i, site in enumerate(sites)],
        founding_records_path(path),
    )
    return package


def coded(package: Package, i: int, *, site: str) -> Record:
    """Record number `i` in the form that the package declares."""
    manifest = package.manifest
    released, rng = manifest.released, np.random.default_rng(i)
    n = released.form.rows(manifest.features.grid)
    symbols = rng.integers(0, released.levels[0], (n, released.channels)).astype(np.uint8)
    rows = rng.integers(0, 2, (n, manifest.recognizer.outputs)).astype(np.uint8)
    bag = canonical_order(Bag(symbols, rows), unit=released.form.unit(manifest.features.grid))
    return make_record(
        i,
        site=site,
        device=site,
        package=package.digest,
        extractor=package.extractor_digest,
        task=manifest.task,
        anonymizer=released.anonymizer,
        vectors=n,
        channels=released.channels,
        codec=codec.codec_of(released),
        features=codec.encode_features(bag.symbols, released),
        recognition=codec.encode_rows(bag.recognized, released, symbols=bag.symbols),
        reliability=None,
        reliability_method=None,
    )


def write_frames(folder: Path, numbers: Sequence[int]) -> Path:
    """Small PNG files, each with other pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        pixels = np.random.default_rng(i).integers(0, 256, (48, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"frame-{i:04}.png")
    return folder


SHARE_ALL = NO_REPORT + '\n[share]\nprovide = "all"\nbelow_threshold = "provide"\n'
"""A policy under which every frame leaves, so that records can be counted."""
