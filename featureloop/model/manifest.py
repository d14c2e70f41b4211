"""What `featureloop.json` says, as frozen settings."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any, Self

from featureloop.core.errors import PackageError
from featureloop.core.types import Task
from featureloop.model.forms import POOL, Form, parse_form
from featureloop.model.manifest_checks import build, check
from featureloop.model.pooling import POOLING
from featureloop.model.score_words import AGREEMENT, AUTO

FORMAT = 1
ISOTONIC, LOGISTIC = "isotonic", "logistic"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From a frame to the extractor's input, the same in training and on the device.

    Attributes
    ----------
    size
        The frame is resized to (size, size) pixels by area averaging.
    mean, scale
        The input is `(pixel - mean) / scale`, per pixel in [0, 255].
    blank_border
        Whether what is outside the field of view is black (`model.field_of_view`), whatever is written there.
    """

    size: int
    mean: float = 127.0
    scale: float = 128.0
    blank_border: bool = False


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
class BagTables:
    """The tables by which sets without an order are coded (codec `bag/1`); all frequencies are of 4096.

    Attributes
    ----------
    urns
        Of each channel's splits the urn's two parameters (`sharing.multiset`).
    weights
        Whole numbers, one a channel: a row's symbols times these are its score, by which its targets are guessed.
    thresholds
        Between K classes of scores, rising, K - 1 of them.
    kinds
        Of each class of scores how often a row of targets has all flags 0, all 1, or both: (K, 3).
    flags
        Of every flag of a row that has both, how often it is 1 after each of 16 neighbourhoods: (flags, 16).
    changed_kinds
        The same of a changed row, by the kind that was recognized: (3, 3).
    changed_flags
        The same of its flags, by the neighbourhood and what was recognized: (flags, 32).
    usual
        Bytes that hold nearly every frame's features, and rows of targets: shorter payloads are padded to them.
    """

    urns: tuple[tuple[tuple[int, int], ...], ...]
    weights: tuple[int, ...]
    thresholds: tuple[int, ...]
    kinds: tuple[tuple[int, ...], ...]
    flags: tuple[tuple[int, ...], ...]
    changed_kinds: tuple[tuple[int, ...], ...]
    changed_flags: tuple[tuple[int, ...], ...]
    usual: tuple[int, int] = (16, 16)


@dataclass(frozen=True, slots=True)
class OrderTables:
    """The tables by which forms that keep an order are coded, beside `BagTables` (codec `map/1`; `sharing.ordered`).

    Attributes
    ----------
    weights
        Of each channel the weights of the neighbours to the left, above, above left and above right, in 256ths, and
        what is added, in 512ths of a level: (C, 5).
    differences
        Of each channel, in each of 10 contexts, how often its symbol differs so much from what was expected, modulo its
        levels, of 65,536: (C, 10, levels).
    """

    weights: tuple[tuple[int, ...], ...]
    differences: tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True, slots=True)
class PooledTables:
    """What the codec of one pooled vector needs beside the frequencies (codec `pool/1`).

    Attributes
    ----------
    centroids
        Of each channel what each level stands for: the mean of the founding frames' values there, or its middle.
    usual
        Bytes that hold nearly every frame's features, and row of targets: shorter payloads are padded to them.
    """

    centroids: tuple[tuple[float, ...], ...]
    usual: tuple[int, int] = (16, 16)


