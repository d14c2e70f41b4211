"""What `featureloop.json` says, as frozen settings."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from itertools import pairwise
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from featureloop.core.errors import InputError, PackageError
from featureloop.core.types import Task
from featureloop.model.pooling import POOLING, check_pooling

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From a frame to the extractor's input, the same in training and on the device.

    Attributes
    ----------
    size
        The frame is resized to (size, size) pixels by area averaging.
    mean, scale
        The input is `(pixel - mean) / scale`, per pixel in [0, 255].
    """

    size: int
    mean: float = 127.0
    scale: float = 128.0


@dataclass(frozen=True, slots=True)
class FeatureSpec:
    """The extractor's output: C channels bounded to [-1, 1] on a square grid.

    Attributes
    ----------
    channels
        C, values per position vector.
    stride
        Pixels between neighbouring positions.
    grid
        Positions per side.
    backbone
        Name of the network that the extractor was made of.
    """

    channels: int
    stride: int
    grid: int
    backbone: str = "efficientnet-lite0"


@dataclass(frozen=True, slots=True)
class ReleasedForm:
    """In what form features leave: the anonymizer and the quantization.

    Attributes
    ----------
    anonymizer
        `pool` or `set`.
    channels
        Channels of a released vector (`pool` makes several out of one).
    low, high
        Exact bounds of each channel's values, length `channels`.
    levels
        Quantization levels of each channel, 2 to 256, length `channels`.
    frequencies
        Integer symbol frequencies of each channel, each summing to 4096.
    target_frequencies
        Integer frequencies of the row kinds (all flags 0, all 1, mixed), summing to 4096.
    coded_frequencies
        Integer frequencies of a row's coded values 0 to 255, summing to 4096; empty where rows hold flags only.
    flags
        How many values of a row of targets, from the first, are 0 or 1; None for all.
    pooling
        What `pool` takes of each channel (`model.pooling`), one statistic of all channels after the
        other; empty, as in packages made before there was a choice, for mean and deviation.
    """

    anonymizer: str
    channels: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    levels: tuple[int, ...]
    frequencies: tuple[tuple[int, ...], ...]
    target_frequencies: tuple[int, ...] = (3072, 512, 512)
    coded_frequencies: tuple[int, ...] = ()
    flags: int | None = None
    pooling: tuple[str, ...] = ()

    @property
    def statistics(self) -> tuple[str, ...]:
        """What is taken of each channel; nothing where vectors leave as they are."""
        return (self.pooling or POOLING) if self.anonymizer == "pool" else ()


@dataclass(frozen=True, slots=True)
class Calibration:
    """From recognition to reliability, fitted on held-out groups.

    Attributes
    ----------
    temperature
        Logits are divided by it.
    method
        `expected-dice` or `max-probability`.
    raw, reliability
        Knots of the monotone map from the raw score to the reliability.
    threshold
        Results below it are doubtful.
    threshold_risk
        The risk (1 - Dice, or the error) that the threshold was chosen for.
    samples
        How many held-out frames it was fitted on.
    bias
        Added to the divided logits of a detection's labels.
    """

    temperature: float
    method: str
    raw: tuple[float, ...]
    reliability: tuple[float, ...]
    threshold: float
    threshold_risk: float
    samples: int
    bias: float = 0.0


def uncalibrated(method: str, *, temperature: float = 1.0, bias: float = 0.0, risk: float = 0.5) -> Calibration:
    """A calibration that takes the raw score as it is, and doubts nothing."""
    return Calibration(temperature, method, (0.0, 1.0), (0.0, 1.0), 0.0, risk, 0, bias)


