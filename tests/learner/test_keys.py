"""Signing keys: made once, private, rotated without breaking what was signed."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from featureloop.core.errors import AuthError, StorageError
from featureloop.learner.keys import SigningKeys
from featureloop.model.package import Package, key_id, load_package, sign_package, verify_signature


@pytest.fixture
def keys(tmp_path: Path) -> SigningKeys:
    return SigningKeys(tmp_path / "keys")


def test_the_first_key_is_made_once_and_private(keys: SigningKeys) -> None:
    """A key file of mode 0600 in a folder of mode 0700, the same at every look."""
    first = key_id(keys.signing().public_key())
    assert [key_id(k) for k in keys.public()] == [first]
    assert key_id(SigningKeys(keys.path).signing().public_key()) == first
    assert [p.name for p in keys.path.glob("*.pem")] == ["signing.pem"]
    assert (keys.path / "signing.pem").stat().st_mode & 0o777 == 0o600
    assert keys.path.stat().st_mode & 0o777 == 0o700


def test_many_at_once_make_one_key(keys: SigningKeys) -> None:
    """Whoever comes second uses the first one's."""
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(key_id(SigningKeys(keys.path).signing().public_key())))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_after_a_rotation_the_newest_signs_and_all_are_announced(
    keys: SigningKeys, founding: Package, tmp_path: Path
) -> None:
    """What the older key signed stays trusted, what the newer one signs is trusted by newly enrolled devices."""
    old_trust = keys.public()
    shutil.copytree(founding.path, tmp_path / "p")
    package = load_package(tmp_path / "p")
    sign_package(package, keys.signing())
    added = [keys.rotate() for _ in range(3)]
    assert key_id(keys.signing().public_key()) == key_id(added[-1])
    assert [key_id(k) for k in keys.public()] == [key_id(k) for k in (*reversed(added), *old_trust)]
    verify_signature(package, keys.public())
    sign_package(package, keys.signing())
    verify_signature(package, keys.public())
    with pytest.raises(AuthError, match="not a trusted one"):
        verify_signature(package, old_trust)


def test_a_key_that_others_can_read_is_refused(keys: SigningKeys) -> None:
    """As ssh does: a key that leaked signs nothing."""
    keys.signing()
    (keys.path / "signing.pem").chmod(0o644)
    with pytest.raises(StorageError, match=r"mode 644\); chmod 600"):
        keys.signing()


@pytest.mark.parametrize("content", [b"", b"no key", os.urandom(200)])
def test_a_file_that_is_no_key_is_told(keys: SigningKeys, content: bytes) -> None:
    """The file is named, and no other key silently takes its place."""
    keys.signing()
    (keys.path / "other.pem").write_bytes(content)
    with pytest.raises(StorageError, match=r"other\.pem"):
        keys.public()


def test_a_key_of_another_kind_is_refused(keys: SigningKeys) -> None:
    """Only Ed25519 signs packages."""
    keys.signing()
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (keys.path / "other.pem").write_bytes(pem)
    with pytest.raises(StorageError, match="no Ed25519 key"):
        keys.public()
