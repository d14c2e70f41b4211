"""What the attacks work on: two hospitals' images, what leaves of them, and the controls.

The attacker holds the package and images of its own; the victims are other
patients. What is attacked went through the very bytes that leave: quantized,
put in canonical order, coded, and decoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from featureloop.audit.shallow import shallow_session
from featureloop.core.ahead import work_ahead
from featureloop.core.errors import InputError
from featureloop.core.ports import Progress, silent
from featureloop.core.types import Bag, Float32, Frame, Skipped, UInt8
from featureloop.images.sidecar import look_up
from featureloop.model.package import Package
from featureloop.model.preprocess import resize_frame, to_input
from featureloop.model.runtime import Runtime
from featureloop.sharing import codec
from featureloop.sharing.anonymize import release_vectors
from featureloop.sharing.mixing import Mixer
from featureloop.sharing.release import coded, decoded, joined, part_of
from featureloop.sharing.view import positions_in_view

T = TypeVar("T")
Attributes = Mapping[str, Mapping[str, str]]
"""Of each image the values that are known, by name (`images.sidecar.read_attributes`)."""
LEAST_GROUPS = 4
DRAWS = 5
"""How often the victims' frames are released where chance decides what of a frame leaves."""
HOLDERS_DRAW = 2 * DRAWS
"""Of an attacker who holds a victim's image: without the site's key it draws others of its rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Release:
    """What leaves of one frame, or of the frames that share a record, decoded from its bytes.

    Attributes
    ----------
    values
        float32 (N, C): the position vectors, or the one pooled vector.
    rows
        uint8 (N, T) or (1, T): the recognition that goes along.
    payload
        Bytes of the coded features and rows.
    frames
        Numbers of the frames that are in it.
    """

    values: Float32
    rows: UInt8
    payload: int
    frames: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Party:
    """A hospital's frames, at the extractor's input size.

    Attributes
    ----------
    frames
        Pixels uint8 (S, S, 3), with what is known of them.
    groups
        str (M,), the patient or examination of each; a frame without one is its own.
    attributes
        What a table says of its images.
    near_duplicates
        Of frames of one patient nearer than this share only the first is there (`audit.provided`); 0: all are.
    """

    frames: tuple[Frame, ...]
    groups: NDArray[np.str_]
    attributes: Attributes = field(default_factory=dict)
    near_duplicates: float = 0.0

    def __len__(self) -> int:
        return len(self.frames)

    def only(self, chosen: NDArray[np.intp]) -> Party:
        """Some of the frames, by number."""
        return replace(self, frames=tuple(self.frames[i] for i in chosen), groups=self.groups[chosen])

    def thinned(self, most: int, *, seed: int = 1) -> Party:
        """About `most` of the frames, of which every group keeps about its share; all where there are no more."""
        if len(self) <= most:
            return self
        # Evenly over the groups' own order keeps neighbours of one examination together.
        rng = np.random.default_rng(seed)
        chosen: list[int] = []
        for name in np.unique(self.groups):
            own = np.flatnonzero(self.groups == name)
            share = len(own) * most / len(self)
            keep = int(share) + int(rng.random() < share % 1)
            chosen += own[np.linspace(0, len(own) - 1, keep).round().astype(int)].tolist() if keep else []
        return self.only(np.array(sorted(chosen)))

    def said(self, number: int) -> Mapping[str, str]:
        """What the table says of one frame; nothing where it doesn't name it."""
        return look_up(self.attributes, self.frames[number].name) or {}

    def pixels(self, size: int) -> UInt8:
        """All frames as pictures, uint8 (M, size, size, 3)."""
        return np.stack([resize_frame(f.pixels, size) for f in self.frames])


def party(
    frames: Iterable[Frame | Skipped],
    *,
    size: int,
    most: int | None = None,
    attributes: Attributes | None = None,
    seed: int = 1,
) -> tuple[Party, list[Skipped]]:
    """Frames as a party, and what was unreadable; at most `most` frames, of which every group keeps about its share.

    Raises
    ------
    InputError
        Too few frames or groups can be used.
    """
    bad: list[Skipped] = []
    good: list[Frame] = []
    for f in frames:  # One after the other: only the small ones stay in memory.
        if isinstance(f, Skipped):
            bad.append(f)
        else:
            good.append(replace(f, pixels=resize_frame(f.pixels, size)))
    groups = np.array([f.group or f"{f.name}#{f.index}" for f in good])
    count = len(set(groups.tolist()))
    if count < LEAST_GROUPS:
        raise InputError(
            f"{len(good)} readable frames of {count} patients are too few to attack; give images of at least "
            f"{LEAST_GROUPS} patients (groups.csv says whose an image is)"
        )
    whole = Party(tuple(good), groups, attributes or {})
    return (whole if most is None else whole.thinned(most, seed=seed)), bad


