"""Updates: fetch the live package of the line, check it whole, and swap it in at one instant.

A package is unpacked beside the others under a passing name, checked, flushed
to the disk, renamed to its digest, and only then named in `current`. Killed
between any two of these steps, the device still has the package it had.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from featureloop.core.errors import AuthError, PackageError, StorageError, TransportError
from featureloop.core.ports import Clock
from featureloop.device.exchange import TIMEOUT_S, bearer, check_url, exchange, opened
from featureloop.device.state import DeviceState, Identity, sync_folder
from featureloop.model.package import SIGNATURE, Package, load_package, pack, unpack, verify_signature, write_atomically

MAX_ARCHIVE = 512 << 20
_INCOMING = ".incoming-"
_LEFTOVERS = (_INCOMING, ".unpack-")
_LEFTOVER_AGE_S = 3_600.0


def poll_update(
    state: DeviceState,
    identity: Identity,
    *,
    client: httpx.Client | None = None,
    current: Package,
    timeout: float = TIMEOUT_S,
    max_bytes: int = MAX_ARCHIVE,
    allow_plain_http: bool = False,
    clock: Clock = time.time,
) -> Package | None:
    """Take the learner's live package over, where it is another one than the current.

    Parameters
    ----------
    state
        The device's directory.
    identity
        Which learner is asked, and whose signature is trusted.
    client
        Settings such as certificates; None for httpx's defaults.
    current
        The package in use. The new one has its extractor and its task.
    timeout
        Seconds for each step of the network.
    max_bytes
        A longer archive is refused unread.
    allow_plain_http
        Send the token in clear to another machine.
    clock
        Seconds since the epoch.

    Returns
    -------
    Package or None
        The package that is now current; None where there is none or no other.

    Raises
    ------
    TransportError
        The learner can't be reached, or answers nonsense. The current package stays.
    AuthError
        It refuses this device, or no trusted key signed the package. The current package stays.
    PackageError
        What it sent is no package, or of another line or task. The current package stays.
    StorageError
        The disk is full or can't be written. The current package stays.
    """
    archive = _fetch(
        identity,
        client=client,
        current=current,
        timeout=timeout,
        max_bytes=max_bytes,
        allow_plain_http=allow_plain_http,
        clock=clock,
    )
    if archive is None:
        return None
    with _unpacked(state, archive, clock=clock) as incoming:
        if incoming.digest == current.digest:
            return None
        verify_signature(incoming, identity.public_keys())
        _same_line(incoming, current)
        taken = _keep(state, incoming)
    state.set_current(taken.digest)
    return taken


def install(state: DeviceState, package: Package, *, clock: Clock = time.time) -> Package:
    """Copy a package that the operator named into the device's directory, and make it the current one.

    Raises
    ------
    PackageError
        A file was changed since it was loaded.
    StorageError
        The disk is full or can't be written.
    """
    with _unpacked(state, pack(package), clock=clock) as incoming:
        kept = _keep(state, incoming)
    state.set_current(kept.digest)
    return kept


def _fetch(
    identity: Identity,
    *,
    client: httpx.Client | None,
    current: Package,
    timeout: float,
    max_bytes: int,
    allow_plain_http: bool,
    clock: Clock,
) -> bytes | None:
    """The live package's archive; None where there is none, or it is the current one."""
    url = check_url(identity.learner, allow_plain_http=allow_plain_http) + "/v1/packages/live"
    headers = {**bearer(identity), "If-None-Match": f'"{current.digest.hex()}"'}
    with opened(client, timeout=timeout) as http:
        answer = exchange(
            http,
            "GET",
            url,
            headers=headers,
            params={"line": current.line},
            timeout=timeout,
            max_bytes=max_bytes,
            clock=clock,
        )
    if answer.status in (304, 404):
        return None
    if answer.status != 200:
        error = answer.error()
        raise error if isinstance(error, (AuthError, TransportError)) else TransportError(str(error))
    return answer.body


@contextmanager
def _unpacked(state: DeviceState, archive: bytes, *, clock: Clock) -> Iterator[Package]:
    """The archive's package under a passing name, which is gone at the end."""
    _sweep(state.packages, before=clock() - _LEFTOVER_AGE_S)
    work = None
    try:
        state.packages.mkdir(mode=0o700, parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=state.packages))
        yield _unpack(archive, work / "package")
    except OSError as error:
        raise StorageError(f"'{state.packages}' can't be written: {error}; free some space") from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def _unpack(archive: bytes, into: Path) -> Package:
    try:
        return unpack(archive, into)
    except (zlib.error, ValueError, RecursionError) as error:
        # A stream that is damaged in the middle fails in zlib, hostile offsets and deep JSON in their parsers.
        raise PackageError(f"the package archive is damaged: {error}; it will be fetched again") from error


def _same_line(incoming: Package, current: Package) -> None:
    if incoming.extractor_digest != current.extractor_digest:
        raise PackageError(
            f"package {incoming.short} has extractor {incoming.line[:12]}, this device's line is {current.line[:12]}; "
            "another line isn't taken over by itself: install it with --package"
        )
    if missing := [task for task in current.manifest.tasks if task not in incoming.manifest.tasks]:
        raise PackageError(
            f"package {incoming.short} is for {', '.join(incoming.manifest.tasks)}, and no more for "
            f"{', '.join(missing)}; ask the learner's operator"
        )


def _keep(state: DeviceState, incoming: Package) -> Package:
    """Flush a checked package to the disk, and rename it to its digest."""
    target = state.package_path(incoming.digest)
    if not _is_whole(target, incoming.digest):
        for path in sorted(incoming.path.rglob("*"), reverse=True):
            _flush(path)
        _flush(incoming.path)
        if target.exists():
            shutil.rmtree(target)
        incoming.path.rename(target)
        sync_folder(state.packages)
    elif incoming.file(SIGNATURE).is_file():
        # The digest doesn't cover the signature, so the one that was checked replaces the one that was here.
        write_atomically(target / SIGNATURE, incoming.file(SIGNATURE).read_bytes())
    return Package(target, incoming.manifest, incoming.digest)


def _is_whole(path: Path, digest: bytes) -> bool:
    try:
        return load_package(path).digest == digest
    except PackageError:
        return False


def _flush(path: Path) -> None:
    if path.is_dir():
        sync_folder(path)
        return
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sweep(packages: Path, *, before: float) -> None:
    """Remove what a killed update left; a younger one may be another process's, at work."""
    if not packages.is_dir():
        return
    for path in packages.iterdir():
        if path.name.startswith(_LEFTOVERS) and path.stat().st_mtime < before:
            shutil.rmtree(path, ignore_errors=True)
