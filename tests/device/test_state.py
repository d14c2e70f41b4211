"""The device's directory: secrets stay secret, and a crash leaves it usable."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from featureloop.core.errors import AuthError, PackageError, StorageError
from featureloop.device.state import DeviceState, Identity, frame_key, pseudonym, pseudonyms, turn_of
from featureloop.device.update import install
from featureloop.sharing.policy import Rotation
from featureloop.testing import tiny_package

KEY = bytes(range(32))
PUBLIC = Ed25519PrivateKey.from_private_bytes(KEY).public_key().public_bytes_raw()


def make_identity(**overrides: Any) -> Identity:
    values: dict[str, Any] = {
        "learner": "https://learner.example.org",
        "site": "site-a",
        "device": "tower-1",
        "token": "s3cret-token",
        "keys": (PUBLIC,),
    }
    return Identity(**(values | overrides))


def test_an_identity_is_kept_and_its_token_never_shown(tmp_path: Path) -> None:
    state, identity = DeviceState(tmp_path / "new" / "device"), make_identity()
    state.save_identity(identity)
    assert state.load_identity() == identity
    assert "s3cret" not in repr(identity)
    assert identity.public_keys()[0].public_bytes_raw() == PUBLIC


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_secrets_are_readable_by_this_user_only(tmp_path: Path) -> None:
    state = DeviceState(tmp_path / "device")
    state.site_key()
    state.save_identity(make_identity())
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in state.path.iterdir()}
    assert modes == {"site.key": 0o600, "identity.json": 0o600}
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700


def test_not_enrolled_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(AuthError, match="featureloop device enroll"):
        DeviceState(tmp_path).load_identity()


@pytest.mark.parametrize(
    "change",
    [
        {"token": None},
        {"token": "two words"},
        {"token": "new\nline"},
        {"site": "Not An Id"},
        {"device": 7},
        {"learner": None},
        {"learner": "nowhere"},
        {"keys": []},
        {"keys": ["AAAA"]},
        {"keys": "not base64!"},
        {"keys": [5]},
    ],
)
def test_a_damaged_identity_says_so(tmp_path: Path, change: dict[str, Any]) -> None:
    state = DeviceState(tmp_path)
    state.save_identity(make_identity())
    path = tmp_path / "identity.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(AuthError, match="is damaged"):
        state.load_identity()


def test_an_identity_that_is_no_json(tmp_path: Path) -> None:
    for text in ("", "{", "[1]", "\xff"):
        (tmp_path / "identity.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(AuthError, match="is damaged"):
            DeviceState(tmp_path).load_identity()


def test_the_site_key_is_made_once_even_by_many_at_once(tmp_path: Path) -> None:
    """Threads that race for the first use all get the same key, and no rubbish stays."""
    found: list[bytes] = []
    barrier = threading.Barrier(8)

    def use() -> None:
        barrier.wait()
        found.append(DeviceState(tmp_path / "d").site_key())

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 8
    assert len(found[0]) == 32
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["site.key"]


def test_a_damaged_site_key_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "site.key").write_bytes(b"short")
    with pytest.raises(StorageError, match="5 bytes, not 32: restore it"):
        DeviceState(tmp_path).site_key()
    assert (tmp_path / "site.key").read_bytes() == b"short"


def test_a_folder_that_cant_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        DeviceState(tmp_path / "file" / "device").save_identity(make_identity())
    with pytest.raises(StorageError):
        DeviceState(tmp_path / "file" / "device").site_key()


def test_pseudonyms_are_stable_keyed_and_of_16_bytes() -> None:
    assert pseudonym(KEY, "patient 7").hex() == "777e5f8317baecb4ed9fb2a71dd964b3"
    assert pseudonym(KEY, "patient 7") != pseudonym(KEY[::-1], "patient 7")
    assert pseudonym(KEY, "patient 7") != frame_key(KEY, "patient 7")[:16]
    assert len(frame_key(KEY, b"x")) == 32
    with pytest.raises(ValueError, match="0 bytes, not 32"):
        pseudonym(b"", "patient 7")


@given(st.lists(st.text() | st.binary(), max_size=4), st.lists(st.text() | st.binary(), max_size=4))
def test_frame_keys_differ_where_parts_do(a: list[str | bytes], b: list[str | bytes]) -> None:
    """The parts' borders count, and names that are no text are no problem."""

    def raw(parts: list[str | bytes]) -> list[bytes]:
        return [p if isinstance(p, bytes) else p.encode("utf-8", "surrogatepass") for p in parts]

    assert (frame_key(KEY, *a) == frame_key(KEY, *b)) == (raw(a) == raw(b))
    assert frame_key(KEY, "\udcff")


