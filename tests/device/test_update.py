"""Updates: only a checked package of the same line is taken over, and a crash never leaves the device without one."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featureloop.core.errors import AuthError, FeatureloopError, PackageError, StorageError, TransportError
from featureloop.device.state import DeviceState, Identity
from featureloop.device.update import install, poll_update
from featureloop.model.manifest import uncalibrated
from featureloop.model.package import SIGNATURE, Package, pack, seal_package, sign_package
from featureloop.testing import tiny_package

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
IDENTITY = Identity(
    learner="https://learner.test",
    site="site-a",
    device="tower-1",
    token="tok",  # noqa: S106  Nobody's token.
    keys=(KEY.public_key().public_bytes_raw(),),
)


@dataclass
class _Live:
    """A learner with one live package."""

    archive: bytes
    digest: bytes
    asked: list[httpx.Request] = field(default_factory=list)

    def client(self) -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(self.handle))

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        etag = f'"{self.digest.hex()}"'
        if request.headers.get("If-None-Match") == etag:
            return httpx.Response(304, headers={"ETag": etag})
        return httpx.Response(200, content=self.archive, headers={"ETag": etag})


def signed(package: Package, key: Ed25519PrivateKey = KEY) -> Package:
    sign_package(package, key)
    return package


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return signed(tiny_package(tmp_path_factory.mktemp("old") / "p"))


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return signed(tiny_package(tmp_path_factory.mktemp("new") / "p", recognizer_seed=1))


@pytest.fixture
def state(tmp_path: Path, old: Package) -> DeviceState:
    state = DeviceState(tmp_path / "device")
    install(state, old)
    return state


def current(state: DeviceState) -> Package:
    package = state.current_package()
    assert package is not None
    return package


def poll(state: DeviceState, archive: bytes, digest: bytes = b"", **options: Any) -> Package | None:
    with _Live(archive, digest).client() as client:
        return poll_update(state, IDENTITY, client=client, current=current(state), **options)


def folders(state: DeviceState) -> list[str]:
    return sorted(p.name for p in state.packages.iterdir())


def test_a_new_package_is_taken_over(state: DeviceState, old: Package, new: Package) -> None:
    """Asked with line, token and ETag; afterwards the new one is current, and the old one still there."""
    live = _Live(pack(new), new.digest)
    with live.client() as client:
        taken = poll_update(state, IDENTITY, client=client, current=current(state))
        assert taken == current(state)
        assert taken is not None
        assert (taken.digest, taken.path) == (new.digest, state.packages / new.digest.hex())
        assert taken.file(SIGNATURE).read_bytes() == new.file(SIGNATURE).read_bytes()
        assert poll_update(state, IDENTITY, client=client, current=taken) is None
    first, second = live.asked
    assert first.url.path == "/v1/packages/live"
    assert first.url.params["line"] == old.line
    assert first.headers["Authorization"] == "Bearer tok"
    assert first.headers["If-None-Match"] == f'"{old.digest.hex()}"'
    assert second.headers["If-None-Match"] == f'"{new.digest.hex()}"'
    assert folders(state) == sorted([old.digest.hex(), new.digest.hex()])


def test_the_learner_may_go_back(state: DeviceState, old: Package, new: Package) -> None:
    """A rollback is an update to a package that is already here, and stays as it is."""
    before = current(state).path.stat().st_ino
    assert poll(state, pack(new)) is not None
    taken = poll(state, pack(old))
    assert taken == current(state)
    assert (current(state).digest, current(state).path.stat().st_ino) == (old.digest, before)


def test_nothing_new_changes_nothing(state: DeviceState, old: Package) -> None:
    """Also where the learner ignores the ETag, or has no package of this line."""
    assert poll(state, pack(old)) is None
    client = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(404)))
    with client:
        assert poll_update(state, IDENTITY, client=client, current=current(state)) is None
    assert folders(state) == [old.digest.hex()]


def variant(path: Path, new: Package, **changes: Any) -> Package:
    shutil.copytree(new.path, path)
    (path / SIGNATURE).unlink()
    return seal_package(path, replace(new.manifest, **changes))


Make = Callable[[Path, Package], bytes]
BAD: dict[str, tuple[Make, type[FeatureloopError], str]] = {
    "unsigned": (lambda p, n: pack(variant(p, n, version="9")), AuthError, "not signed"),
    "signed by a stranger": (
        lambda p, n: pack(signed(variant(p, n, version="9"), OTHER_KEY)),
        AuthError,
        "not a trusted one",
    ),
    "altered after signing": (
        lambda p, n: pack(seal_package(signed(variant(p, n)).path, replace(n.manifest, version="9"))),
        AuthError,
        "was altered",
    ),
    "of another line": (lambda p, _: pack(signed(tiny_package(p, seed=7))), PackageError, "another line"),
    "of another task": (
        lambda p, n: pack(signed(variant(p, n, task="classification", calibration=uncalibrated("max-probability")))),
        PackageError,
        "is for classification",
    ),
    "a web page": (lambda _p, _n: b"<html>log in</html>", PackageError, "archive is damaged"),
    "nothing": (lambda _p, _n: b"", PackageError, "archive is damaged"),
    "cut off": (lambda _, n: pack(n)[:-100], PackageError, "archive is damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_package_is_removed_and_the_current_one_stays(
    state: DeviceState, tmp_path: Path, old: Package, new: Package, name: str
) -> None:
    make, kind, message = BAD[name]
    archive = make(tmp_path / "bad", new)
    with pytest.raises(kind, match=message):
        poll(state, archive)
    assert current(state).digest == old.digest
    assert folders(state) == [old.digest.hex()]


def test_an_archive_with_a_file_too_many(state: DeviceState, tmp_path: Path, new: Package) -> None:
    """The signature covers every file that is taken over."""
    path = tmp_path / "zip"
    path.write_bytes(pack(new))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("models/extra.pkl", b"")
    with pytest.raises(PackageError, match="doesn't name"):
        poll(state, path.read_bytes())


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_archives_give_clear_errors(
    state: DeviceState, old: Package, new: Package, data: st.DataObject
) -> None:
    """Whatever byte fell over on the way: a project's error, or a package that is whole."""
    raw = bytearray(pack(new))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        poll(state, bytes(raw))
    except FeatureloopError:
        pass
    else:
        # The byte was in a time stamp, or in another place that says nothing.
        assert current(state).digest in (old.digest, new.digest)
    state.set_current(old.digest)
    assert folders(state)[0][0] != "."


