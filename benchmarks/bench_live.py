#!/usr/bin/env python3
"""How fast the live page is: a real device, a video at its own rate, and a real browser that counts what it drew.

    benchmarks/bench_live.py --package runs/polyps/P0 [--video ../shared/data/video/cholecystectomy-720p-25fps.mp4]
        [--rate 30] [--seconds 20]

Four rounds: a page that looks, with the sharing on; the same in a browser that takes half a second to decode a frame;
with nobody looking; and a page that looks, with the sharing off. Of each: frames recognized and drawn a second (in
the browser's animation frames), the latency from the frame's arrival to its drawing, and the processor time of the
device per frame recognized and of the browser per frame drawn. The video is played at --rate frames a second, whatever
it was recorded at, in a loop.

Needs Debian's Chromium and the package 'playwright'. The load of the machine is printed: with other work beside it, the
processor times per frame say more than the rates.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import av
from playwright.sync_api import Page, sync_playwright

from featureloop.device.pages.accounts import Role
from featureloop.device.review.desk import open_accounts
from featureloop.device.state import DeviceState, Identity

CHROMIUM = Path("/usr/bin/chromium")
PASSWORD = "only for this benchmark"  # noqa: S105  Of a device that ends with it.
POLICY = '[share]\nnear_duplicates = 0.3\n[privacy]\nreport = "optional"\n'
TICK = os.sysconf("SC_CLK_TCK")
SLOW = """() => {
    const real = window.createImageBitmap;
    window.createImageBitmap = async (blob) => { await new Promise((on) => setTimeout(on, 500)); return real(blob); };
}"""
FACTS = """() => {
    const c = document.getElementById('canvas').dataset;
    return [Number(c.drawn ?? 0), Number(c.number ?? 0), Number(document.getElementById('late').textContent)];
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[1]
    videos = root.parent / "shared" / "data" / "video"
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--video", type=Path, default=videos / "cholecystectomy-720p-25fps.mp4")
    parser.add_argument("--rate", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=20.0)
    args = parser.parse_args()
    print("| round | recognized/s | drawn/s | ms to the screen | device, ms/frame | browser, ms/frame | load |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        video = at_rate(args.video, Path(folder) / "video.mp4", rate=args.rate)
        with device(Path(folder), video, args.package) as (pid, url), browsing(play) as page:
            log_in(page, url)
            row("looking, sharing on", page, pid, args.seconds)
            page.evaluate(SLOW)
            time.sleep(2)
            row("a browser of 2 frames/s", page, pid, args.seconds)
            row_unseen(page, url, pid, args.seconds)
            page.click("#share-button")
            page.wait_for_selector("#share.off")
            time.sleep(2)
            row("looking, sharing off", page, pid, args.seconds)


def at_rate(video: Path, out: Path, *, rate: int) -> Path:
    """The same pictures with another rate, not coded again."""
    with av.open(str(video)) as source, av.open(str(out), "w") as target:
        stream = source.streams.video[0]
        copy, faster = target.add_stream_from_template(stream), float(stream.average_rate or rate) / rate
        for packet in source.demux(stream):
            if packet.dts is None or packet.pts is None:
                continue
            packet.pts, packet.dts = round(packet.pts * faster), round(packet.dts * faster)
            packet.duration = round((packet.duration or 0) * faster)
            packet.stream = copy
            target.mux(packet)
    return out


@contextmanager
def device(folder: Path, video: Path, package: Path) -> Iterator[tuple[int, str]]:
    """A device in a process of its own; its learner is out of reach, as at night."""
    state = DeviceState(folder / "state")
    state.save_identity(Identity(learner="http://127.0.0.1:9", site="site-a", device="d", token="t", keys=(bytes(32),)))  # noqa: S106
    with closing(open_accounts(state)) as accounts:
        accounts.add("otto", PASSWORD, role=Role.OPERATOR)
    policy = folder / "policy.toml"
    policy.write_text(POLICY)
    command = [
        sys.executable, "-m", "featureloop", "device", "run", "--live", str(video), "--loop", "--package", str(package),
        "--state", str(state.path), "--policy", str(policy), "--pages", "0",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"}) as process:
        told = process.stderr or ()
        url = next((line.split("pages: ")[1].strip() for line in told if "pages: " in line), "")
        try:
            yield process.pid, url
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


@contextmanager
def browsing(play: Any) -> Iterator[Page]:
    """A page of a headless Chromium, 1280 by 800."""
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    browser = play.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
    yield browser.new_page(viewport={"width": 1280, "height": 800})
    browser.close()


def log_in(page: Page, url: str) -> None:
    page.goto(url)
    page.fill("[name=name]", "otto")
    page.fill("[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("#results .value")
    time.sleep(3)


def row(name: str, page: Page, device_pid: int, seconds: float) -> None:
    """Measure one round, and print its line."""
    before, spent, began, late = page.evaluate(FACTS), times(device_pid), time.perf_counter(), []
    while time.perf_counter() - began < seconds:
        time.sleep(0.5)
        late.append(page.evaluate(FACTS)[2])
    after, took, used = page.evaluate(FACTS), time.perf_counter() - began, times(device_pid)
    drawn, recognized = after[0] - before[0], after[1] - before[1]
    per = [1e3 * (b - a) / max(1, n) for a, b, n in zip(spent, used, (recognized, drawn), strict=True)]
    print(
        f"| {name} | {recognized / took:.1f} | {drawn / took:.1f} | {statistics.median(late):.0f} | {per[0]:.1f} "
        f"| {per[1]:.1f} | {os.getloadavg()[0]:.1f} |",
        flush=True,
    )


def row_unseen(page: Page, url: str, device_pid: int, seconds: float) -> None:
    """The device alone: the page is elsewhere meanwhile."""
    before = page.evaluate(FACTS)[1]
    page.goto(f"{url}/left")
    began, spent = time.perf_counter(), times(device_pid)[0]
    time.sleep(seconds)
    took, used = time.perf_counter() - began, times(device_pid)[0]
    page.goto(f"{url}/live")
    page.wait_for_selector("#results .value")
    whole, recognized = time.perf_counter() - began, page.evaluate(FACTS)[1] - before
    rate = recognized / whole
    each = 1e3 * (used - spent) / (rate * took)
    print(f"| nobody looks | {rate:.1f} | - | - | {each:.1f} | - | {os.getloadavg()[0]:.1f} |", flush=True)
    time.sleep(3)


def times(device_pid: int) -> tuple[float, float]:
    """Processor seconds so far of the device, and of all of Chromium's processes below this one."""
    parents, spent, browser = dict[int, int](), dict[int, float](), set[int]()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        fields, pid = rest.split(), int(path.parent.name)
        parents[pid], spent[pid] = int(fields[1]), (int(fields[11]) + int(fields[12])) / TICK
        if "chrom" in name:
            browser.add(pid)

    def ours(pid: int) -> bool:
        while pid > 1:
            if pid == os.getpid():
                return True
            pid = parents.get(pid, 0)
        return False

    return spent.get(device_pid, 0.0), sum(spent[pid] for pid in browser if ours(pid))


if __name__ == "__main__":
    main()
