"""The device's own directory: who it is, its secret key, its outbox, its packages.

Layout::

    identity.json     learner, site, device, token, trusted keys (mode 0600)
    site.key          32 random bytes that never leave the site (mode 0600)
    group.keys/N      the same, made by rotating the pseudonyms' key; the last one is in use, all are kept for erasure
    outbox.sqlite     see `outbox`
    sharing.json      whether sharing is switched on, see `switch`; audit.jsonl says who switched
    packages/HEX/     packages by digest
    current           the digest of the package in use
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from featureloop.core.errors import AuthError, PackageError, StorageError
from featureloop.model.package import Package, load_package, write_atomically
from featureloop.sharing.policy import Rotation
from featureloop.sharing.record import ENROLLED_ID

KEY_BYTES = 32
PSEUDONYM_BYTES = 16

_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")
_URL = re.compile(r"https?://.")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_GROUP_LABEL = b"featureloop.group/1"
_FRAME_LABEL = b"featureloop.frame/1"
_RELEASE_LABEL = b"featureloop.release/1"
_TURN_LABEL = b"featureloop.turn/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What enrolment gave the device.

    Attributes
    ----------
    learner
        URL of the learner, without a trailing slash.
    site, device
        Enrolled ids.
    token
        The device's secret; it is never shown.
    keys
        Trusted raw Ed25519 public keys, 32 bytes each, at least one.

    Raises
    ------
    ValueError
        A value can't be what it is declared to be.
    """

    learner: str
    site: str
    device: str
    token: str = field(repr=False)
    keys: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not _URL.match(self.learner):
            raise ValueError(f"learner {self.learner!r:.60} is no URL")
        for name in ("site", "device"):
            if not ENROLLED_ID.fullmatch(getattr(self, name)):
                raise ValueError(f"{name} {getattr(self, name)!r:.60} is no enrolled id")
        if not _TOKEN.fullmatch(self.token):
            raise ValueError("the token is empty, too long or holds characters that no header can")
        if not self.keys or any(len(k) != KEY_BYTES for k in self.keys):
            raise ValueError(f"trusted keys of {[len(k) for k in self.keys]} bytes; each has {KEY_BYTES}")

    def public_keys(self) -> tuple[Ed25519PublicKey, ...]:
        """The trusted keys, for `verify_signature`."""
        return tuple(Ed25519PublicKey.from_public_bytes(k) for k in self.keys)


