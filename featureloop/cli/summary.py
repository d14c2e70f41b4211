"""What `device process` reports when it ends, and with which exit code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.table import Table

from featureloop.cli.console import size_text, table, tell
from featureloop.cli.folders import tell_skipped
from featureloop.core.errors import FeatureloopError, InputError
from featureloop.device.pipeline import Summary


@dataclass(frozen=True, slots=True)
class Done:
    """What a run did.

    Attributes
    ----------
    summary
        Of the pipeline.
    fault
        Why something waits in the outbox; None where all went well.
    outbox
        Count by state; None where nothing was to be shared.
    repeats
        Results in the outbox's memory whose record another one had brought: it leaves once.
    sent_bytes
        Bytes of all bodies sent to the learner, repeats included.
    """

    summary: Summary
    fault: FeatureloopError | None = None
    outbox: dict[str, int] | None = None
    repeats: int = 0
    sent_bytes: int = 0

    def as_dict(self, *, seconds: float) -> dict[str, Any]:
        """For JSON."""
        summary = self.summary
        return {
            "frames": summary.frames,
            "already_processed": summary.already,
            "skipped": [{"name": s.name, "reason": s.reason} for s in summary.skipped],
            "doubtful": summary.doubtful,
            "outcomes": summary.outcomes,
            "payload_bytes": summary.payload_bytes,
            "not_shared": [{"name": n, "reason": str(e)} for n, e in summary.faults],
            "dropped": summary.dropped,
            "waiting_to_mix": summary.waiting,
            "outbox": self.outbox,
            "repeats": self.repeats,
            "seconds": round(seconds, 2),
            "frames_per_second": round(summary.frames / seconds, 1) if seconds else None,
            "uplink_error": str(self.fault) if self.fault else None,
            "sent_bytes": self.sent_bytes,
        }


def summary_table(data: dict[str, Any]) -> Table:
    """The same for people."""
    outcomes = ", ".join(f"{n} {k}" for k, n in data["outcomes"].items()) or "none"
    outbox = ", ".join(f"{n} {k}" for k, n in (data["outbox"] or {}).items() if n) or "not used"
    rows = [
        ("frames recognized", f"{data['frames']} in {data['seconds']} s ({data['frames_per_second']} a second)"),
        ("processed before", data["already_processed"]),
        ("skipped", len(data["skipped"])),
        ("below the threshold", data["doubtful"]),
        ("sharing", outcomes),
        ("payload put into the outbox", size_text(data["payload_bytes"])),
        ("sent to the learner", size_text(data["sent_bytes"])),
        ("recognized, but not shared", len(data["not_shared"])),
        ("outbox", outbox),
    ]
    if data["repeats"]:
        rows.append(("results with another's record, which leaves once", data["repeats"]))
    if data["waiting_to_mix"]:
        rows.append(("not shared yet: too few patients to mix", data["waiting_to_mix"]))
    return table("processed", ["", "value"], rows)


def finish(done: Done) -> None:
    """Name what went wrong, and exit with the code of the worst of it.

    Raises
    ------
    FeatureloopError
        Frames could not be shared, the learner could not be reached, or no frame could be read.
    """
    summary = done.summary
    tell_skipped(summary.skipped)
    for name, error in summary.faults[:5]:
        tell(f"recognized but not shared, {name}: {error}")
    if summary.faults:
        raise summary.faults[0][1]
    if done.fault:
        raise done.fault
    if summary.skipped and not summary.frames and not summary.already:
        raise InputError(f"no frame could be read; the first reason: {summary.skipped[0].reason}")
