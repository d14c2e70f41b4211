"""The model card of a package, as Markdown, from its manifest."""

from __future__ import annotations

from featureloop.model.accountant import guarantee
from featureloop.model.forms import Form
from featureloop.model.manifest import Calibration, Guarantee, Manifest

OPERATING_POINT = "operating_point"
"""Under this name a manifest's reports say how coarse its steps were chosen, and for what loss."""


def model_card(manifest: Manifest) -> str:
    """What the package is, where it comes from, how it was checked, and what it is not for."""
    if manifest.heads:
        first, *others = (_card(manifest.for_task(task)) for task in manifest.tasks)
        further = "\n".join(f"# Further task on the same extractor: {card.removeprefix('# ')}" for card in others)
        return f"{first}\n{further}"
    return _card(manifest)


def _guaranteed(form: Form, grid: int) -> tuple[str, ...]:
    if not form.clip:
        return ()
    found = guarantee(form, grid=grid)
    return (
        f"Differential privacy of the vectors' values at delta {found.delta:g}: epsilon {found.vector:.1f} for one "
        f"vector, {found.frame:.1f} for all of a frame. The results that go along are not covered.",
    )


def _method(calibration: Calibration) -> str:
    """How the reliability is calculated, and of what."""
    parts = ", ".join(f"{part.score} x {part.weight:.2f}" for part in calibration.parts)
    return f"{calibration.method} ({parts})" if parts else calibration.method


def _familiar(calibration: Calibration) -> str:
    """What is said of frames unlike the founding ones, and what the package keeps to know them by; a line, or none."""
    known = calibration.reference
    if known is None or not calibration.familiar:
        return ""
    first, last = calibration.familiar
    kinds = f", {len(known.kinds)} kinds of position vectors" if known.kinds else ""
    return (
        f"- It falls from a distance of {first:.2f} from founding frames on, and is 0 from {last:.2f}. To tell it, the "
        f"package keeps {len(known.usual)} usual frames{kinds}: means over at least {known.frames} founding frames "
        f"of at least {known.groups} patients each.\n"
    )


def _promise(calibration: Calibration) -> str:
    """What is said of results above the threshold."""
    if calibration.guarantee is None:
        return f"Above it the mean loss on those frames was held to {calibration.threshold_risk:.2f}."
    return guarantee_words(calibration.guarantee)


def guarantee_words(found: Guarantee) -> str:
    """What a threshold guarantees, for people."""
    if not found.accepted:
        return f"No threshold could be guaranteed on {found.groups} patients: every result is doubtful."
    return (
        f"Above it the mean loss is at most {found.risk:g} with a confidence of {found.confidence:g}, every patient "
        f"counting once, for patients like the {found.groups} ({found.frames} frames) that it was found on; "
        f"{100 * found.accepted:.0f}% of their frames are above it."
    )


def _coarse(manifest: Manifest) -> tuple[str, ...]:
    chosen = manifest.reports.get(OPERATING_POINT)
    if not isinstance(chosen, dict):
        return ()
    return (
        f"Its steps are {chosen['coarser']:g} times as wide as the neck's: recognition from decoded values loses "
        f"{100 * chosen['loss']:.2f} points on {chosen['frames']} calibration frames, where "
        f"{100 * chosen['max_loss']:g} were allowed.",
    )


def _card(manifest: Manifest) -> str:
    """The card of a package of one task."""
    blanked = ", black outside the field of view" if manifest.preprocessing.blank_border else ""
    released, calibration, lineage = manifest.released, manifest.calibration, manifest.lineage
    pooled = f" ({', '.join(released.statistics)})" if released.statistics else ""
    levels = f"{min(released.levels)} to {max(released.levels)}"
    along = ", along the directions that recognition feels" if released.directions else ""
    recognizer, features = manifest.recognizer, manifest.features
    form = released.form
    removed = "\n".join(
        f"- {words}" for words in (*form.words(), *_guaranteed(form, features.grid), *_coarse(manifest))
    )
    records = "\n".join(f"- {site}: {n}" for site, n in sorted(lineage.records.items())) or "- none"
    return f"""# {manifest.task} of {", ".join(manifest.labels)}, version {manifest.version}

**Not a medical device.** Results are unverified until a physician approves them.

## What it does
- Task: {manifest.task}; labels: {", ".join(manifest.labels)}.
- Input: an RGB frame, resized to {manifest.preprocessing.size} x {manifest.preprocessing.size} pixels{blanked}.
- Features: {features.channels} channels on a {features.grid} x {features.grid} grid.
- Recognizer: form `{recognizer.form}`, {recognizer.blocks} blocks of width {recognizer.width}.

## What leaves a device under it
- Form: `{released.anonymizer}`{pooled}, {released.channels} channels, {levels} levels each{along}.
{removed}
- What attacks make of it is in `reports/privacy.html` where the package was audited, and unknown where it wasn't.

## Reliability
- Method: {_method(calibration)}, fitted on {calibration.samples} held-out frames; its map is {calibration.mapped}.
{_familiar(calibration)}- Results below {calibration.threshold:.3f} are doubtful.
- {_promise(calibration)}

## Lineage
- Parent: {lineage.parent or "none; this is a founding package"}
- Store version: {lineage.store_version if lineage.store_version is not None else "none"}
- Records it was trained on, by site:
{records}

## Limits
It has seen only the sites named above. On other instruments, patients or diseases it may fail without saying so.
"""
