"""Fakes of every seam, and a real small package, for tests of code that uses featureloop.

`tiny_package` needs `onnx` and `safetensors` (the `learner` extra); the rest
needs nothing beyond what a device has.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featureloop.core.ports import Receipt
from featureloop.core.types import Asked, Change, Frame, Opinion, Recognition, Task
from featureloop.model import package as packages
from featureloop.model.forms import POOL, SET, Form, parse_form
from featureloop.model.manifest import (
    BagTables,
    Calibration,
    FeatureSpec,
    Lineage,
    Manifest,
    OrderTables,
    PooledTables,
    Preprocessing,
    RecognizerSpec,
    ReleasedForm,
)
from featureloop.model.package import Package
from featureloop.model.pooling import POOLING, pooled_bounds
from featureloop.model.tasks import RULES
from featureloop.sharing.record import Record
from featureloop.sharing.together import from_body

if TYPE_CHECKING:
    from featureloop.core.types import Float32

STRIDE = 16
CLASSES = ("normal", "hyperplastic", "adenoma")


class FakeClock:
    """A clock that moves only when it is told to.

    Attributes
    ----------
    now
        Seconds since the epoch.
    slept
        Every sleep that was asked for, in seconds.
    """

    def __init__(self, now: float = 1_750_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        """The time, as `time.time`."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the clock."""
        self.now += seconds

    def sleep(self, seconds: float) -> None:
        """As `time.sleep`, but the clock jumps instead of waiting."""
        self.slept.append(seconds)
        self.now += seconds


@dataclass
class FakeWire:
    """A `core.ports.Wire`: raises the scripted failures first, then takes every record.

    Attributes
    ----------
    failures
        Raised one by one, in this order, each by one call of `deliver`.
    refuse
        Record id to reason: what the learner will never take.
    bodies
        Every body that was sent, failed ones included.
    held
        Record id to record, of all that was taken; a repeat changes nothing.
    """

    failures: list[Exception] = field(default_factory=list)
    refuse: Mapping[bytes, str] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)
    held: dict[bytes, Record] = field(default_factory=dict)

    def deliver(self, body: bytes) -> Receipt:
        """Take a body of records, or fail as scripted; it knows no package, so it reads none that are coded by one."""
        self.bodies.append(body)
        if self.failures:
            raise self.failures.pop(0)
        records = {r.id: r for r in from_body(body, lambda _: None)}
        taken = {i: r for i, r in records.items() if i not in self.refuse}
        self.held.update(taken)
        return Receipt(frozenset(taken), {i: self.refuse[i] for i in records if i in self.refuse})


class FakeReviewer:
    """A `core.ports.Reviewer` with scripted answers; None once they are used up.

    Attributes
    ----------
    asked
        The frames and recognitions that were shown.
    """

    def __init__(self, answers: Iterable[Change | None] = ()) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[Frame, Recognition]] = []

    def review(self, frame: Frame, recognition: Recognition) -> Change | None:
        """The next scripted answer."""
        self.asked.append((frame, recognition))
        return self._answers.pop(0) if self._answers else None


@dataclass
class FakeSecondOpinion:
    """A `core.ports.SecondOpinion` that is always of the same opinion.

    Attributes
    ----------
    opinion
        What it says; None for nothing.
    asked
        The frames that it looked at.
    """

    opinion: Opinion | None = None
    asked: list[Frame] = field(default_factory=list)

    def look_again(self, frame: Frame, _recognition: Recognition) -> Opinion | None:
        """The same opinion."""
        self.asked.append(frame)
        return self.opinion


@dataclass
class FakeAskLater:
    """A `core.ports.AskLater` in memory: raises the scripted failures first, one a call.

    Attributes
    ----------
    failures
        Raised one by one, in this order.
    kept
        By key, what was kept first under it.
    """

    failures: list[Exception] = field(default_factory=list)
    kept: dict[bytes, Asked] = field(default_factory=dict)

    def keep(self, asked: Asked) -> None:
        """Keep it, or fail as scripted."""
        if self.failures:
            raise self.failures.pop(0)
        self.kept.setdefault(asked.key, asked)


