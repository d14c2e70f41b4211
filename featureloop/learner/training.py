"""One round of learning: read the store, train a candidate, compare it, keep it in the registry."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import copytree, ignore_patterns

import numpy as np
from safetensors.torch import load_file
from torch import Tensor, nn

from featureloop.core.errors import GateError, RecordError
from featureloop.core.ports import Progress, silent
from featureloop.core.types import Bool, Task
from featureloop.learner.assembly import next_version, write_card, write_recognizer
from featureloop.learner.bags import Bags, load_bags, training_set
from featureloop.learner.founding_records import FOUNDING_SITE
from featureloop.learner.gate import Float64, GateSettings, Verdict, refusal, together
from featureloop.learner.held_back import calibrated_by, judge_recognizer
from featureloop.learner.interpolation import (
    Choice,
    choose_share,
    given_share,
    harmless_share,
    quality_of,
)
from featureloop.learner.registry import Registry
from featureloop.learner.store import RecordStore
from featureloop.model.compute import compute_on
from featureloop.model.fit import FitSettings, Weights, fit_recognizer, interpolate
from featureloop.model.lesson import Surroundings
from featureloop.model.manifest import Lineage
from featureloop.model.package import SIGNATURE, WEIGHTS, Package, seal_package
from featureloop.model.recognizers import build_recognizer
from featureloop.model.runtime import Runtime
from featureloop.model.tasks import check_distinct
from featureloop.sharing import codec
from featureloop.sharing.release import replayed


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
    """A candidate, the gate's verdict and what it learned from.

    Attributes
    ----------
    records
        How many records of each site, over all tasks that were trained.
    shares
        How far each task that was trained went from the live weights.
    verdicts
        The gate's on each of them; a task that did not pass keeps its live recognizer.
    """

    package: Package
    verdict: Verdict
    records: Mapping[str, int]
    unreadable: int
    shares: Mapping[Task, float]
    verdicts: Mapping[Task, Verdict]

    @property
    def interpolation(self) -> float:
        """How far the first trained task went from the live weights."""
        return next(iter(self.shares.values()))


def train_candidate(
    store: RecordStore,
    registry: Registry,
    live: Package,
    *,
    settings: TrainSettings,
    tasks: Collection[Task] = (),
    progress: Progress = silent,
) -> Trained:
    """Train the live package's recognizers on the store, judge them, and add the package to the registry.

    The candidate is kept as `candidate` when it passes the gate, else as `rejected`. Of several tasks, those that
    don't pass keep their live recognizers; where none passes, the package is rejected.

    Parameters
    ----------
    tasks
        Which of the package's tasks; none for all that a site provided records for.

    Raises
    ------
    InputError
        A task is named twice.
    RecordError
        The store holds nothing that a site provided under this package line.
    GateError
        Nothing held back is verified, so that the candidate can't be judged.
    PackageError
        The package has not every one of the tasks.
    """
    check_distinct(list(tasks))
    version = store.version
    wanted = [live.view(task) for task in tasks] or live.views
    alone = len(wanted) == 1
    learned = [_learn(store, v, version, settings=settings, alone=alone, progress=progress) for v in wanted]
    trained = [x for x in learned if x is not None]
    if not trained:
        raise RecordError("no site has provided a record under this package line yet; nothing to learn from")
    counts = _counts(trained)
    lineage = replace(live.manifest.lineage, parent=live.digest.hex(), store_version=version, records=counts)
    with tempfile.TemporaryDirectory() as folder:
        draft = _write_candidate(live, trained, Path(folder) / "all", lineage)
        verdicts = {x.task: _judged(x, draft, trained, settings.gate) for x in trained}
        verdict = together(verdicts)
        passed = [x for x in trained if verdicts[x.task].passed]
        if 0 < len(passed) < len(trained):
            draft = _write_candidate(live, passed, Path(folder) / "passed", replace(lineage, records=_counts(passed)))
        reports = {"gate": verdict.as_dict(), "interpolation": trained[0].choice.share}
        draft = seal_package(draft.path, replace(draft.manifest, reports=reports))
        state = "candidate" if verdict.passed else "rejected"
        package = registry.add(draft, metrics=verdict.as_dict(), state=state)
    if version:
        store.pin(version, name=f"package-{package.short}")
    unreadable = sum(x.bags.unreadable for x in trained)
    shares = {x.task: x.choice.share for x in trained}
    return Trained(package, verdict, counts, unreadable, shares, verdicts)


@dataclass(frozen=True, slots=True, eq=False)
class _Learned:
    """What one task learned: its view of the live package, the bags and which of them it learned from."""

    view: Package
    bags: Bags
    chosen: Bool
    recognizer: nn.Module
    choice: Choice

    @property
    def task(self) -> Task:
        """Which one."""
        return Task(self.view.manifest.task)

    @property
    def contributed(self) -> Mapping[str, int]:
        """Records that it learned from, by site."""
        return self.bags.counts(self.chosen & (self.bags.sites != FOUNDING_SITE))


def _learn(
    store: RecordStore, view: Package, version: int, *, settings: TrainSettings, alone: bool, progress: Progress
) -> _Learned | None:
    """Train one task's recognizer; None where no site provided a record for it."""
    own = store.records(extractor=view.extractor_digest, task=view.manifest.task, version=version)
    try:
        bags = load_bags(own, view.manifest)
    except RecordError:
        if alone:
            raise
        return None
    chosen = _chosen(bags, settings)
    if not (chosen & (bags.sites != FOUNDING_SITE)).any():
        return None
    recognizer, choice = train_recognizer(view, bags, chosen, settings=settings, progress=progress)
    return _Learned(view, bags, chosen, recognizer, choice)


