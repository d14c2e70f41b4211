"""The demonstration, at a tiny size: whenever it is interrupted, no process stays behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rig import environment

from featureloop.cli.processes import children

SMALL = """
import signal, sys, tempfile
from pathlib import Path
from featureloop.cli import demo
from featureloop.cli.processes import children
from rig import founding_package

if sys.argv[1] != "2  ":  # beyond the founding, an untrained package does, and is there at once
    demo.found = lambda images, out, settings, progress: founding_package(out).path

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job would ignore it
small = demo.DemoSettings(founding_frames=48, site_sequences=6, frames_each=4, test_frames=12, side=96, input_size=64,
                     epochs=0.5, recognizer_epochs=1.0, train_epochs=0.5)
try:
    with tempfile.TemporaryDirectory() as work, children() as group:
        demo.run_demo(Path(work), group, small)
except KeyboardInterrupt:
    sys.exit(130)
"""
MOMENTS = [
    pytest.param("2  ", True, id="founding, ctrl-c"),
    pytest.param("3  ", False, id="learner starts, kill -int"),
    pytest.param("3  ", True, id="learner starts, ctrl-c"),
    pytest.param("4  ", False, id="device runs, kill -int"),
    pytest.param("5  ", True, id="learner trains, ctrl-c"),
]
"""The line after which it is interrupted, and whether the whole terminal is (Ctrl-C) or only the first process."""


def session_of(leader: int) -> list[int]:
    """The processes of a session that are alive."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, *fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # It ended meanwhile.
            if int(fields[2]) == leader and state not in "ZX":
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="lists processes by /proc, which Linux has")
@pytest.mark.parametrize(("step", "whole_group"), MOMENTS)
def test_an_interrupt_leaves_no_process_behind(step: str, whole_group: bool, tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-c", SMALL, step], cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=environment() | {"PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip
    try:
        assert demo.stderr is not None
        for line in demo.stderr:
            if line.startswith(step):
                break
        else:
            pytest.fail("it ended before this step")
        time.sleep(random.Random(f"{step}{whole_group}").uniform(0.0, 2.0))  # noqa: S311 - a moment, no secret
        (os.killpg if whole_group else os.kill)(demo.pid, signal.SIGINT)
        demo.communicate(timeout=30)
        assert demo.returncode in (0, 130)
        assert session_of(demo.pid) == []
    finally:
        for pid in session_of(demo.pid):
            os.kill(pid, signal.SIGKILL)
        demo.wait()


def test_an_interrupt_while_a_process_starts_waits_until_it_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    real = subprocess.Popen

    def interrupted(*args: Any, **options: Any) -> subprocess.Popen[str]:
        process = real(*args, **options)
        started.append(process)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)  # the handler runs here, before the caller knows the process
        return process

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt), children() as group:
        group.start(["learner", "serve", "--help"])
    assert [p.poll() is None for p in started] == [False]