class Lab:
    """A package of one task, the two parties, and all that is made of their frames.

    Parameters
    ----------
    outsiders
        Frames like those that the package was founded on, labelled for its task, that no training saw.
    """

    def __init__(
        self,
        package: Package,
        attacker: Party,
        victims: Party,
        *,
        outsiders: Party | None = None,
        seed: int = 1,
        progress: Progress = silent,
    ) -> None:
        shared = set(attacker.groups.tolist()) & set(victims.groups.tolist())
        if shared:
            raise InputError(
                f"patients are on both sides, among them {sorted(shared)[0]!r}: an attack must not know them"
            )
        self.package, self.attacker, self.victims, self.outsiders = package, attacker, victims, outsiders
        self.seed, self.progress = seed, progress
        self.learned: dict[str, Any] = {}  # What one attack learned, and another may use.
        self.runtime = Runtime(package, threads=1)

    @property
    def size(self) -> int:
        """Pixels per side of the extractor's input."""
        return self.package.manifest.preprocessing.size

    @property
    def unit(self) -> int:
        """Rows of a record that stay together as they stood (`Form.unit`)."""
        return self.package.manifest.released.form.unit(self.package.manifest.features.grid)

    def release(self, frames: Sequence[Frame], *, what: str = "releases", draw: int = 0) -> list[Release]:
        """What leaves of frames, through the very bytes; where frames share a record, some may be left over.

        Parameters
        ----------
        draw
            Of the key by which chance decides what of a frame leaves: another number, another key.
        """
        return self.releases(frames, what=what, draws=(draw,))[0]

    def releases(self, frames: Sequence[Frame], *, what: str, draws: Sequence[int]) -> list[list[Release]]:
        """`release` with each of several keys."""
        out: list[list[Release]] = [[] for _ in draws]
        mixers: list[Mixer[Bag]] = [Mixer(self.package.manifest.released.form.mix) for _ in draws]

        def seen(frame: Frame) -> tuple[Float32, UInt8]:
            vectors = release_vectors(self.runtime.extract(frame.pixels), self.package.manifest.released)
            return vectors, self.runtime.recognize(vectors).targets()

        for i, (frame, (vectors, recognized)) in enumerate(zip(frames, self._each(seen, frames, what), strict=True)):
            for draw, mixer, own in zip(draws, mixers, out, strict=True):
                part = self._part(frame, vectors, recognized, draw)
                together = mixer.put(i, part, group=frame.group or f"{frame.name}#{frame.index}")
                if together:
                    own.append(self._release(together))
                mixer.drop(together)
        return out

    def _each(self, work: Callable[[Frame], T], frames: Sequence[Frame], what: str) -> Iterator[T]:
        """`work` of every frame in their order, as many at once as there are cores."""
        at_once = self.runtime.at_once
        for i, found in enumerate(work_ahead(frames, work, at_once=at_once, ahead=at_once)):
            yield found
            self.progress(what, i + 1, len(frames))

    def _part(self, frame: Frame, vectors: Float32, recognized: UInt8, draw: int) -> Bag:
        released, grid = self.package.manifest.released, self.package.manifest.features.grid
        return part_of(
            vectors,
            recognized,
            released=released,
            grid=grid,
            view=positions_in_view(frame.pixels, grid) if released.form.subset else None,
            secret=b"the victims' key %d, drawn by seed %d" % (draw, self.seed),
        )

    def _release(self, parts: Mapping[Hashable, Bag]) -> Release:
        manifest = self.package.manifest
        bag = joined(list(parts.values()), released=manifest.released, grid=manifest.features.grid)
        payload = coded(bag, manifest.released)
        left = decoded(payload.features, payload.recognition, None, manifest)
        size = len(payload.features) + len(payload.recognition)
        return Release(
            codec.dequantize(left.symbols, manifest.released), left.recognized, size, tuple(int(str(i)) for i in parts)
        )

    @cached_property
    def mine(self) -> list[Release]:
        """What leaves of the attacker's own frames."""
        return self.release(self.attacker.frames, what="the attacker's releases")

    @property
    def draws(self) -> range:
        """Keys by which victims' frames are released: one, and where chance decides what of a frame leaves, several.

        An attacker sees one of them. What it finds is taken from all, since one draw says little of a few rows.
        """
        form = self.package.manifest.released.form
        return range(DRAWS if (form.subset or form.noise) and form.mix == 1 else 1)

    @cached_property
    def their_draws(self) -> list[list[Release]]:
        """What leaves of the victims' frames, by each of `draws`."""
        return self.releases(self.victims.frames, what="the victims' releases", draws=self.draws)

    @property
    def theirs(self) -> list[Release]:
        """What leaves of the victims' frames, the first of `their_draws`."""
        return self.their_draws[0]

    def ordered(self, frames: Sequence[Frame], *, what: str = "maps") -> Float32:
        """The extractor's maps before coordinates are removed: float32 (M, G * G, C) in the map's order."""
        return np.stack(list(self._each(lambda f: self.runtime.extract(f.pixels), frames, what)))

    @cached_property
    def _shallow(self) -> Any:
        return shallow_session(self.package)

    def shallow(self, frames: Sequence[Frame], *, what: str = "control") -> Float32:
        """The positive control: an ordered map of the extractor's first layers, float32 (M, C, h, w)."""
        session = self._shallow
        name, preprocessing = session.get_inputs()[0].name, self.package.manifest.preprocessing

        def seen(frame: Frame) -> Float32:
            found: Float32 = session.run(None, {name: to_input(frame.pixels, preprocessing)})[0][0]
            return found

        return np.stack(list(self._each(seen, frames, what))).astype(np.float32, copy=False)

    def random(self, releases: Sequence[Release], *, seed: int) -> list[Release]:
        """The negative control: releases of the same shapes, every value drawn from its channel's, of no frame."""
        rng = np.random.default_rng((self.seed, seed))
        pool = np.concatenate([r.values for r in releases])
        out = []
        for r in releases:
            drawn = rng.integers(0, len(pool), r.values.shape)
            values = np.take_along_axis(pool, drawn, axis=0)
            out.append(replace(r, values=values, rows=np.zeros_like(r.rows)))
        return out


def split_party(whole: Party, *, share: float = 0.5, seed: int = 1) -> tuple[Party, Party]:
    """Two parties without a common patient: `share` of the groups attack, the others are the victims."""
    names = np.unique(whole.groups)
    drawn = np.random.default_rng(seed).permutation(names)[: max(1, round(share * len(names)))]
    mine = np.isin(whole.groups, drawn)
    return whole.only(np.flatnonzero(mine)), whole.only(np.flatnonzero(~mine))