def _counts(learned: Iterable[_Learned]) -> dict[str, int]:
    """Records that tasks learned from, by site."""
    total: Counter[str] = Counter()
    for one in learned:
        total.update(one.bags.counts(one.chosen))
    return dict(total)


def train_recognizer(
    live: Package, bags: Bags, chosen: Bool, *, settings: TrainSettings, progress: Progress = silent
) -> tuple[nn.Module, Choice]:
    """Train on from the live weights, on the chosen bags, bool (M,).

    Returns
    -------
    recognizer, choice
        The recognizer at the chosen share of the way, less far where that spares a site that it doesn't learn from, and
        what the cross-validation found; nothing where the settings say the share.
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
        choice = given_share(settings.interpolation)
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
    recognizer.eval()
    if settings.interpolation is None:
        way, margin = (before, after), settings.gate.margin
        choice = choice.at_most(_harmless(live, bags, recognizer, way=way, most=choice.share, margin=margin))
    recognizer.load_state_dict(interpolate(before, after, choice.share))
    return recognizer, choice


def _harmless(
    live: Package, bags: Bags, recognizer: nn.Module, *, way: tuple[Weights, Weights], most: float, margin: float
) -> float:
    """The largest share of the way, up to `most`, that harms no site without records to learn from: no founding frames.

    By the live calibration, so of boxes about as the gate will say: where whole frames are kept, a candidate is
    calibrated anew.
    """
    manifest = live.manifest
    learned = np.unique(bags.sites[~bags.held])
    others = np.flatnonzero(bags.held & bags.verified & ~np.isin(bags.sites, learned))

    def qualities(share: float) -> Float64:
        recognizer.load_state_dict(interpolate(*way, share))
        each = [
            quality_of(
                recognizer,
                codec.dequantize(bags.symbols[i], manifest.released),
                bags.results[i],
                task=Task(manifest.task),
                calibration=manifest.calibration,
            )
            for i in others.tolist()
        ]
        return np.array(each)

    return harmless_share(most, bags.sites[others], qualities=qualities, margin=margin)


def _chosen(bags: Bags, settings: TrainSettings) -> Bool:
    """The bags to learn from: none that is held back, of the sites' ones at most `limit`."""
    chosen = ~bags.held
    if settings.limit is not None:
        own = np.flatnonzero(chosen & (bags.sites != FOUNDING_SITE))
        dropped = np.random.default_rng(settings.fit.seed).permutation(own)[settings.limit :]
        chosen[dropped] = False
    return np.asarray(chosen)


def _write_candidate(live: Package, trained: Sequence[_Learned], work: Path, lineage: Lineage) -> Package:
    """The live package with the trained recognizers in place of its own, calibrated."""
    copytree(live.path, work, ignore=ignore_patterns(SIGNATURE))
    version = next_version(live.manifest.version)
    draft = replace(live.manifest, version=version, lineage=lineage, reports={}, files={})
    for one in trained:
        manifest = one.view.manifest
        form, channels = manifest.recognizer.form, manifest.released.channels
        write_recognizer(one.recognizer, work, form=form, channels=channels, head=one.view.head)
    package = seal_package(work, draft)
    for one in trained:
        view = package.view(one.task)
        kept = view.manifest if one.bags.whole is None else replayed(view.manifest)
        if kept.released.form.whole:
            calibration = calibrated_by(one.bags, Runtime(view))
            draft = draft.with_task(replace(view.manifest, calibration=calibration))
        # Else records aren't as a device sees a frame: the reliability that founding measured on frames stays.
    write_card(draft, work)
    return seal_package(work, draft)


def _judged(one: _Learned, draft: Package, trained: Sequence[_Learned], settings: GateSettings) -> Verdict:
    """The gate's verdict on a task; beside others, one that can't be judged is refused."""
    try:
        return judge_recognizer(
            one.bags, one.choice, one.view, draft.view(one.task), settings=settings, contributing=one.contributed
        )
    except GateError as error:
        if len(trained) == 1:
            raise
        return refusal(str(error))
