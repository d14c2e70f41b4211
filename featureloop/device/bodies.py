"""Bodies of records that are coded together, by the tables of the packages that this device has."""

from __future__ import annotations

from collections.abc import Sequence

from featureloop.core.errors import PackageError
from featureloop.device.state import DeviceState
from featureloop.model.manifest import Manifest
from featureloop.model.package import Package, load_package
from featureloop.sharing.policy import Sending
from featureloop.sharing.record import Record
from featureloop.sharing.together import to_together


class Bodies:
    """Codes the records of a body together (`sharing.together`).

    Records may wait from before an update, so a package that was taken over earlier is looked for in the device's
    state.

    Parameters
    ----------
    state
        Where packages that were taken over are.
    packages
        Others that this device works with.
    across
        Whether a set is coded after another one where that is shorter.
    """

    def __init__(self, state: DeviceState, *packages: Package, across: bool = False) -> None:
        self._state, self._across = state, across
        self._known: dict[bytes, Manifest | None] = {p.digest: p.manifest for p in packages}

    def __call__(self, records: Sequence[Record]) -> bytes:
        """One body of records; errors are those of `to_together`."""
        return to_together(records, self._manifest_of, across=self._across)

    def _manifest_of(self, digest: bytes) -> Manifest | None:
        if digest not in self._known:
            try:
                package = load_package(self._state.package_path(digest))
            except PackageError:
                return None  # It may be taken over later.
            self._known[digest] = package.manifest if package.digest == digest else None
        return self._known[digest]


def bodies_for(sending: Sending, state: DeviceState, *packages: Package) -> Bodies | None:
    """What codes records together, where the site's policy has it."""
    return Bodies(state, *packages, across=sending.across_frames) if sending.together else None
