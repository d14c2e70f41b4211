"""The site's sharing policy: what may leave, decided by the site and never by the learner.

A TOML file, `policy.toml`::

    [share]
    anonymizers = ["set", "pool"]      # released forms that this site allows, and all that remove more
    preset = "changed"                 # settings with a name (`sharing.presets`); the others stand before them
    provide = "all"                    # all | below-threshold | changed | nothing
    below_threshold = ["consensus", "second-opinion", "ask"]  # in order; also soften | withhold | provide
    change = "below-threshold"         # below-threshold | any: which results go through these steps
    consensus_frames = 2               # neighbours on either side
    second_opinion = "../other"        # a package, from the policy's folder; without it, the frame turned and mirrored
    content = "result-and-reliability" # result-and-reliability | result | reliability
    threshold = 0.8                    # instead of the package's
    near_duplicates = 0.3              # of frames of one patient that are so alike one leaves; 0: all do
    groups = true                      # the keyed pseudonym of patient or examination
    rotation = "quarter"               # never | year | quarter: when pseudonyms change

    [limits]
    bytes_per_day = 50_000_000         # 0: no limit
    outbox_bytes = 1_000_000_000       # what may wait on the disk
    retention_days = 30                # undelivered records expire after it

    [sending]
    delay_seconds = 3600               # records gather in rounds of so long, and leave after them, shuffled
    batch_records = 32                 # fewer of them wait for a later round
    longest_seconds = 86_400           # but no longer than this
    together = true                    # records of one body are coded together: a third of the bytes on the line
    across_frames = false              # and a frame's set after another one like it: fewer still, for more time

    [review]
    readers = 1                        # 2: two people decide each doubtful result, and a third where they differ
    retention_days = 14                # what nobody decides is erased with its image after it
    undo_seconds = 20                  # so long an answer can be taken back

    [privacy]
    report = "required"                # required | optional: whether a package needs a privacy report within the limits
    membership_of_parent = true        # a successor may share on its parent's membership figure

    [privacy.limits]                   # instead of the default limits; "disclosed" is no limit
    "linkage.top1" = 0.09
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from featureloop.core.errors import InputError, PolicyError
from featureloop.model.forms import BASES, WINDOW, request_form
from featureloop.sharing.near import NEAR_DUPLICATES
from featureloop.sharing.presets import PRESETS
from featureloop.sharing.privacy import Privacy, limits_from

NO_REPORT = '[privacy]\nreport = "optional"\n'
"""The policy, as a file says it, of a site whose frames are nobody's: no privacy report is asked for."""

_T = TypeVar("_T")
Provide = Literal["all", "below-threshold", "changed", "nothing"]
Step = Literal["consensus", "second-opinion", "ask", "soften", "withhold", "provide"]
STEPS: tuple[Step, ...] = get_args(Step)
FINAL = ("soften", "withhold", "provide")
"""Steps that settle every result, so that none can follow."""
MOST_NEIGHBOURS = 16
Which = Literal["below-threshold", "any"]
Content = Literal["result-and-reliability", "result", "reliability"]
Rotation = Literal["never", "year", "quarter"]