@dataclass(frozen=True, slots=True)
class ReleasedForm:
    """In what form features leave: the anonymizer and the quantization.

    Attributes
    ----------
    anonymizer
        The form's text (`model.forms`), e.g. `pool`, `set` or `set subset=64`; the word in every record.
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
    bag
        Tables of position vectors; None where one vector leaves, and in older packages.
    ordered
        Tables of what keeps an order; None where nothing does, and in older packages.
    pooled
        Tables of one pooled vector; None where position vectors leave, and in older packages.
    directions
        (C, C): what is quantized of a pooled vector is its product with each of these rows (`model.pooling`), and
        `low`, `high`, `levels` and `frequencies` are of that; what is beyond the bounds is put on them. Empty, as where
        position vectors leave and in older packages: values are quantized themselves, within exact bounds.
    usually_apart
        Quantization steps between frames of different groups, by their median (`sharing.near`); 0 where it isn't known.
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
    bag: BagTables | None = None
    ordered: OrderTables | None = None
    pooled: PooledTables | None = None
    directions: tuple[tuple[float, ...], ...] = ()
    usually_apart: float = 0.0

    @property
    def form(self) -> Form:
        """What the anonymizer's text says.

        Raises
        ------
        InputError
            It is none.
        """
        return parse_form(self.anonymizer)

    @property
    def statistics(self) -> tuple[str, ...]:
        """What is taken of each channel; nothing where vectors leave as they are."""
        return (self.pooling or POOLING) if self.form.base == POOL else ()


@dataclass(frozen=True, slots=True)
class Reference:
    """What founding frames' features are like, as means over many of them (`model.reference`).

    Attributes
    ----------
    kinds
        Of position vectors: (K, C) means in deviations. Empty where one vector leaves of a frame.
    usual
        Frames that stand for others: each the shares of a frame's rows that are of each kind, (P, K); of one vector
        its mean, (P, C) in deviations.
    scale
        Each channel's deviation over the founding frames in quantization steps, (C,).
    frames, groups
        Fewest founding frames, and patients, that any of these means is over.
    """

    kinds: tuple[tuple[float, ...], ...]
    usual: tuple[tuple[float, ...], ...]
    scale: tuple[float, ...]
    frames: int
    groups: int


@dataclass(frozen=True, slots=True)
class Part:
    """A score in a combined one, and its weight: never negative, so that every score can only raise it."""

    score: str
    weight: float


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What a threshold guarantees, found on labelled frames that no network learned from (`learner.guarantee`).

    Attributes
    ----------
    risk, confidence
        With this confidence, results above the threshold have a mean loss of at most this; every patient counts once.
    threshold
        1 where none could be guaranteed.
    accepted
        Share of the frames whose results are above it.
    frames, groups
        How many frames it was found on, and of how many patients.
    curve
        Of each threshold looked at: itself, the share above it, and the mean loss of those.
    reliabilities
        Quantiles of the patients' median reliabilities, rising: a site whose patients differ has no guarantee.
    outlying
        The same of how far their features are from founding frames'; empty where the package can't tell.
    """

    risk: float
    confidence: float
    threshold: float
    accepted: float
    frames: int
    groups: int
    curve: tuple[tuple[float, ...], ...]
    reliabilities: tuple[float, ...]
    outlying: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class MeanMap:
    """From the raw score of a mean of several results to its reliability: a mean is less sure than a single one.

    Attributes
    ----------
    raw, reliability, mapped, samples
        As in `Calibration`, fitted on the same frames seen several ways (`sharing.views`).
    """

    raw: tuple[float, ...]
    reliability: tuple[float, ...]
    mapped: str
    samples: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """From recognition to reliability, fitted on held-out groups.

    Attributes
    ----------
    temperature
        Logits are divided by it.
    method
        How the raw score is calculated: one of the task's (`model.score_words`), or `combined`.
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
    guarantee
        Of the threshold; None where it was chosen on the founding frames, for their mean loss.
    score
        What was asked for: a method, or `auto`, so that whoever calibrates anew chooses again.
    parts, intercept
        Of a combined score: what it is made of, each score's logit times its weight.
    mapped
        `isotonic` or `logistic`, how the map was found.
    reference
        What founding frames' features are like; None in packages made before there was one.
    familiar
        Up to the first distance from them the reliability stays as it is, and falls to 0 at the second; or empty.
    of_mean
        The map of a second opinion by the same package; None where there is none, and means count as single results.
    """

    temperature: float
    method: str
    raw: tuple[float, ...]
    reliability: tuple[float, ...]
    threshold: float
    threshold_risk: float
    samples: int
    bias: float = 0.0
    guarantee: Guarantee | None = None
    score: str = AUTO
    parts: tuple[Part, ...] = ()
    intercept: float = 0.0
    mapped: str = ISOTONIC
    reference: Reference | None = None
    familiar: tuple[float, ...] = ()
    of_mean: MeanMap | None = None

    @property
    def asks_views(self) -> bool:
        """Whether a reliability needs the frame turned and mirrored, too."""
        return self.method == AGREEMENT


