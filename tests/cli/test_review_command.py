"""A reviewer corrects twenty cases in a real browser, the device is killed in the middle, and the learner has them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect
from rig import as_process, enroll, environment, featureloop, founding_package, learner, write_frames

from featureloop.model.package import Package
from featureloop.sharing.policy import NO_REPORT

POLICY = (
    NO_REPORT
    + """
[share]
threshold = 1.0
[review]
undo_seconds = 0
[sending]
delay_seconds = 0
batch_records = 1
"""
)
FEATURELOOP = (sys.executable, "-m", "featureloop")
SOON_S = 60.0
PASSWORD = "reviewing eyes"  # noqa: S105  Of a user who ends with the test.


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return founding_package(tmp_path_factory.mktemp("review") / "package", "segmentation")


@contextmanager
def device(folder: Path, package: Package) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`device run` with its pages on a free port."""
    command = [
        *FEATURELOOP, "device", "run", "--watch", str(folder / "in"), "--package", str(package.path), "--every", "0.3",
        "--state", str(folder / "state"), "--policy", str(folder / "policy.toml"), "--pages", "0",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        yield next(line for line in lines if line.startswith("pages: ")).split()[1], process
    finally:
        process.terminate()
        process.wait(20)
        process.stderr.close()


def open_review(page: Page, url: str) -> None:
    """Log in, and wait for a case."""
    page.goto(url)
    if page.locator("[name=name]").count():
        page.fill("[name=name]", "anna")
        page.fill("[name=password]", PASSWORD)
        page.keyboard.press("Enter")
    expect(page.locator("#result")).to_be_visible(timeout=SOON_S * 1000)
    expect(page.locator("#mine")).to_have_text(re.compile("[0-9]+"))


def test_corrections_arrive_as_changed_by_a_clinician(chromium: Browser, package: Package, tmp_path: Path) -> None:
    write_frames(tmp_path / "in", range(20))
    (tmp_path / "policy.toml").write_text(POLICY)
    state = tmp_path / "state"
    with learner(tmp_path / "learner", package.path) as server:
        enroll(server, state, site="hospital-a")
        added = subprocess.run(
            [*FEATURELOOP, "device", "user", "add", "anna", "--password-stdin", "--state", str(state)],
            input=PASSWORD, text=True, check=False, capture_output=True, env=environment(),
        )  # fmt: skip
        assert added.returncode == 0, added.stderr
        page = chromium.new_page(viewport={"width": 1024, "height": 700})
        with device(tmp_path, package) as (url, process):
            open_review(page, url)
            for i in range(10):
                page.keyboard.press("Delete" if i % 2 else "Enter")  # Without a lesion, or confirmed.
                if i % 2:
                    page.keyboard.press("Enter")
                expect(page.locator("#mine")).to_have_text(str(i + 1))
            process.send_signal(signal.SIGKILL)
            process.wait(20)
        with device(tmp_path, package) as (url, _):
            open_review(page, url)
            expect(page.locator("#mine")).to_have_text("10")
            for i in range(10, 20):
                page.keyboard.press("Enter")
                expect(page.locator("#mine")).to_have_text(str(i + 1))
            until = time.monotonic() + SOON_S
            while len(delivered(state)) < 20:
                assert time.monotonic() < until, delivered(state)
                time.sleep(0.2)
        page.close()
        found = {
            row["site"]: row["changed_by"]
            for row in as_process("records", "list", "--data", server.data, "--json").data
        }
    assert found["hospital-a"] == {"clinician": 20}
    image = np.asarray((tmp_path / "in" / "frame-0000.png").read_bytes())
    assert image.tobytes() not in (state / "review.sqlite").read_bytes()


def delivered(state: Path) -> list[str]:
    """The records that the learner has, by the device's own account."""
    return [e["id"] for e in featureloop("outbox", "list", "--only", "delivered", "--state", state, "--json").data]