@dataclass(frozen=True, slots=True)
class Share:
    """What is shared.

    Attributes
    ----------
    anonymizers
        Released forms that the site allows, as in `model.forms`; each stands for all that remove more, too.
    provide
        Which frames: all, only those below the threshold, only those with a
        changed result, or nothing.
    below_threshold
        What happens to a doubtful result, one step or several in order, until one settles it (`sharing.change`).
        What none settles doesn't leave.
    content
        What goes with the features of an unchanged result.
    threshold
        In [0, 1]; None takes the package's.
    near_duplicates
        In [0, 1): a frame leaves, or is asked about, only where it is not nearer to one of the same group that was
        provided than this share of what is usual between groups (`sharing.near`). 0: all may leave.
    change
        Whether only doubtful results go through the steps, or all.
    consensus_frames
        How many frames before and after one make a consensus with it.
    second_opinion
        The package that gives the second opinion; None: the same one, on the frame turned and mirrored.
    groups
        Whether the keyed pseudonym of the patient or examination goes along.
    rotation
        When pseudonyms change, so that records of two turns can't be linked by them.
    """

    anonymizers: tuple[str, ...] = ("set", "pool")
    provide: Provide = "all"
    below_threshold: Step | tuple[Step, ...] = "ask"
    content: Content = "result-and-reliability"
    threshold: float | None = None
    near_duplicates: float = NEAR_DUPLICATES
    groups: bool = True
    rotation: Rotation = "quarter"
    change: Which = "below-threshold"
    consensus_frames: int = 2
    second_opinion: Path | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps below the threshold, in order."""
        return (self.below_threshold,) if isinstance(self.below_threshold, str) else self.below_threshold


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may leave and wait.

    Attributes
    ----------
    bytes_per_day
        Payload bytes that may leave a day; 0 is no limit.
    outbox_bytes
        Payload bytes that may wait on the disk.
    retention_days
        Undelivered records expire after it.
    base_first
        Where a day's bytes don't suffice for all, a frame's base layer, the one pooled vector of a task of whole
        frames, leaves before the sets and maps of its other tasks.
    """

    bytes_per_day: int = 0
    outbox_bytes: int = 1_000_000_000
    retention_days: int = 30
    base_first: bool = True


@dataclass(frozen=True, slots=True)
class Sending:
    """When what waits is sent, so that time and order of sending don't tell which frames belong together.

    Attributes
    ----------
    delay_seconds
        Records gather in rounds of so long; after a round, what it brought leaves in random order. 0: at once.
    batch_records
        So many leave at least; fewer wait for a later round.
    longest_seconds
        What has waited for so long leaves after the next round with however few others there are.
    together
        Whether the records of one body are coded together (`sharing.together`), if the learner takes that.
    across_frames
        Whether a set is then coded after another one of its body, where that is shorter.
    """

    delay_seconds: int = 3600
    batch_records: int = 32
    longest_seconds: int = 86_400
    together: bool = True
    across_frames: bool = False


@dataclass(frozen=True, slots=True)
class Review:
    """How doubtful results are decided by people.

    Attributes
    ----------
    readers
        1, or 2: then two people decide each, and a third where they differ.
    retention_days
        What nobody decides is erased with its image after it.
    undo_seconds
        So long an answer can be taken back.
    """

    readers: int = 1
    retention_days: int = 14
    undo_seconds: int = 20


@dataclass(frozen=True, slots=True)
class Policy:
    """The whole of `policy.toml`."""

    share: Share = field(default_factory=Share)
    limits: Limits = field(default_factory=Limits)
    sending: Sending = field(default_factory=Sending)
    review: Review = field(default_factory=Review)
    privacy: Privacy = field(default_factory=Privacy)


