"""The report into the package: under its digests, and signed."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from featureloop.core.errors import PackageError, StorageError
from featureloop.model.package import SIGNATURE, Package, load_package, seal_package, sign_package, write_atomically
from featureloop.sharing.privacy import PAGE, PrivacyReport, report_file


def check_attachable(package: Package, key: Ed25519PrivateKey | None) -> None:
    """Refuse to change a package that somebody signed, without a key to sign it again.

    Raises
    ------
    PackageError
        It is signed and there is no key.
    """
    if package.file(SIGNATURE).exists() and key is None:
        raise PackageError(
            f"package {package.short} is signed, and a report changes it; give the signing key with --key, or audit "
            "the founding package before a learner takes it over"
        )


def attach(view: Package, report: PrivacyReport, page: str, *, key: Ed25519PrivateKey | None = None) -> Package:
    """Put a report of one task and its page into the package's directory, which changes its digest; sign it with a key.

    The new package is complete before it takes the old one's place; a kill between the two renames leaves both
    beside it, in a directory whose name begins with a dot.

    Raises
    ------
    PackageError
        It is signed and there is no key.
    StorageError
        The directory can't be written.
    """
    check_attachable(view, key)
    folder = view.path
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as place:
            work = Path(place) / "package"
            shutil.copytree(folder, work, ignore=shutil.ignore_patterns(SIGNATURE))
            write_atomically(work / report_file(view), report.to_json())
            write_atomically(work / report_file(view, PAGE), page.encode())
            manifest = replace(load_package(folder).manifest, files={})
            sealed = seal_package(work, manifest)
            if key is not None:
                sign_package(sealed, key)
            folder.rename(Path(place) / "before")
            work.rename(folder)
    except OSError as error:
        raise StorageError(f"the report can't be put into '{folder}': {error}; free some space") from error
    return Package(folder, sealed.manifest, sealed.digest)
