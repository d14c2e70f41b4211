"""The report into the package: under its digests, and signed."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from featureloop.model.manifest import Manifest
from featureloop.model.package import Package, write_atomically
from featureloop.model.reseal import reseal
from featureloop.sharing.privacy import PAGE, PrivacyReport, report_file


def attach(view: Package, report: PrivacyReport, page: str, *, key: Ed25519PrivateKey | None = None) -> Package:
    """Put a report of one task and its page into the package's directory; what is raised is `reseal`'s."""

    def write(work: Path, manifest: Manifest) -> Manifest:
        write_atomically(work / report_file(view), report.to_json())
        write_atomically(work / report_file(view, PAGE), page.encode())
        return manifest

    return reseal(view, write, key=key)