@dataclass(frozen=True, slots=True)
class DeviceState:
    """The files in one device's directory; nothing is read before it is asked for.

    Attributes
    ----------
    path
        The directory; it is made by the first write (mode 0700).
    """

    path: Path

    @property
    def outbox(self) -> Path:
        """The outbox's file."""
        return self.path / "outbox.sqlite"

    @property
    def packages(self) -> Path:
        """The folder of packages by digest."""
        return self.path / "packages"

    def package_path(self, digest: bytes) -> Path:
        """Where the package of this digest (32 bytes) is kept."""
        return self.packages / digest.hex()

    def load_identity(self) -> Identity:
        """Who this device is.

        Raises
        ------
        AuthError
            It isn't enrolled, or `identity.json` is damaged.
        """
        path = self.path / "identity.json"
        try:
            data = json.loads(path.read_bytes())
            keys = tuple(base64.b64decode(k, validate=True) for k in data["keys"])
            texts = {name: data[name] for name in ("learner", "site", "device", "token")}
            return Identity(**texts, keys=keys)
        except FileNotFoundError as error:
            raise AuthError(f"this device isn't enrolled ('{path}' is missing): {_ENROLL}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise AuthError(f"'{path}' is damaged ({error!r}): {_ENROLL}") from error
        except OSError as error:
            raise StorageError(f"'{path}' can't be read: {error}; check its permissions") from error

    def save_identity(self, identity: Identity) -> None:
        """Keep what enrolment gave, readable by this user only."""
        self._make()
        text = {
            "learner": identity.learner,
            "site": identity.site,
            "device": identity.device,
            "token": identity.token,
            "keys": [base64.b64encode(k).decode() for k in identity.keys],
        }
        write_atomically(self.path / "identity.json", json.dumps(text, indent=1).encode(), mode=0o600)

    def site_key(self) -> bytes:
        """The secret of 32 bytes behind all pseudonyms, made on first use.

        Raises
        ------
        StorageError
            It can't be made or read, or isn't 32 bytes long.
        """
        return self._key(self.path / "site.key")

    def group_keys(self) -> tuple[bytes, ...]:
        """The secrets behind groups' pseudonyms, the one in use first; the last is the site's key.

        Raises
        ------
        StorageError
            One of them can't be read, or isn't 32 bytes long.
        """
        return (*(self._key(path) for path in reversed(self._rotated())), self.site_key())

    def rotate_key(self) -> int:
        """Make a new key for pseudonyms, and return how many there are now.

        What was recognized before and what frames are done hang on the site's key, which stays.

        Raises
        ------
        StorageError
            It can't be made.
        """
        self.site_key()
        number = len(self._rotated()) + 1
        self._key(self.path / "group.keys" / f"{number:06d}")
        return number + 1

    def _rotated(self) -> list[Path]:
        try:
            return sorted(p for p in (self.path / "group.keys").glob("*") if p.name.isdigit())
        except OSError as error:
            raise StorageError(f"the keys in '{self.path}' can't be listed: {error}") from error

    def _key(self, path: Path) -> bytes:
        try:
            if not path.exists():
                self._make()
                path.parent.mkdir(mode=0o700, exist_ok=True)
                self._make_key(path)
            key = path.read_bytes()
        except OSError as error:
            raise StorageError(f"'{path}' can't be made or read: {error}; check the permissions") from error
        if len(key) != KEY_BYTES:
            raise StorageError(
                f"'{path}' has {len(key)} bytes, not {KEY_BYTES}: restore it from a backup; "
                "with a new key, known patients would get new pseudonyms"
            )
        return key

    def current_package(self) -> Package | None:
        """The package in use, with every digest checked; None before the first.

        Raises
        ------
        PackageError
            `current` is damaged, or the package that it names is missing or damaged.
        """
        path = self.path / "current"
        try:
            text = path.read_text("ascii").strip()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise PackageError(f"'{path}' can't be read: {error}; start with --package") from error
        if not _DIGEST.fullmatch(text):
            raise PackageError(f"'{path}' holds {text[:80]!r}, no package digest; start with --package")
        package = load_package(self.packages / text)
        if package.digest.hex() != text:
            raise PackageError(f"'{package.path}' holds package {package.short}, not what its name says; remove it")
        return package

    def set_current(self, digest: bytes) -> None:
        """Make the package of this digest (32 bytes) the one in use, from one instant to the next."""
        write_atomically(self.path / "current", digest.hex().encode() + b"\n")
        sync_folder(self.path)

    def _make(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"the device's folder '{self.path}' can't be made: {error}") from error

    def _make_key(self, path: Path) -> None:
        # A link appears whole or not at all, and fails where another process was first.
        temporary = path.with_name(f".site.key.{secrets.token_hex(8)}")
        try:
            write_atomically(temporary, secrets.token_bytes(KEY_BYTES), mode=0o600)
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(temporary)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


_ENROLL = "run 'featureloop device enroll' with a code from the learner's operator"


def pseudonym(key: bytes, group: str, turn: str = "") -> bytes:
    """Keyed pseudonym of one patient or examination, 16 bytes.

    The same group gives the same pseudonym at this site only; without the key
    nobody can try out names, or tell which pseudonyms of two turns are of one
    group.

    Parameters
    ----------
    turn
        As `turn_of` names it; nothing where pseudonyms don't rotate.
    """
    if turn:
        key = _keyed(key, _TURN_LABEL, (turn,))
    return _keyed(key, _GROUP_LABEL, (group,))[:PSEUDONYM_BYTES]


def turn_of(quarter: int, rotation: Rotation) -> str:
    """The turn of the rotation in which a quarter is (`4 * year + quarter - 1`): `2026-3`, `2026`, or nothing."""
    year, rest = divmod(quarter, 4)
    return {"never": "", "year": f"{year}", "quarter": f"{year}-{rest + 1}"}[rotation]


def pseudonyms(keys: Sequence[bytes], group: str, *, first: int, last: int) -> tuple[bytes, ...]:
    """Every pseudonym that a group may have been given from one quarter to another, whatever the rotation was.

    Parameters
    ----------
    keys
        As `DeviceState.group_keys`.
    first, last
        Quarters, `4 * year + quarter - 1`.
    """
    rotations: tuple[Rotation, ...] = get_args(Rotation)
    turns = dict.fromkeys(turn_of(q, r) for q in range(first, last + 1) for r in rotations)
    return tuple(pseudonym(key, group, turn) for key in keys for turn in turns)


def release_secret(key: bytes) -> bytes:
    """The secret (32 bytes) by which this site draws what leaves of a frame, and its noise."""
    return _keyed(key, _RELEASE_LABEL, ())


def frame_key(key: bytes, *parts: str | bytes) -> bytes:
    """Keyed hash (32 bytes) that tells whether a frame was seen, not which frame it was.

    `("ab", "c")` and `("a", "bc")` give different keys.
    """
    return _keyed(key, _FRAME_LABEL, parts)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, where the system can do that.

    Raises
    ------
    StorageError
        The disk fails.
    """
    if os.name == "nt":
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageError(f"'{path}' can't be flushed to the disk: {error}; check the disk") from error


def _keyed(key: bytes, label: bytes, parts: tuple[str | bytes, ...]) -> bytes:
    if len(key) != KEY_BYTES:
        raise ValueError(f"the key has {len(key)} bytes, not {KEY_BYTES}")
    # File names may hold bytes that are no text; "surrogatepass" keeps them apart.
    raw = [p if isinstance(p, bytes) else p.encode("utf-8", "surrogatepass") for p in parts]
    message = b"".join(len(p).to_bytes(8, "little") + p for p in (label, *raw))
    return hmac.digest(key, message, hashlib.sha256)
