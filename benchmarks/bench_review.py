#!/usr/bin/env python3
"""How fast the review is: from a key to the durable answer, and cases a minute decided by keys, in a real Chromium.

Frames of 1280 x 720 (generated ones; or your own by --images and --package) wait in a device's queue; a script presses
Enter as soon as a case is shown, every third time it paints a stroke first. Prints milliseconds from the key to the
answer that says 'on the disk', to the next case on the screen, and cases a minute.

    benchmarks/bench_review.py [--cases 200] [--package P0 --images DIR]
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from featureloop.core.types import Frame
from featureloop.device.feed import LiveFeed
from featureloop.device.left import Shelf, WhatLeft
from featureloop.device.outbox import Outbox
from featureloop.device.pages.accounts import Accounts, Role
from featureloop.device.pages.app import Parts, create_app
from featureloop.device.pages.left import Left
from featureloop.device.pages.live import Live
from featureloop.device.pages.server import PageServer
from featureloop.device.pipeline import run_pipeline
from featureloop.device.provide import Provider
from featureloop.device.review.queue import ReviewQueue
from featureloop.device.sharing_now import Sharing, Tally
from featureloop.device.switch import SharingSwitch
from featureloop.images.phantom import phantom_set
from featureloop.images.phantom_look import HOSPITAL_A
from featureloop.images.source import open_source
from featureloop.model.package import Package, load_package
from featureloop.model.runtime import Runtime
from featureloop.sharing.policy import Policy, Share
from featureloop.testing import tiny_package

PASSWORD = "reviewing eyes"  # noqa: S105  Of a user who ends with the script.
SIZE = (720, 1280)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--package", type=Path)
    parser.add_argument("--images", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        package = load_package(args.package) if args.package else tiny_package(Path(folder) / "package")
        kept, shown, seconds, drawn = review(Path(folder), package, itertools.islice(frames(args.images), args.cases))
    print(f"{len(kept)} cases, {drawn} of them edited; load of the machine {os.getloadavg()[0]:.1f}\n")
    print("| | median | 99th percentile | at most |\n|---|---|---|---|")
    for name, values in (("from the key to the disk", kept), ("from the key to the next case", shown)):
        middle, late = np.percentile(values, [50, 99])
        print(f"| {name}, ms | {middle:.0f} | {late:.0f} | {max(values):.0f} |")
    print(f"\n{60 * len(kept) / seconds:.0f} cases a minute")


def frames(images: Path | None) -> Iterator[Frame]:
    """Frames without end, none twice: its own pixels are its name in the queue."""
    if images is not None:
        yield from (frame for frame in open_source(images) if isinstance(frame, Frame))
        return
    few = list(phantom_set(HOSPITAL_A, seed=1, sequences=8, frames_each=1, size=SIZE))
    for i in itertools.count():
        frame = few[i % len(few)]
        yield Frame(np.roll(frame.pixels, i, axis=1), f"{i}.png", group=frame.group)


def review(folder: Path, package: Package, source: Iterator[Frame]) -> tuple[list[float], list[float], float, int]:
    """Fill a queue, decide all of it in a browser: both times of every case, all seconds, and how many were edited."""
    queue, accounts = ReviewQueue(folder / "review.sqlite", key=bytes(32)), Accounts(folder / "users.sqlite")
    accounts.add("anna", PASSWORD, role=Role.REVIEWER)
    with Outbox(folder / "outbox.sqlite") as outbox:
        provider = Provider(
            site="site-a", device="tower", site_key=bytes(32), package=package,
            policy=Policy(Share(threshold=1.0, near_duplicates=0)),
            keeper=outbox, reviewer=None, clock=time.time, later=queue,
        )  # fmt: skip
        cases = run_pipeline(source, runtime=Runtime(package, threads=1), provider=provider).frames
        live = Live(LiveFeed(), Sharing(switch=SharingSwitch(folder), tally=Tally(), outbox=outbox))
    left = Left(WhatLeft(folder / "outbox.sqlite"), Shelf(folder / "packages", lambda: package))
    parts = Parts(
        accounts=accounts, queue=queue, manifest=lambda: package.manifest, live=live, left=left, site="site-a"
    )
    with PageServer(create_app(parts)) as server, sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(server.url)
        page.fill("[name=name]", "anna")
        page.fill("[name=password]", PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_selector("#result:not([hidden])")
        began = time.perf_counter()
        drawn = sum(decide(page, i) for i in range(cases))
        seconds = time.perf_counter() - began
        kept, shown = (
            page.evaluate(f"performance.getEntriesByName('{name}').map((e) => e.duration)")
            for name in ("kept", "shown")
        )
        browser.close()
    queue.close()
    accounts.close()
    return kept, shown, seconds, drawn


def decide(page: Page, i: int) -> bool:
    """Decide the case that is shown, and wait for the next one; whether a stroke was painted first."""
    edit = i % 3 == 2
    if edit:
        page.keyboard.press("ArrowRight")
        page.keyboard.press(" ")
    page.keyboard.press("Enter")
    while page.evaluate("performance.getEntriesByName('shown').length") <= i:
        time.sleep(0.005)
    return edit


if __name__ == "__main__":
    main()
