"""What a device provided or asked about lately, in memory: what is like it need not leave, what is new teaches most."""

from __future__ import annotations

import threading
from collections.abc import Hashable

from featureloop.core.types import Float32, Recognition
from featureloop.model.manifest import Manifest
from featureloop.sharing.near import Look, NearDuplicates, look_of
from featureloop.sharing.policy import Policy


class Seen:
    """The looks of what was provided, by task; any threads may ask at once.

    Parameters
    ----------
    policy
        Says how alike near-duplicates are, and whether there is a budget that makes it matter how new a frame is.
    """

    def __init__(self, policy: Policy) -> None:
        self._share = policy.share.near_duplicates
        self._budget = policy.limits.bytes_per_day > 0
        self._lock = threading.Lock()
        self._known: dict[str, NearDuplicates] = {}

    def look(self, vectors: Float32, recognition: Recognition, manifest: Manifest) -> Look | None:
        """What a frame is known by; None where nobody will ask, or the package can't tell what is alike.

        Raises
        ------
        RecordError
            A value is not finite or outside its channel's bounds.
        """
        if not (self._share or self._budget) or not manifest.released.usually_apart:
            return None
        return look_of(vectors, recognition, manifest.released)

    def is_near(self, look: Look | None, group: str, manifest: Manifest) -> bool:
        """Whether one like it was kept of its group."""
        if look is None:
            return False
        with self._lock:
            return self._of(manifest).is_near(look, group)

    def keep(self, look: Look | None, group: str, manifest: Manifest, *, name: Hashable) -> None:
        """Remember a frame by a name; the same name is not remembered twice."""
        if look is None:
            return
        with self._lock:
            self._of(manifest).keep(look, group, name=name)

    def newness(self, look: Look | None, group: str, manifest: Manifest, *, name: Hashable) -> float:
        """How far a frame is from the nearest other one that was kept, of what is usual between groups, in [0, 1].

        1 where none was kept, the package can't tell, or all leave anyhow.
        """
        if look is None or not self._budget:
            return 1.0
        with self._lock:
            apart = self._of(manifest).nearest(look, group, but=name)
        return 1.0 if apart is None else min(1.0, apart / manifest.released.usually_apart)

    def _of(self, manifest: Manifest) -> NearDuplicates:
        made = NearDuplicates(self._share, manifest.released.usually_apart)
        return self._known.setdefault(manifest.task, made)
