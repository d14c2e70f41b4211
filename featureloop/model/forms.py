"""Released forms: what of a feature map may leave, as one short text of a strict grammar.

    form     = base *(" " modifier), the modifiers in this order, each at most once
    base     = "pool" | "set" | "window=" W | "none"
    modifier = "subset=" K [",balanced"] | "mix=" M | "noise=" Z [",clip=" L] | "quantize=" Q

The text is the anonymizer's word in the manifest and in every record, so both
ends compare it as it is. What is done to a frame is done in the order of the
text, and the rows are put in order last.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from featureloop.core.errors import InputError

POOL, SET, WINDOW, NONE = BASES = ("pool", "set", "window", "none")
"""What is kept of where vectors stood, from nothing at all to everything."""
FEW_ROWS = "set subset=2,balanced"
"""Of a set what leaves by default: two rows of a frame, which were linked and drawn least (docs/adr/019)."""
MAX_TEXT = 96
MAX_ROWS = 65_536
"""Rows of one record."""
_WHOLE = r"[1-9][0-9]{0,4}"
_NUMBER = r"[0-9]{1,4}\.[0-9]{1,6}"
_PARTS = {
    "base": rf"pool|set|none|window=(?P<window>{_WHOLE})",
    "sub": rf"subset=(?P<subset>{_WHOLE})(?P<balanced>,balanced)?",
    "mixed": rf"mix=(?P<mix>{_WHOLE})",
    "noised": rf"noise=(?P<noise>{_NUMBER})(?:,clip=(?P<clip>{_NUMBER}))?",
    "coarse": rf"quantize=(?P<quantize>{_WHOLE})",
}
_TEXT = re.compile(
    rf"({_PARTS['base']})" + "".join(rf"(?: {_PARTS[k]})?" for k in ("sub", "mixed", "noised", "coarse"))
)


@dataclass(frozen=True, slots=True)
class Form:
    """One released form.

    Attributes
    ----------
    base
        `pool`: one vector of statistics a frame. `set`: position vectors in an order that is computed from their
        values. `window`: the map's order is kept inside windows, the windows are ordered by their values. `none`:
        the map's order.
    window
        Positions per side of a window; 0 but for `window`.
    subset, balanced
        So many position vectors of every frame, from inside the field of view as far as they reach, 0 for all;
        balanced: half of them with a lesion in their row of targets and half without, as far as they reach.
    mix
        Frames, each of another group, whose vectors share a record; 1 for none.
    noise, clip
        Every vector is clipped to the L2 norm `clip`, then Gaussian noise with a standard deviation of
        `noise * clip` is added to each value; 0 for none. A clip of 0 is chosen at founding.
    quantize
        At most so many levels a channel, 2 to 256; 0 leaves what the neck has chosen.

    Raises
    ------
    InputError
        A value is out of range, or parts don't go together.
    """

    base: str
    window: int = 0
    subset: int = 0
    balanced: bool = False
    mix: int = 1
    noise: float = 0.0
    clip: float = 0.0
    quantize: int = 0

    def __post_init__(self) -> None:
        whole = self.base in (POOL, NONE)
        wrong = {
            f"the released form '{self.base}' is unknown; choose among {', '.join(BASES)}": self.base not in BASES,
            "windows have a side of 2 to 64 positions, as in 'window=2'": (self.base == WINDOW) != (self.window > 0)
            or self.window not in (0, *range(2, 65)),
            f"'{self.base}' takes a frame as a whole, so it has no subset": whole and self.subset > 0,
            f"a subset has 1 to {MAX_ROWS} vectors, and only a subset is balanced": not 0 <= self.subset <= MAX_ROWS
            or (self.balanced and not self.subset),
            "a subset of windows takes whole ones: give a multiple of the positions of one": bool(
                self.window and self.subset % self.window**2
            ),
            "'pool' leaves one vector a frame, which can't be mixed with others'": self.base == POOL and self.mix > 1,
            "a record mixes 2 to 64 frames": not 1 <= self.mix <= 64,
            "the noise is 0.01 to 1000 times the clipping norm": not (self.noise == 0 or 0.01 <= self.noise <= 1000),
            "the clipping norm is 0.001 to 1000, and goes with noise": not (
                self.clip == 0 or 0.001 <= self.clip <= 1000
            )
            or (self.clip > 0 and not self.noise),
            "quantize takes 2 to 256 levels": self.quantize not in (0, *range(2, 257)),
        }
        if found := next((text for text, is_so in wrong.items() if is_so), None):
            raise InputError(f"no such released form: {found}")

    def __str__(self) -> str:
        parts = [f"window={self.window}" if self.window else self.base]
        if self.subset:
            parts.append(f"subset={self.subset}{',balanced' if self.balanced else ''}")
        if self.mix > 1:
            parts.append(f"mix={self.mix}")
        if self.noise:
            parts.append(f"noise={_number(self.noise)}{f',clip={_number(self.clip)}' if self.clip else ''}")
        if self.quantize:
            parts.append(f"quantize={self.quantize}")
        return " ".join(parts)

    @property
    def whole(self) -> bool:
        """Whether a record holds all that was recognized from one frame, unchanged but for quantization and order."""
        return not self.subset and self.mix == 1 and not self.noise

    @property
    def context(self) -> bool:
        """Whether the rows of a record are all of one frame's, so that what they say together says it of a frame."""
        return not self.subset and self.mix == 1

    @property
    def unparted(self) -> Form:
        """The same with all rows of one frame in a record: how a centre keeps frames whose images it holds anyway."""
        return replace(self, subset=0, balanced=False, mix=1)

    def unit(self, grid: int) -> int:
        """Rows that stay together, of a map of grid x grid positions: 1, a window's, or all of them."""
        return {POOL: 1, SET: 1, WINDOW: self.window**2, NONE: grid**2}[self.base]

    def rows_of_frame(self, grid: int) -> int:
        """Vectors that leave of one frame."""
        return 1 if self.base == POOL else self.subset or grid**2

    def rows(self, grid: int) -> int:
        """N, the vectors of a record: exactly so many."""
        return self.mix * self.rows_of_frame(grid)

    def check_grid(self, grid: int) -> None:
        """Refuse a form that a map of grid x grid positions can't be released in.

        Raises
        ------
        InputError
            What doesn't fit.
        """
        if self.window and grid % self.window:
            raise InputError(f"windows of {self.window} x {self.window} don't part a map of {grid} x {grid} positions")
        if self.subset > grid**2:
            raise InputError(f"a subset of {self.subset} vectors is more than the {grid**2} positions of the map")
        if self.rows(grid) > MAX_ROWS:
            raise InputError(f"a record of {self.rows(grid)} vectors is over the {MAX_ROWS} that one can have")

    def check_rows(self, *, own: bool) -> None:
        """Refuse a form that needs a row of targets for every vector, where there is only one for the whole frame.

        Parameters
        ----------
        own
            Whether every vector has its own row.

        Raises
        ------
        InputError
            Which part needs them.
        """
        if not own and (self.balanced or self.mix > 1):
            part = "mix" if self.mix > 1 else "balanced"
            raise InputError(f"'{part}' needs a result for every vector; here one belongs to the whole frame")

    def covered_by(self, allowed: Form) -> bool:
        """Whether it removes all that another form removes, or more."""
        if BASES.index(self.base) > BASES.index(allowed.base):
            return False
        if self.window and allowed.window and allowed.window % self.window:
            return False
        subset = not allowed.subset or (0 < self.subset <= allowed.subset and self.balanced == allowed.balanced)
        noise = self.noise >= allowed.noise and (not allowed.clip or 0 < self.clip <= allowed.clip)
        quantize = not allowed.quantize or 0 < self.quantize <= allowed.quantize
        return subset and self.mix >= allowed.mix and noise and quantize

    def words(self) -> tuple[str, ...]:
        """What is removed and what stays, one sentence a part, for people."""
        w = self.window
        bases = {
            POOL: "One vector for the whole frame: no places left.",
            SET: "One vector a place, sorted by value: which place is not told.",
            WINDOW: f"Vectors keep their places inside windows of {w} x {w}; where a window was is not told.",
            NONE: "Vectors in the map's order: every place is told.",
        }
        chosen = "half of them lesion where there is enough, " if self.balanced else ""
        modifiers = {
            f"{self.subset} vectors of a frame, {chosen}drawn by a secret key; the others don't leave.": self.subset,
            f"Vectors of {self.mix} frames of different patients in one record, with no pseudonym.": self.mix > 1,
            f"Vectors clipped to the norm {self.clip or '(chosen at founding)'}, then Gaussian noise of {self.noise} "
            "times it on every value.": self.noise,
            f"At most {self.quantize} levels a channel.": self.quantize,
        }
        return (bases[self.base], *(text for text, is_so in modifiers.items() if is_so))


