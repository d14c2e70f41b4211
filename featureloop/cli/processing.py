"""What `featureloop device process` does: one stream of frames, recognized, shown, and sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from featureloop.cli.console import progress_bars
from featureloop.cli.folders import Part, part_of
from featureloop.cli.summary import Done
from featureloop.core.errors import FeatureloopError, InputError, TransportError
from featureloop.core.types import Frame, Recognition, Skipped
from featureloop.device.metered import MeteredWire
from featureloop.device.outbox import Outbox
from featureloop.device.outbox import State as OutboxState
from featureloop.device.pipeline import Summary, run_pipeline
from featureloop.device.provide import Provider
from featureloop.device.show import ResultWriter
from featureloop.device.uplink import MakeBody, Uplink
from featureloop.device.uplink_thread import UplinkStatus, UplinkThread
from featureloop.images.several import folders_for, together
from featureloop.images.source import count, open_source
from featureloop.model.manifest import Manifest
from featureloop.model.runtime import Runtime

_WAITS = "what was to be sent waits in the outbox, start again later"


def frames_of(
    sources: list[Path], *, labels_of: Manifest | None, part: Part, hold_out: float, seed: int
) -> tuple[Iterable[Frame | Skipped], int | None]:
    """One stream over all sources, and how many frames it has where that is known.

    Parameters
    ----------
    labels_of
        For a labelled folder, the package whose tasks its labels are read for; None reads no labels.
    """
    if labels_of is not None:
        if len(sources) != 1:
            raise InputError(f"--review masks and --part take one labelled folder, not {len(sources)} sources")
        folders = folders_for(sources[0], {task: labels_of.for_task(task).labels for task in labels_of.tasks})
        folder = together(folders)
        items = part_of(folder.items, part, hold_out=hold_out, seed=seed, among=folders)
        return folder.frames(items), len(items)
    opened = [open_source(s) for s in sources]
    counts = [count(s) for s in sources]
    total = None if None in counts else sum(c for c in counts if c is not None)
    return (item for source in opened for item in source), total


def run_frames(
    frames: Iterable[Frame | Skipped],
    *,
    runtime: Runtime,
    out: Path | None,
    total: int | None,
    provider: Provider | None = None,
    is_done: Callable[[bytes], bool] = lambda _key: False,
) -> Summary:
    """Recognize every frame, with a progress bar; share where there is a provider."""
    writer = ResultWriter(out, runtime.package) if out else None
    seen = 0

    def show(frame: Frame, recognition: Recognition) -> None:
        nonlocal seen
        if recognition.task == runtime.package.manifest.task:
            seen += 1
            progress("frames", seen, total or seen)
        if writer:
            writer.show(frame, recognition)

    try:
        with progress_bars() as progress:
            return run_pipeline(frames, runtime=runtime, provider=provider, is_done=is_done, show=show)
    finally:
        if writer:
            writer.close()


def run_and_send(
    frames: Iterable[Frame | Skipped],
    *,
    runtime: Runtime,
    provider: Provider,
    outbox: Outbox,
    wire: MeteredWire,
    out: Path | None,
    total: int | None,
    wait: float,
    bodies: MakeBody | None = None,
) -> Done:
    """Recognize and share; the uplink runs beside it, and gets `wait` seconds for the rest.

    What went wrong with sending is kept, not raised: the records wait in the outbox.
    """
    uplink, fault = Uplink(outbox, wire, bodies=bodies), None
    thread = UplinkThread(uplink)
    thread.start()
    try:
        summary = run_frames(frames, runtime=runtime, out=out, total=total, provider=provider, is_done=outbox.done)
    except BaseException:
        thread.stop()
        raise
    until = time.monotonic() + wait
    # A thread that still waits for an answer has the outbox and the wire in its hands; it ends with the process.
    if ended := thread.stop(timeout_s=wait + 2.0):
        try:
            fault = _send_rest(uplink, outbox, thread.status, until=until)
        except FeatureloopError as error:
            fault = error
    else:
        fault = TransportError(f"the learner took over {wait:.0f} s to answer; {_WAITS}")
    counts = {str(k): v for k, v in outbox.counts().items()}
    done = Done(summary, fault, counts, outbox.repeats(), wire.sent_bytes)
    if ended:
        wire.close()
        outbox.close()
    return done


def _send_rest(uplink: Uplink, outbox: Outbox, status: UplinkStatus, *, until: float) -> FeatureloopError | None:
    """Send until nothing is left or the time is over; say why something stays.

    Raises
    ------
    FeatureloopError
        As `Uplink.drain`.
    """
    uplink.drain(deadline_s=until - time.monotonic())
    if status.error and time.monotonic() >= until and outbox.counts()[OutboxState.PENDING]:
        return TransportError(f"{status.error}; {_WAITS}")
    return None