def test_what_the_learner_may_answer_otherwise(state: DeviceState, old: Package) -> None:
    """Each is an error of the project, and the current package stays."""
    wanted: dict[int, type[FeatureloopError]] = {
        401: AuthError,
        403: AuthError,
        400: TransportError,
        413: TransportError,
        429: TransportError,
        500: TransportError,
        302: TransportError,
    }
    for status, kind in wanted.items():
        client = httpx.Client(transport=httpx.MockTransport(lambda _, s=status: httpx.Response(s)))
        with client, pytest.raises(kind, match=str(status)):
            poll_update(state, IDENTITY, client=client, current=current(state))
    plain = replace(IDENTITY, learner="http://learner.test")
    with pytest.raises(AuthError, match="token in clear"):
        poll_update(state, plain, current=current(state))
    assert current(state).digest == old.digest


def test_a_huge_download_ends_at_the_limit(state: DeviceState, new: Package) -> None:
    with pytest.raises(TransportError, match="over 1000 bytes"):
        poll(state, pack(new), max_bytes=1000)


def test_a_full_disk_keeps_the_current_package(
    state: DeviceState, old: Package, new: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="free some space"):
            poll(state, pack(new))
    assert folders(state) == [old.digest.hex()]
    assert poll(state, pack(new)) is not None


def test_a_signature_that_comes_later_is_kept(state: DeviceState, tmp_path: Path, old: Package, new: Package) -> None:
    """The same package without a signature was installed before: the signed one replaces it."""
    shutil.copytree(new.path, tmp_path / "unsigned")
    (tmp_path / "unsigned" / SIGNATURE).unlink()
    install(state, replace(new, path=tmp_path / "unsigned"))
    state.set_current(old.digest)
    taken = poll(state, pack(new))
    assert taken is not None
    assert taken.file(SIGNATURE).is_file()


class _Killed(BaseException):
    """The power goes at one step; whatever the dying process still tries has no effect."""


@dataclass
class _Power:
    steps_left: int

    def cut(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise _Killed
            return act(*args, **kwargs)

        return step


@pytest.fixture
def spare(tmp_path: Path) -> Iterator[Path]:
    """The device's folder again and again, as it was."""
    yield tmp_path / "spare"
    shutil.rmtree(tmp_path / "spare", ignore_errors=True)


def test_the_power_may_go_at_every_step(
    state: DeviceState, spare: Path, old: Package, new: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each step of the update: the device has a whole package, and the next poll completes the update.

    What was left behind is swept away once it can't be another process's.
    """
    archive, seen, survived = pack(new), set(), False
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for step in range(200):
        shutil.rmtree(spare, ignore_errors=True)
        shutil.copytree(state.path, spare)
        after = DeviceState(spare)
        power = _Power(step)
        with monkeypatch.context() as patch:
            for owner, names in (
                (os, ("fsync", "open")),
                (Path, ("rename", "replace", "unlink", "write_bytes")),
                (shutil, ("rmtree", "copyfileobj")),
                (tempfile, ("mkdtemp",)),
            ):
                for name in names:
                    patch.setattr(owner, name, power.cut(getattr(owner, name)))
            try:
                poll(after, archive)
                survived = True
            except _Killed:
                pass
        digest = current(after).digest
        seen.add(digest)
        assert digest in (old.digest, new.digest)
        later = time.time() + 7_200
        poll(after, archive, clock=lambda later=later: later)
        assert current(after).digest == new.digest
        assert folders(after) == sorted([old.digest.hex(), new.digest.hex()])
        if survived:
            break
    assert survived
    assert step > 20
    assert seen == {old.digest, new.digest}


def test_leftovers_are_swept_once_they_are_old(state: DeviceState, old: Package, new: Package) -> None:
    """A young one may be another process's, at work."""
    (state.packages / ".incoming-young").mkdir()
    assert poll(state, pack(new)) is not None
    assert folders(state)[0] == ".incoming-young"
    assert poll(state, pack(new), clock=lambda: time.time() + 7_200) is None
    assert folders(state) == sorted([old.digest.hex(), new.digest.hex()])