def make_record(i: int, **overrides: Any) -> Record:
    """A valid record whose bytes differ for every `i`.

    Its payload is not coded by any codec; give `features` and the rest where
    that matters.

    Parameters
    ----------
    i
        Any integer.
    **overrides
        Fields of `Record` to set otherwise.
    """
    noise = hashlib.shake_128(b"record %d" % i).digest(48 + i % 17)
    values: dict[str, Any] = {
        "site": "site-a",
        "device": f"device-{i % 3}",
        "package": hashlib.sha256(b"package").digest(),
        "extractor": hashlib.sha256(b"extractor").digest(),
        "task": str(Task.SEGMENTATION),
        "anonymizer": "set",
        "vectors": 16,
        "channels": 8,
        "codec": "uniform/2",
        "features": noise[:-8],
        "recognition": noise[-8:],
        "reliability": (i % 129) / 128,
        "reliability_method": "expected-dice",
        "changed": None,
        "changed_by": None,
        "changed_when": None,
        "group": hashlib.sha256(b"group %d" % (i // 4)).digest()[:16],
        "period": 4 * 2026 + i % 4,
    }
    return Record(**(values | overrides))


def tiny_package(
    path: Path,
    *,
    task: str = "segmentation",
    seed: int = 0,
    size: int = 64,
    channels: int = 8,
    recognizer_seed: int | None = None,
    pooling: tuple[str, ...] = POOLING,
    release: str = "",
) -> Package:
    """Build a real package of a few kilobytes; it runs, but it has learned nothing.

    Parameters
    ----------
    path
        The directory to make it in.
    task
        `segmentation` (form `set`, T = 16), `detection` (form `set`, T = 5) or
        `classification` or `multilabel` (form `global`, T = 3).
    seed
        Of the extractor's and the recognizer's weights.
    size
        Side of the input in pixels, a multiple of 16.
    channels
        C, of the feature map.
    recognizer_seed
        Another seed for the recognizer alone: a successor in the same package line.
    pooling
        Of the form `global`.
    release
        The released form (`model.forms`), with a clipping norm where it has noise; empty for `pool` or `set`. Where
        position vectors leave, whole frames are recognized in the form `attention`.

    Raises
    ------
    ValueError
        The task is unknown or the size no multiple of 16.
    """
    if size % STRIDE or size < STRIDE:
        raise ValueError(f"size must be a multiple of {STRIDE}, not {size}")
    kind, grid = Task(task), size // STRIDE
    rules, labels = RULES[kind], CLASSES if RULES[kind].form == "global" else ("lesion",)
    leaves = parse_form(release or ("pool" if rules.form == "global" else "set"))
    pooled = leaves.base == "pool"
    spec = {"global": "global" if pooled else "attention"}.get(rules.form, rules.form)
    form = _released(leaves, channels, pooling=pooling if pooled else (), flags=rules.flags(len(labels)))
    released = form.channels
    outputs = rules.outputs(len(labels))
    # A convolution over 768 values in [-1, 1] stays clear of tanh's flat ends at this scale.
    kernel = _normal(seed, (channels, 3, STRIDE, STRIDE), 0.08)
    matrix = _normal(1_000 + (seed if recognizer_seed is None else recognizer_seed), (released, outputs), 1.0)
    _write_models(path, kernel=kernel, matrix=matrix, size=size, form=spec)
    manifest = Manifest(
        task=str(kind),
        labels=labels,
        version="0.0.1",
        preprocessing=Preprocessing(size=size),
        features=FeatureSpec(channels=channels, stride=STRIDE, grid=grid),
        recognizer=RecognizerSpec(spec, width=released, blocks=0, outputs=outputs, context=leaves.context),
        released=form,
        calibration=Calibration(
            temperature=1.0,
            method=rules.method,
            raw=(0.0, 1.0),
            reliability=(0.0, 1.0),
            threshold=0.5,
            threshold_risk=0.5,
            samples=100,
        ),
        lineage=Lineage(records={"founding": 100}),
    )
    card = "# A package for tests\n\nIts weights are random numbers: it recognizes nothing. Not a medical device.\n"
    packages.write_atomically(path / packages.CARD, card.encode())
    metadata = json.dumps(packages.monai_metadata(manifest), indent=1).encode()
    packages.write_atomically(path / packages.METADATA, metadata)
    return packages.seal_package(path, manifest)


def tiny_package_of(path: Path, *tasks: str, recognizer_seed: int | None = None) -> Package:
    """A `tiny_package` of several tasks on one extractor, the first of them first.

    Raises
    ------
    ValueError
        A task is unknown.
    """
    whole = tiny_package(path, task=tasks[0], recognizer_seed=recognizer_seed)
    for task in tasks[1:]:
        with tempfile.TemporaryDirectory() as folder:
            other = tiny_package(Path(folder), task=task, recognizer_seed=recognizer_seed)
            for name in (packages.RECOGNIZER, packages.WEIGHTS):
                packages.write_atomically(path / packages.head_file(name, task), other.file(name).read_bytes())
        whole = packages.seal_package(path, whole.manifest.with_task(other.manifest))
    return whole


def _normal(seed: int, shape: tuple[int, ...], scale: float) -> Float32:
    return np.random.default_rng(seed).normal(0.0, scale, shape).astype(np.float32)


def _released(leaves: Form, channels: int, *, pooling: tuple[str, ...], flags: int) -> ReleasedForm:
    low, high = pooled_bounds(pooling, channels) if pooling else ((-1.0,) * channels, (1.0,) * channels)
    n, levels, room = len(low), min(8, leaves.quantize or 8), 4 * leaves.noise * leaves.clip
    low, high = tuple(x - room for x in low), tuple(x + room for x in high)
    table = (4096 - (levels - 1) * (4096 // levels), *((4096 // levels,) * (levels - 1)))
    middles = tuple(
        tuple(a + (b - a) * i / (levels - 1) for i in range(levels)) for a, b in zip(low, high, strict=True)
    )
    return ReleasedForm(
        anonymizer=str(leaves),
        channels=n,
        low=low,
        high=high,
        levels=(levels,) * n,
        frequencies=(table,) * n,
        coded_frequencies=(16,) * 256,
        flags=flags,
        pooling=pooling,
        bag=None if leaves.base == POOL else flat_tables((levels,) * n, flags),
        ordered=None if leaves.base in (POOL, SET) else flat_order((levels,) * n),
        pooled=PooledTables(middles) if leaves.base == POOL else None,
    )


def flat_tables(levels: tuple[int, ...], flags: int) -> BagTables:
    """Tables of a set under which all is about equally likely."""
    return BagTables(
        urns=tuple(((16, 16),) * (n - 1) for n in levels),
        weights=(1,) * len(levels),
        thresholds=(4, 9),
        kinds=((3072, 512, 512), (2048, 1024, 1024), (1024, 2048, 1024)),
        flags=((2048,) * 16,) * flags,
        changed_kinds=((4000, 48, 48), (48, 4000, 48), (1024, 1024, 2048)),
        changed_flags=(((1024,) * 16 + (3072,) * 16),) * flags,
    )


def flat_order(levels: tuple[int, ...]) -> OrderTables:
    """Tables of what keeps an order, under which a row is most likely the mean of its left and upper neighbours."""
    tables = (tuple(65_536 - 64 * (n - 1) if i == 0 else 64 for i in range(n)) for n in levels)
    return OrderTables(((128, 128, 0, 0, 0),) * len(levels), tuple((table,) * 10 for table in tables))


def _write_models(path: Path, *, kernel: Float32, matrix: Float32, size: int, form: str) -> None:
    """Both ONNX graphs and the weights: kernel (C, 3, 16, 16), matrix (released C, T)."""
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import save

    channels, (inputs, outputs), grid = kernel.shape[0], matrix.shape, size // STRIDE
    rows: dict[str, tuple[int | str, int | str]] = {"set": ("positions",) * 2, "attention": ("positions", 1)}
    inner, outer = rows.get(form, (1, 1))

    def value(name: str, shape: tuple[int | str, ...]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))

    def model(name: str, nodes: list[Any], source: Any, result: Any, weights: tuple[str, Float32]) -> bytes:
        initial = [numpy_helper.from_array(weights[1], weights[0])]
        graph = helper.make_graph(nodes, name, [source], [result], initial)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(made.SerializeToString())

    convolve = helper.make_node("Conv", ["image", "kernel"], ["raw"], strides=[STRIDE, STRIDE])
    bound = helper.make_node("Tanh", ["raw"], ["features"])
    image, features = value("image", (1, 3, size, size)), value("features", (1, channels, grid, grid))
    extractor = model("extractor", [convolve, bound], image, features, ("kernel", kernel))
    multiply = helper.make_node("MatMul", ["vectors", "matrix"], ["logits" if form != "attention" else "each"])
    pool = [helper.make_node("ReduceMean", ["each"], ["logits"], axes=[1])] if form == "attention" else []
    vectors, logits = value("vectors", (1, inner, inputs)), value("logits", (1, outer, outputs))
    recognizer = model("recognizer", [multiply, *pool], vectors, logits, ("matrix", matrix))
    packages.write_atomically(path / packages.EXTRACTOR, extractor)
    packages.write_atomically(path / packages.RECOGNIZER, recognizer)
    packages.write_atomically(path / packages.WEIGHTS, save({"matrix": matrix}))