def uncalibrated(
    method: str, *, temperature: float = 1.0, bias: float = 0.0, risk: float = 0.5, score: str = AUTO
) -> Calibration:
    """A calibration that takes the raw score as it is, and doubts nothing."""
    return Calibration(temperature, method, (0.0, 1.0), (0.0, 1.0), 0.0, risk, 0, bias, score=score)


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
    context
        Whether a row also sees what all rows say together: where the rows of a record are not all of one
        frame's, it would learn from another context than a frame has.
    """

    form: str
    width: int
    blocks: int
    outputs: int
    heads: int = 0
    context: bool = True

    @property
    def anonymizer(self) -> str:
        """The base of the forms whose vectors it takes: `pool`, or `set` for all that leave position vectors."""
        return "pool" if self.form == "global" else "set"


@dataclass(frozen=True, slots=True)
class Head:
    """A further task on the same extractor; the fields are those of `Manifest`."""

    task: str
    labels: tuple[str, ...]
    recognizer: RecognizerSpec
    released: ReleasedForm
    calibration: Calibration


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
    hold_out, seed
        Of the split that kept a part of the founding images away; None where it isn't known.
    """

    parent: str | None = None
    store_version: int | None = None
    records: dict[str, int] = field(default_factory=dict)
    hold_out: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `featureloop.json`.

    Attributes
    ----------
    task, labels, recognizer, released, calibration
        The first task, and what recognizes it.
    heads
        Further tasks on the same extractor, each another one.
    """

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
    heads: tuple[Head, ...] = ()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks, the first one first."""
        return (Task(self.task), *(Task(head.task) for head in self.heads))

    def for_task(self, task: Task) -> Manifest:
        """The manifest as if the package had this one task.

        Raises
        ------
        PackageError
            The package has no such task.
        """
        if task not in self.tasks:
            raise PackageError(f"the package is for {', '.join(self.tasks)}, not for {task}")
        if task == self.task:
            return replace(self, heads=()) if self.heads else self
        head = next(h for h in self.heads if h.task == task)
        return replace(self, **{f.name: getattr(head, f.name) for f in fields(Head)}, heads=())

    def with_task(self, view: Manifest) -> Manifest:
        """The same with a task's fields as a manifest of this one task has them; a task that is new comes last."""
        given = {f.name: getattr(view, f.name) for f in fields(Head)}
        if view.task == self.task:
            return replace(self, **given)
        head = Head(**given)
        if view.task in self.tasks:
            return replace(self, heads=tuple(head if h.task == head.task else h for h in self.heads))
        return replace(self, heads=(*self.heads, head))

    def with_files(self, files: dict[str, str]) -> Manifest:
        """The same with these digests."""
        return replace(self, files=files)

    def to_json(self) -> bytes:
        """Canonical JSON: sorted keys, UTF-8; what a package has no use for is left out, as before it was known."""
        data = asdict(self)
        if not self.heads:
            del data["heads"]
        for part in (data, *data.get("heads", ())):
            if part["recognizer"]["context"]:
                del part["recognizer"]["context"]
            if part["released"]["ordered"] is None:
                del part["released"]["ordered"]
            _without_defaults(part["calibration"], Calibration)
            if "guarantee" in part["calibration"]:
                _without_defaults(part["calibration"]["guarantee"], Guarantee)
        return json.dumps(data, indent=1, sort_keys=True, allow_nan=False).encode()

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
            value: Self = build(cls, data)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise PackageError(f"featureloop.json is malformed: {error}") from error
        check(value)
        return value


def _without_defaults(data: dict[str, Any], kind: type) -> None:
    """Leave out of the JSON of a value what stands at its default, but for what was always written."""
    for known in fields(kind):
        if known.name not in {"bias"} and known.default is not MISSING and data[known.name] in (known.default, []):
            del data[known.name]