@lru_cache(maxsize=256)
def parse_form(text: str) -> Form:
    """The form that a text says.

    Raises
    ------
    InputError
        It is not of the grammar, out of range, or written another way than the form's own text.
    """
    found = _TEXT.fullmatch(text) if len(text) <= MAX_TEXT else None
    if found is None:
        raise InputError(
            f"'{text[:MAX_TEXT]}' is no released form; write e.g. 'set', 'pool', 'window=2' or "
            "'set subset=64,balanced mix=4 noise=1.0 quantize=16', in this order"
        )
    part = found.groupdict()
    form = Form(
        "window" if part["window"] else found[1],
        window=int(part["window"] or 0),
        subset=int(part["subset"] or 0),
        balanced=part["balanced"] is not None,
        mix=int(part["mix"] or 1),
        noise=float(part["noise"] or 0),
        clip=float(part["clip"] or 0),
        quantize=int(part["quantize"] or 0),
    )
    if str(form) != text:
        raise InputError(f"'{text}' is written '{form}'")
    return form


def allows(entry: str, form: Form) -> bool:
    """Whether an entry of a site's list allows a form: itself, and what removes more; `window` is of any size."""
    return form.base != NONE if entry == WINDOW else form.covered_by(parse_form(entry))


def request_form(text: str) -> Form:
    """The form that a person asks for: as `parse_form`, the modifiers in any order, numbers as people write them.

    Raises
    ------
    InputError
        As `parse_form`.
    """
    base, *modifiers = text.split() or [""]
    order = ("subset", "mix", "noise", "quantize")
    places = {m: next((i for i, name in enumerate(order) if m.startswith(f"{name}=")), len(order)) for m in modifiers}
    parts = [re.sub(r"(noise=|clip=)([0-9]+)(?=,|$)", r"\1\2.0", m) for m in sorted(modifiers, key=places.__getitem__)]
    return parse_form(" ".join([base, *parts]))


def with_clip(form: Form, clip: float) -> Form:
    """The same with a clipping norm, rounded up to three digits that the text can say."""
    return replace(form, clip=max(0.001, round(clip + 0.0005, 3)))


def _number(value: float) -> str:
    text = f"{value:.6f}".rstrip("0")
    return f"{text}0" if text.endswith(".") else text
