"""A package changed in its place: complete under a new digest before it takes the old one's directory."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from featureloop.core.errors import PackageError, StorageError
from featureloop.model.manifest import Manifest
from featureloop.model.package import SIGNATURE, Package, load_package, seal_package, sign_package


def check_resealable(package: Package, key: Ed25519PrivateKey | None) -> None:
    """Refuse to change a package that somebody signed, without a key to sign it again.

    Raises
    ------
    PackageError
        It is signed and there is no key.
    """
    if package.file(SIGNATURE).exists() and key is None:
        raise PackageError(
            f"package {package.short} is signed, and this changes it; give the signing key with --key, or do it to "
            "the founding package before a learner takes it over"
        )


def reseal(
    package: Package, change: Callable[[Path, Manifest], Manifest], *, key: Ed25519PrivateKey | None = None
) -> Package:
    """Change a package's files and manifest in its directory, which changes its digest; sign it with a key.

    The new package is complete before it takes the old one's place; a kill between the two renames leaves both
    beside it, in a directory whose name begins with a dot.

    Parameters
    ----------
    change
        Writes into a copy of the directory, and gives the whole package's new manifest; the old one is given to it.

    Raises
    ------
    PackageError
        It is signed and there is no key.
    StorageError
        The directory can't be written.
    """
    check_resealable(package, key)
    folder = package.path
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as place:
            work = Path(place) / "package"
            shutil.copytree(folder, work, ignore=shutil.ignore_patterns(SIGNATURE))
            manifest = change(work, replace(load_package(folder).manifest, files={}))
            sealed = seal_package(work, manifest)
            if key is not None:
                sign_package(sealed, key)
            folder.rename(Path(place) / "before")
            work.rename(folder)
    except OSError as error:
        raise StorageError(f"the package '{folder}' can't be changed: {error}; free some space") from error
    return Package(folder, sealed.manifest, sealed.digest)