def load_policy(path: Path) -> Policy:
    """Read `policy.toml`.

    Raises
    ------
    PolicyError
        The file can't be read, is no TOML, or has an unknown or invalid setting.
        An unknown setting is refused: a typing error must not share more than was meant.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"the policy '{path}' can't be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"the policy '{path}' is no valid TOML: {error}") from error
    if unknown := set(data) - {f.name for f in fields(Policy)}:
        raise PolicyError(
            f"the policy '{path}' has unknown tables {sorted(unknown)}; known are share, limits, sending, "
            "review, privacy"
        )
    return Policy(
        _read(Share, _with_preset(data.get("share", {}), path), path),
        _read(Limits, data.get("limits", {}), path),
        _read(Sending, data.get("sending", {}), path),
        _read(Review, data.get("review", {}), path),
        _read(Privacy, data.get("privacy", {}), path),
    )


def _with_preset(data: Any, path: Path) -> Any:
    """The settings of `[share]` over those that its preset stands for."""
    if not isinstance(data, dict) or "preset" not in data:
        return data
    name, own = data["preset"], {k: v for k, v in data.items() if k != "preset"}
    if not isinstance(name, str) or name not in PRESETS:
        raise PolicyError(f"the policy '{path}': preset can't be {name!r}; choose one of {', '.join(PRESETS)}")
    return {k: list(v) if isinstance(v, tuple) else v for k, v in PRESETS[name].items()} | own


def _read(kind: type[_T], data: Any, path: Path) -> _T:
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]  # both kinds are dataclasses
    if not isinstance(data, dict):
        raise PolicyError(f"the policy '{path}': {kind.__name__.lower()} must be a table")
    known = ["preset", *names] if kind is Share else names
    if unknown := set(data) - set(names):
        raise PolicyError(f"the policy '{path}' has unknown settings {sorted(unknown)}; known are {', '.join(known)}")
    values = {name: _value(name, hints[name], value, path) for name, value in data.items()}
    return kind(**values)


def _value(name: str, hint: Any, value: Any, path: Path) -> Any:
    choices = get_args(hint) if getattr(hint, "__origin__", None) is Literal else ()
    if choices and value not in choices:
        raise PolicyError(f"the policy '{path}': {name} can't be {value!r}; choose one of {', '.join(choices)}")
    if name == "readers" and value not in (1, 2):
        raise PolicyError(f"the policy '{path}': readers must be 1 or 2, not {value!r}")
    if name in _READERS:
        return _READERS[name](value, path)
    if hint is int and not (_is_number(value) and isinstance(value, int) and value >= 0):
        raise PolicyError(f"the policy '{path}': {name} must be a whole number of at least 0, not {value!r}")
    if hint is bool and not isinstance(value, bool):
        raise PolicyError(f"the policy '{path}': {name} must be true or false, not {value!r}")
    return value


def _forms(value: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise PolicyError(f"the policy '{path}': anonymizers must be a list of {', '.join(BASES)}, not {value!r}")
    return tuple(_entry(v, path) for v in value)


def _threshold(value: Any, path: Path) -> float:
    if not (_is_number(value) and 0 <= value <= 1):
        raise PolicyError(f"the policy '{path}': threshold must be a number from 0 to 1, not {value!r}")
    return float(value)


def _near_duplicates(value: Any, path: Path) -> float:
    if not (_is_number(value) and 0 <= value < 1):
        raise PolicyError(f"the policy '{path}': near_duplicates must be a number from 0 to below 1, not {value!r}")
    return float(value)


def _package(value: Any, path: Path) -> Path:
    if not isinstance(value, str) or not value:
        raise PolicyError(f"the policy '{path}': second_opinion must be a package's folder, not {value!r}")
    return path.parent / value


def _frames(value: Any, path: Path) -> int:
    if not (_is_number(value) and value in range(1, MOST_NEIGHBOURS + 1)):
        raise PolicyError(
            f"the policy '{path}': consensus_frames must be a whole number from 1 to {MOST_NEIGHBOURS}, not {value!r}"
        )
    return int(value)


def _steps(value: Any, path: Path) -> Any:
    """One step as it is, several as a tuple."""
    known = f"choose of {', '.join(STEPS)}"
    steps = [value] if isinstance(value, str) else value
    if not isinstance(steps, list) or not steps or any(step not in STEPS for step in steps):
        raise PolicyError(f"the policy '{path}': below_threshold can't be {value!r}; {known}")
    if len(set(steps)) < len(steps):
        raise PolicyError(f"the policy '{path}': below_threshold names a step twice in {value!r}")
    if any(step in FINAL for step in steps[:-1]):
        raise PolicyError(
            f"the policy '{path}': below_threshold can't be {value!r}: {', '.join(FINAL)} settle every result, "
            "so they can only be last"
        )
    return value if isinstance(value, str) else tuple(steps)


def _entry(text: str, path: Path) -> str:
    """An entry of the anonymizers as its form's own text; `window` stands for windows of any size."""
    try:
        return text if text == WINDOW else str(request_form(text))
    except InputError as error:
        raise PolicyError(
            f"the policy '{path}': anonymizers must be a list of {', '.join(BASES)}, also with modifiers: {error}"
        ) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_READERS: Mapping[str, Callable[[Any, Path], Any]] = {
    "anonymizers": _forms,
    "below_threshold": _steps,
    "consensus_frames": _frames,
    "limits": limits_from,
    "near_duplicates": _near_duplicates,
    "second_opinion": _package,
    "threshold": _threshold,
}
"""Settings that are neither a word, a whole number nor a switch."""