def test_the_current_package(tmp_path: Path) -> None:
    """None at first; then what was installed; damage is found at the next look."""
    state = DeviceState(tmp_path / "d")
    assert state.current_package() is None
    package = tiny_package(tmp_path / "p")
    kept = install(state, package)
    assert kept.path == state.packages / package.digest.hex()
    assert state.current_package() == kept
    assert install(state, package) == kept
    assert sorted(p.name for p in state.packages.iterdir()) == [package.digest.hex()]
    (kept.path / "models" / "recognizer.onnx").write_bytes(b"")
    with pytest.raises(PackageError, match="changed or damaged"):
        state.current_package()
    assert install(state, package) == kept
    assert state.current_package() == kept


def test_a_wrong_current_says_so(tmp_path: Path) -> None:
    state = DeviceState(tmp_path)
    for text in (b"", b"../../etc", b"\xff" * 64, b"A" * 64):
        (tmp_path / "current").write_bytes(text)
        with pytest.raises(PackageError, match="--package"):
            state.current_package()
    state.set_current(b"\1" * 32)
    with pytest.raises(PackageError, match="is no package"):
        state.current_package()
    package = tiny_package(state.packages / ("02" * 32))
    state.set_current(b"\2" * 32)
    with pytest.raises(PackageError, match=package.short):
        state.current_package()


def test_pseudonyms_of_two_turns_have_nothing_in_common() -> None:
    turns = ["", "2026", "2026-1", "2026-2"]
    assert len({pseudonym(KEY, "patient 7", turn) for turn in turns}) == len(turns)
    assert pseudonym(KEY, "patient 7", "2026") != pseudonym(KEY, "patient 72026")
    assert [turn_of(4 * 2026 + 2, r) for r in get_args(Rotation)] == ["", "2026", "2026-3"]


@given(st.integers(4 * 1999, 4 * 2030), st.integers(0, 9), st.sampled_from(get_args(Rotation)), st.integers(0, 2))
def test_every_pseudonym_can_be_computed_again_for_erasure(
    first: int, later: int, rotation: Rotation, which: int
) -> None:
    """Whatever the rotation was, and under whichever key, the site finds it; and nobody else's."""
    keys = [bytes([k]) * 32 for k in range(3)]
    given_then = pseudonym(keys[which], "patient 7", turn_of(first + later, rotation))
    found = pseudonyms(keys, "patient 7", first=first, last=first + 9)
    assert given_then in found
    assert len(found) == len(set(found)) <= 3 * (1 + 4 + 10)
    assert not set(found) & set(pseudonyms(keys, "patient 8", first=first, last=first + 9))


def test_rotating_keeps_the_sites_key_and_every_old_one(tmp_path: Path) -> None:
    """Frames stay done and draws stay the same; only pseudonyms change."""
    state = DeviceState(tmp_path / "d")
    site = state.site_key()
    assert state.group_keys() == (site,)
    assert state.rotate_key() == 2
    first = state.group_keys()
    assert state.rotate_key() == 3
    second = state.group_keys()
    assert second[1:] == first
    assert second[-1] == site == state.site_key()
    assert len(set(second)) == 3
    files = [p for p in state.path.rglob("*") if p.is_file()]
    assert len(files) == 3
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in files)


def test_a_damaged_rotated_key_is_not_replaced(tmp_path: Path) -> None:
    state = DeviceState(tmp_path)
    state.rotate_key()
    (tmp_path / "group.keys" / "000001").write_bytes(b"short")
    with pytest.raises(StorageError, match="restore it"):
        state.group_keys()
