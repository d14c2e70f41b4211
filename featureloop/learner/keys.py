"""Signing keys: every key in `keys/*.pem` is announced to the devices, the newest signs.

To rotate: `rotate()` adds a key. Devices that enroll from then on trust both;
remove the old file once all devices know the new key.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from featureloop.core.errors import StorageError
from featureloop.core.ports import Clock
from featureloop.learner.locks import exclusive
from featureloop.model.package import write_atomically

FIRST = "signing.pem"


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The learner's Ed25519 keys, read from the disk when they are asked for.

    Attributes
    ----------
    path
        Their folder (mode 0700); it and a first key are made on first use.
    clock
        Seconds since the epoch; it names new keys.
    """

    path: Path
    clock: Clock = field(default=time.time, compare=False)

    def signing(self) -> Ed25519PrivateKey:
        """The newest key, by its file's time.

        Raises
        ------
        StorageError
            A file is no Ed25519 key, can't be read, or is readable by other users.
        """
        return load_key(self._files()[-1])

    def public(self) -> tuple[Ed25519PublicKey, ...]:
        """All keys' public halves, the newest first."""
        return tuple(load_key(p).public_key() for p in reversed(self._files()))

    def rotate(self) -> Ed25519PublicKey:
        """Make a new key, which signs from now on; return its public half."""
        stamp = datetime.fromtimestamp(self.clock(), UTC).strftime("%Y%m%dT%H%M%S%fZ")
        path = self.path / f"signing-{stamp}.pem"
        newest = max((p.stat().st_mtime_ns for p in self._files()), default=0)
        _make(path)
        if path.stat().st_mtime_ns <= newest:
            # Two keys within one tick of the file system's clock would leave open which one signs.
            os.utime(path, ns=(newest + 1_000, newest + 1_000))
        return load_key(path).public_key()

    def _files(self) -> list[Path]:
        """All keys' files, the newest last; at least one."""
        if not any(self.path.glob("*.pem")):
            _make(self.path / FIRST)
        return sorted(self.path.glob("*.pem"), key=lambda p: (p.stat().st_mtime_ns, p.name))


def _make(path: Path) -> None:
    """Write a new key; the one that another process made meanwhile stays."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the keys' folder '{path.parent}' can't be made: {error}; check its parent") from error
    with exclusive(path.parent / ".lock"):
        if not path.exists():
            pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            write_atomically(path, pem, mode=0o600)


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read a signing key.

    Raises
    ------
    StorageError
        The file is no Ed25519 key, can't be read, or is readable by other users.
    """
    try:
        mode = path.stat().st_mode
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise StorageError(f"'{path}' is no unencrypted PEM key ({error}); restore it or remove it") from error
    except OSError as error:
        raise StorageError(f"the signing key '{path}' can't be read: {error}; check its permissions") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise StorageError(f"'{path}' holds no Ed25519 key; only such keys sign packages, remove it")
    if mode & 0o077:
        raise StorageError(f"other users can read the signing key '{path}' (mode {mode & 0o777:o}); chmod 600 it")
    return key
