"""One round of learning: read the store, train a candidate, compare it, keep it in the registry."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import copyfile

import numpy as np
from safetensors.torch import load_file
from torch import Tensor, nn

from featureloop.core.errors import GateError, RecordError
from featureloop.core.ports import Progress, silent
from featureloop.core.types import Bool, Float32, Recognition, Task, UInt8
from featureloop.learner.bags import Bags, load_bags, training_set
from featureloop.learner.founding import write_card, write_recognizer
from featureloop.learner.founding_records import FOUNDING_SITE, HELD_SITE
from featureloop.learner.gate import GateSettings, Verdict, judge
from featureloop.learner.interpolation import Choice, choose_share, interpolate
from featureloop.learner.registry import Registry
from featureloop.learner.store import RecordStore
from featureloop.model.fit import FitSettings, fit_recognizer
from featureloop.model.loop import Surroundings, compute_on
from featureloop.model.manifest import Calibration, Lineage
from featureloop.model.package import EXTRACTOR, WEIGHTS, Package, seal_package
from featureloop.model.recognizers import build_recognizer
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import rules_of
from featureloop.sharing import codec
from featureloop.sharing.reliability import calibrate


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How a candidate is trained.

    Attributes
    ----------
    fit
        The optimizer's settings.
    gate
        What passes.
    founding_share
        Share of every batch that replays founding features, in [0, 1].
    limit
        Learn from at most so many of the sites' records, drawn by seed; None takes all.
    interpolation
        How far the candidate goes from the live weights to the trained ones, in
        (0, 1]; None chooses it by cross-validation (`learner.interpolation`).
    """

    fit: FitSettings = field(default_factory=FitSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    founding_share: float = 0.5
    limit: int | None = None
    interpolation: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A candidate, the gate's verdict and what it learned from."""

    package: Package
    verdict: Verdict
    records: Mapping[str, int]
    unreadable: int
    interpolation: float


def train_candidate(
    store: RecordStore,
    registry: Registry,
    live: Package,
    *,
    settings: TrainSettings,
    progress: Progress = silent,
) -> Trained:
    """Train the live package's recognizer on the store, judge it, and add it to the registry.

    The candidate is kept as `candidate` when it passes the gate, else as `rejected`.

    Raises
    ------
    RecordError
        The store holds nothing that a site provided under this package line.
    GateError
        Nothing held back is verified, so that the candidate can't be judged.
    """
    manifest = live.manifest
    version = store.version
    bags = load_bags(store.records(extractor=live.extractor_digest, version=version), manifest)
    chosen = _chosen(bags, settings)
    contributed = bags.counts(chosen & (bags.sites != FOUNDING_SITE))
    if not contributed:
        raise RecordError("no site has provided a record under this package line yet; nothing to learn from")
    recognizer, choice = train_recognizer(live, bags, chosen, settings=settings, progress=progress)
    with tempfile.TemporaryDirectory() as folder:
        lineage = Lineage(live.digest.hex(), version, bags.counts(chosen))
        draft = _write_candidate(recognizer, live, Path(folder) / "package", lineage, bags)
        verdict = _judge(live, draft, bags, choice=choice, contributed=contributed, settings=settings.gate)
        reports = {"gate": verdict.as_dict(), "interpolation": choice.share}
        draft = seal_package(draft.path, replace(draft.manifest, reports=reports))
        state = "candidate" if verdict.passed else "rejected"
        package = registry.add(draft, metrics=verdict.as_dict(), state=state)
    if version:
        store.pin(version, name=f"package-{package.short}")
    return Trained(package, verdict, bags.counts(chosen), bags.unreadable, choice.share)


def train_recognizer(
    live: Package, bags: Bags, chosen: Bool, *, settings: TrainSettings, progress: Progress = silent
) -> tuple[nn.Module, Choice]:
    """Train on from the live weights, on the chosen bags, bool (M,).

    Returns
    -------
    recognizer, choice
        The recognizer at the chosen share of the way, and what the cross-validation found; nothing
        where the settings say the share.
    """
    manifest = live.manifest
    task = Task(manifest.task)
    recognizer = build_recognizer(manifest.recognizer, channels=manifest.released.channels)
    before = load_file(live.file(WEIGHTS))

    around = Surroundings(compute=compute_on("auto"), progress=progress)

    def train(some: Bool) -> dict[str, Tensor]:
        recognizer.load_state_dict(before)
        bag_set = training_set(bags, manifest, founding_share=settings.founding_share, chosen=some)
        fit_recognizer(recognizer, bag_set, task=task, settings=settings.fit, around=around)
        return {k: v.clone() for k, v in recognizer.state_dict().items()}

    if settings.interpolation is not None:
        choice = Choice(settings.interpolation, np.array([], np.intp), np.array([]), np.array([]))
    else:
        choice = choose_share(
            bags,
            chosen,
            live=before,
            recognizer=recognizer,
            train=train,
            values=lambda i: codec.dequantize(bags.symbols[i], manifest.released),
            task=task,
        )
    after = train(chosen)
    recognizer.load_state_dict(interpolate(before, after, choice.share))
    return recognizer.eval(), choice


def _chosen(bags: Bags, settings: TrainSettings) -> Bool:
    """The bags to learn from: none that is held back, of the sites' ones at most `limit`."""
    chosen = ~bags.held
    if settings.limit is not None:
        own = np.flatnonzero(chosen & (bags.sites != FOUNDING_SITE))
        dropped = np.random.default_rng(settings.fit.seed).permutation(own)[settings.limit :]
        chosen[dropped] = False
    return np.asarray(chosen)


def _write_candidate(recognizer: nn.Module, live: Package, work: Path, lineage: Lineage, bags: Bags) -> Package:
    manifest = live.manifest
    (work / EXTRACTOR).parent.mkdir(parents=True)
    copyfile(live.file(EXTRACTOR), work / EXTRACTOR)
    write_recognizer(recognizer, work, form=manifest.recognizer.form, channels=manifest.released.channels)
    draft = replace(manifest, version=_next(manifest.version), lineage=lineage, reports={}, files={})
    write_card(draft, work)
    package = seal_package(work, draft)
    draft = replace(draft, calibration=_calibration(Runtime(package), bags))
    write_card(draft, work)
    return seal_package(work, draft)


def _next(version: str) -> str:
    major, minor = version.split(".")[:2]
    return f"{major}.{int(minor) + 1}"


def _calibration(runtime: Runtime, bags: Bags) -> Calibration:
    """Calibrate on what is held back and verified: results that nobody looked at would confirm themselves."""
    manifest = runtime.package.manifest
    task = Task(manifest.task)
    at = np.flatnonzero(bags.held & bags.verified)
    logits = [runtime.logits(codec.dequantize(bags.symbols[i], manifest.released)) for i in at]
    risk = manifest.calibration.threshold_risk
    return calibrate(logits, [bags.results[i] for i in at], task=task, risk=risk)


def _judge(
    live: Package,
    draft: Package,
    bags: Bags,
    *,
    choice: Choice,
    contributed: Mapping[str, int],
    settings: GateSettings,
) -> Verdict:
    """Judge by the records that are held back, and by those of the cross-validation."""
    held = np.flatnonzero(bags.held & bags.verified)
    if not len(held):
        raise GateError("nothing verified is held back; import the founding records with the package")
    before, after = (_qualities(Runtime(p), bags, held) for p in (live, draft))
    at = np.concatenate([held, choice.at])
    return judge(
        np.concatenate([before, choice.before]),
        np.concatenate([after, choice.after]),
        np.where(bags.sites[at] == HELD_SITE, FOUNDING_SITE, bags.sites[at]),
        bags.groups[at],
        settings=settings,
        contributing=contributed,
    )


def _qualities(
    runtime: Runtime, bags: Bags, at: np.ndarray[tuple[int], np.dtype[np.intp]]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    released = runtime.package.manifest.released

    def one(symbols: UInt8, truth: UInt8) -> float:
        vectors: Float32 = codec.dequantize(symbols, released)
        found: Recognition = runtime.recognize(vectors)
        return rules_of(runtime.package.manifest).quality(found, truth)

    return np.array([one(bags.symbols[i], bags.results[i]) for i in at])
