"""How an attacker learns to tell records of one patient: what it knows, what it searches, and what it chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featureloop.audit.material import LEAST_GROUPS
from featureloop.audit.metric import WHITENED, Head, Reduced, cosine, embed, train_head, whitening
from featureloop.audit.retrieval import Search, top1
from featureloop.core.ports import Progress
from featureloop.core.types import Float32


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What an attacker learns from: descriptors of its records and of takes of them.

    Attributes
    ----------
    base
        Of its records, float32 (M, D) each.
    takes
        Of their takes, the mildest first.
    groups, take_groups
        str (M,), the patient of each record and of each take.
    """

    base: Mapping[str, Float32]
    takes: tuple[Mapping[str, Float32], ...]
    groups: NDArray[np.str_]
    take_groups: tuple[NDArray[np.str_], ...]

    def only(self, names: NDArray[np.str_]) -> Known:
        """Of some patients."""
        kept, others = np.isin(self.groups, names), [np.isin(g, names) for g in self.take_groups]
        return Known(
            {k: d[kept] for k, d in self.base.items()},
            tuple({k: d[o] for k, d in t.items()} for t, o in zip(self.takes, others, strict=True)),
            self.groups[kept],
            tuple(g[o] for g, o in zip(self.take_groups, others, strict=True)),
        )

    @property
    def patients(self) -> NDArray[np.str_]:
        """Their names."""
        return np.unique(self.groups)


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What is searched: the queries' and the gallery's descriptors, and what is right.

    Attributes
    ----------
    queries
        None where the gallery's own records are the queries.
    """

    gallery: Mapping[str, Float32]
    search: Search
    queries: Mapping[str, Float32] | None = None

    @property
    def asked(self) -> Mapping[str, Float32]:
        """The queries' descriptors."""
        return self.gallery if self.queries is None else self.queries


@dataclass(frozen=True, slots=True, eq=False)
class Attacker:
    """Ways to compare, as one attacker chose and trained them on its own images.

    Attributes
    ----------
    variant
        The descriptor and the number of its whitened components that are compared by cosine.
    reduced, head
        What was trained.
    own
        Top-1 on the attacker's own images of every variant that was tried.
    """

    variant: tuple[str, int]
    reduced: Reduced
    head: Head
    own: Mapping[tuple[str, int], float]

    def similarities(self, target: Target) -> dict[str, Float32]:
        """Float32 (Q, R) by whom."""
        name, components = self.variant
        plain = by_cosine(target, name, components)
        headed = by_head(self.head, self.reduced, target)
        return {"cosine": plain, "siamese head": headed, "both": _scaled(plain) + _scaled(headed)}


def mated(groups: NDArray[np.str_]) -> list[str]:
    """Patients with at least two frames."""
    names, counts = np.unique(groups, return_counts=True)
    return [str(n) for n in names[counts > 1]]


def prepare(known: Known, *, steps: int, seed: int, progress: Progress) -> Attacker:
    """Choose a descriptor and its whitening on the attacker's own images, and train the head on all of them."""
    search = own_target(known)
    tried = {
        (name, k): top1(by_cosine(search, name, k), search.search)
        for name in known.base
        for k in WHITENED
        if whitening(known.base[name], k) is not None
    }
    variant = max(tried, key=lambda v: tried[v])
    reduced = Reduced(known.base)
    head = _trained(known, reduced, steps=steps, seed=seed, progress=progress)
    return Attacker(variant, reduced, head, tried)


def own_target(known: Known) -> Target:
    """The attacker's own images as what it searches: its patients' other frames, or its frames' hardest takes."""
    if len(mated(known.groups)) >= LEAST_GROUPS:
        return Target(known.base, search_of([{g} for g in known.groups]))
    return Target(
        known.base,
        search_of([{g} for g in known.take_groups[-1]], [{g} for g in known.groups]),
        known.takes[-1],
    )


def search_of(queries: Sequence[set[str]], gallery: Sequence[set[str]] | None = None) -> Search:
    """Who is right: records that share a patient; without a gallery the queries are searched, none finds itself."""
    others = queries if gallery is None else gallery
    names = sorted(set().union(*queries, *others))
    column = {n: i for i, n in enumerate(names)}
    a, b = (np.zeros((len(side), len(names)), np.float32) for side in (queries, others))
    for table, side in ((a, queries), (b, others)):
        for i, own in enumerate(side):
            table[i, [column[n] for n in own]] = 1
    allowed = np.ones((len(a), len(b)), bool) if gallery is not None else ~np.eye(len(a), dtype=bool)
    return Search(a @ b.T > 0, allowed, np.array([min(q) for q in queries]))


def by_cosine(target: Target, name: str, components: int) -> Float32:
    """Cosines of one descriptor, whitened by the gallery's own."""
    gallery = target.gallery[name]
    fewer = sorted((k for k in WHITENED if k <= components), reverse=True)
    way = next(w for k in fewer if (w := whitening(gallery, k)) is not None)
    return cosine(way(target.asked[name]), way(gallery))


def by_head(head: Head, reduced: Reduced, target: Target) -> Float32:
    """Cosines of a trained head's embeddings."""
    embedded = [embed(head, reduced(d, site=target.gallery)) for d in (target.asked, target.gallery)]
    return cosine(embedded[0], embedded[1])


def _trained(known: Known, reduced: Reduced, *, steps: int, seed: int, progress: Progress) -> Head:
    parts = [reduced(d, site=known.base) for d in (known.base, *known.takes)]
    groups = np.concatenate([known.groups, *known.take_groups])
    labels = np.unique(groups, return_inverse=True)[1]
    return train_head(np.concatenate(parts), labels, steps=steps, seed=seed, progress=progress)


def _scaled(similarity: Float32) -> Float32:
    return np.asarray((similarity - similarity.mean()) / (similarity.std() + 1e-9), np.float32)