@dataclass(frozen=True, slots=True)
class RecognizerSpec:
    """What rebuilds the recognizer's network for training.

    Attributes
    ----------
    form
        `set` (a row of results for every vector), `attention` (one row for all of
        them) or `global` (one pooled vector).
    width, blocks
        Channels and residual blocks of the per-position network.
    outputs
        T, values per row: sub-cells of a position, or classes.
    heads
        Of the attention among a set's rows, in every block; 0 for none.
    """

    form: str
    width: int
    blocks: int
    outputs: int
    heads: int = 0

    @property
    def anonymizer(self) -> str:
        """The anonymizer whose vectors it takes."""
        return "pool" if self.form == "global" else "set"


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a package comes from.

    Attributes
    ----------
    parent
        Digest of the package it was trained from (hexadecimal); None for a founding package.
    store_version
        Version of the learner's store that it was trained on.
    records
        Records per site that it was trained on; founding frames are site `founding`.
    """

    parent: str | None = None
    store_version: int | None = None
    records: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `featureloop.json`."""

    task: str
    labels: tuple[str, ...]
    version: str
    preprocessing: Preprocessing
    features: FeatureSpec
    recognizer: RecognizerSpec
    released: ReleasedForm
    calibration: Calibration
    lineage: Lineage
    reports: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def with_files(self, files: dict[str, str]) -> Manifest:
        """The same with these digests."""
        return replace(self, files=files)

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, UTF-8."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """Parse a manifest.

        Raises
        ------
        PackageError
            It is no JSON, of another format, or a field is missing or of a wrong type.
        """
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise PackageError(f"featureloop.json is not valid JSON: {error}") from error
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            raise PackageError(
                f"the package is of format {found!r}, this version reads format {FORMAT}; update featureloop"
            )
        try:
            value: Self = _build(cls, data)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise PackageError(f"featureloop.json is malformed: {error}") from error
        _check(value)
        return value


def _build(kind: Any, value: Any) -> Any:  # noqa: C901, PLR0911  One branch for each kind of type.
    """Build a value of a declared type from JSON, refusing what doesn't fit."""
    if isinstance(kind, type) and is_dataclass(kind):
        if not isinstance(value, dict):
            raise TypeError(f"{kind.__name__} must be an object, not {value!r:.40}")
        hints = get_type_hints(kind)
        if unknown := set(value) - {f.name for f in fields(kind)}:
            raise TypeError(f"{kind.__name__} has unknown fields {sorted(unknown)}")
        return kind(**{k: _build(hints[k], v) for k, v in value.items()})
    origin, args = get_origin(kind), get_args(kind)
    if origin is tuple:
        if not isinstance(value, list):
            raise TypeError(f"expected a list, not {value!r:.40}")
        return tuple(_build(args[0], v) for v in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise TypeError(f"expected an object, not {value!r:.40}")
        return {str(k): _build(args[1], v) for k, v in value.items()}
    if origin is UnionType:
        return None if value is None else _build(args[0], value)
    if kind is Any:
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"a number is {value}")
        return float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"expected {kind.__name__}, not {value!r:.40}")
    return value


def _check(manifest: Manifest) -> None:
    if manifest.task not in tuple(Task):
        raise PackageError(f"the task '{manifest.task}' is unknown; known are {', '.join(Task)}")
    _check_networks(manifest)
    _check_released(manifest.released)
    _check_pooling(manifest)
    _check_calibration(manifest.calibration)


def _check_networks(manifest: Manifest) -> None:
    grid, spec, input_ = manifest.features, manifest.recognizer, manifest.preprocessing
    if not 1 <= grid.grid <= 256 or not 1 <= grid.channels <= 4096 or not 16 <= input_.size <= 4096:
        raise PackageError(f"the feature spec {grid} is out of range")
    if (
        not 1 <= spec.width <= 65_536
        or not 0 <= spec.blocks <= 1_024
        or not 1 <= spec.outputs <= 4_096
        or not 0 <= spec.heads <= 64
    ):
        raise PackageError(f"the recognizer's spec {spec} is out of range")
    if input_.scale <= 0:
        raise PackageError(f"the preprocessing divides by {input_.scale}; its scale must be positive")


def _check_released(released: ReleasedForm) -> None:
    per_channel = (released.low, released.high, released.levels, released.frequencies)
    if any(len(x) != released.channels for x in per_channel):
        raise PackageError(f"the released form doesn't describe each of its {released.channels} channels")
    if any(not 2 <= n <= 256 or len(f) != n for n, f in zip(released.levels, released.frequencies, strict=True)):
        raise PackageError("a channel's frequency table doesn't fit its quantization levels (2 to 256)")
    if len(released.target_frequencies) != 3:
        raise PackageError("the frequency table of the row kinds must have 3 entries: all 0, all 1, mixed")
    if len(released.coded_frequencies) not in (0, 256):
        raise PackageError("the frequency table of the rows' coded values must have 256 entries, or none")
    tables = (*released.frequencies, released.target_frequencies, released.coded_frequencies)
    if any(f and (sum(f) != 4096 or min(f) < 1) for f in tables):
        raise PackageError("a frequency table doesn't sum to 4096 with every entry positive")
    if any(not low < high for low, high in zip(released.low, released.high, strict=True)):
        raise PackageError("a channel's lower bound is not below its upper one")


def _check_pooling(manifest: Manifest) -> None:
    released = manifest.released
    try:
        check_pooling(released.pooling)
    except InputError as error:
        raise PackageError(f"the released form can't be made: {error}") from error
    if released.pooling and released.anonymizer != "pool":
        raise PackageError(f"the released form '{released.anonymizer}' doesn't pool, but declares {released.pooling}")
    expected = max(1, len(released.statistics)) * manifest.features.channels
    if released.channels != expected:
        of = f" by {', '.join(released.statistics)}" if released.statistics else ""
        raise PackageError(
            f"the released form has {released.channels} channels; the {manifest.features.channels} of the feature map "
            f"give {expected}{of}"
        )


def _check_calibration(calibration: Calibration) -> None:
    if len(calibration.raw) != len(calibration.reliability) or not calibration.raw:
        raise PackageError("the calibration has no knots, or not as many raw scores as reliabilities")
    if any(a > b for a, b in pairwise(calibration.raw)):
        raise PackageError("the calibration's raw scores don't rise")
    if calibration.temperature <= 0:
        raise PackageError(f"the calibration's temperature is {calibration.temperature}; it must be positive")
