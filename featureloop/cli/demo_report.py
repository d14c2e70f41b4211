"""The demonstration's report: one HTML file with its pictures inside."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image

from featureloop.cli.console import size_text
from featureloop.core.types import Frame, UInt8
from featureloop.device.show import draw_mask
from featureloop.images.labelled import LabelledFolder
from featureloop.learner.evaluation import Evaluation
from featureloop.learner.figures import lesion_mask
from featureloop.model.package import Package, write_atomically
from featureloop.model.runtime import Runtime
from featureloop.sharing.anonymize import release_vectors

TRUTH = (255, 210, 60)
SHOWN = 6


def before_and_after(
    folder: LabelledFolder, first: Package, second: Package, before: Evaluation, after: Evaluation
) -> list[dict[str, Any]]:
    """Pictures of frames with the mask drawn before and after: the most gained, the typical, the most lost."""
    gain = after.values - before.values
    order = np.argsort(gain)
    middle = len(order) // 2
    chosen = [*order[::-1][: SHOWN // 2], *order[middle : middle + SHOWN // 2 - 1], order[0]]
    kinds = ["gained most"] * (SHOWN // 2) + ["typical"] * (SHOWN // 2 - 1) + ["lost most"]
    runtimes = Runtime(first), Runtime(second)
    by_name = {item.name: item for item in folder.items}
    out = []
    for kind, at in zip(kinds, chosen, strict=True):
        frame = next(f for f in folder.frames([by_name[before.names[at]]]) if isinstance(f, Frame))
        truth = None if frame.truth is None else frame.truth.mask
        drawn = [frame.pixels if truth is None else draw_mask(frame.pixels, truth.astype(np.uint8), colour=TRUTH)]
        drawn += [draw_mask(frame.pixels, _mask(frame, runtime)) for runtime in runtimes]
        out.append(
            {
                "kind": kind,
                "before": float(before.values[at]),
                "after": float(after.values[at]),
                "images": [_data_url(x) for x in drawn],
            }
        )
    return out


def _mask(frame: Frame, runtime: Runtime) -> UInt8:
    manifest = runtime.package.manifest
    found = runtime.recognize(release_vectors(runtime.extract(frame.pixels), manifest.released))
    height, width = frame.pixels.shape[:2]
    return lesion_mask(found, manifest.features.grid, height=height, width=width)


def _data_url(pixels: UInt8) -> str:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}"


def write_report(result: dict[str, Any], out: Path) -> Path:
    """Write `report.html` into the directory `out`, and return its path.

    Raises
    ------
    StorageError
        The directory can't be written.
    """
    environment = Environment(loader=PackageLoader("featureloop.cli"), autoescape=select_autoescape())
    sent = result["bytes"]
    record_size = size_text(sent["left"] / max(1, sent["records"]))
    page = environment.get_template("demo.html").render(
        **result, record_size=record_size, curve_picture=_curve(result["curve"])
    )
    path = out / "report.html"
    write_atomically(path, page.encode())
    return path


def _curve(points: list[dict[str, Any]]) -> str:
    """The curve of quality against records provided, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    x, y = [p["records"] for p in points], [p["dice"] for p in points]
    axes.plot(x, y, marker="o", color="#0b7a75", linewidth=2)
    for at, value in zip(x, y, strict=True):
        axes.annotate(f"{value:.3f}", (at, value), textcoords="offset points", xytext=(0, 8), ha="center")
    axes.set_xlabel("records that hospital B provided and the learner learned from")
    axes.set_ylabel("Dice at hospital B")
    axes.margins(x=0.08, y=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    return f"data:image/png;base64,{base64.b64encode(sink.getvalue()).decode()}"
