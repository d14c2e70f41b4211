"""Packages: nothing altered, lacking or added is taken for one, and a hostile archive leaves nothing behind."""

from __future__ import annotations

import io
import json
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featureloop.core.errors import AuthError, PackageError
from featureloop.model import package as packages
from featureloop.model.manifest import Manifest
from featureloop.model.package import (
    EXTRACTOR,
    MANIFEST,
    REQUIRED,
    SIGNATURE,
    Package,
    file_digest,
    key_id,
    load_package,
    pack,
    sign_package,
    unpack,
    verify_signature,
)
from featureloop.testing import tiny_package

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return tiny_package(tmp_path / "package")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return pack(tiny_package(tmp_path_factory.mktemp("archive") / "package"))


def entries(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as z:
        return {n: z.read(n) for n in z.namelist()}


def zipped(files: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z, warnings.catch_warnings():
        # A name that comes twice is what some tests are about.
        warnings.simplefilter("ignore", UserWarning)
        for name, data in files:
            z.writestr(name, data)
    return out.getvalue()


def refuse(data: bytes, folder: Path, match: str = ".") -> None:
    """It is refused, and nothing of it is left beside or outside its place."""
    place = folder / "store" / "package"
    place.parent.mkdir(parents=True, exist_ok=True)
    before = sorted(folder.rglob("*"))
    with pytest.raises(PackageError, match=match):
        unpack(data, place)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("name", REQUIRED)
def test_a_changed_byte_in_any_file_is_refused_by_its_name(package: Package, name: str) -> None:
    raw = bytearray(package.file(name).read_bytes())
    raw[len(raw) // 2] ^= 1
    package.file(name).write_bytes(bytes(raw))
    with pytest.raises(PackageError, match=f"SHA-256 of {name}"):
        load_package(package.path)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_file_is_refused_by_its_name(package: Package, name: str) -> None:
    package.file(name).unlink()
    with pytest.raises(PackageError, match=f"lacks {name}"):
        load_package(package.path)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_file_that_the_manifest_does_not_name_counts_as_missing(package: Package, name: str) -> None:
    def forget(data: dict[str, Any]) -> None:
        del data["files"][name]

    altered(package, forget)
    with pytest.raises(PackageError, match=f"lacks {name}"):
        load_package(package.path)


@pytest.mark.parametrize("name", ["models/extra.onnx", "notes.txt", "models/.hidden"])
def test_an_additional_file_is_refused_by_its_name(package: Package, name: str) -> None:
    package.file(name).write_bytes(b"more")
    with pytest.raises(PackageError, match=f"doesn't name: {name}"):
        load_package(package.path)


def test_a_folder_without_a_manifest_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="is no package"):
        load_package(tmp_path)
    with pytest.raises(PackageError, match="is no package"):
        load_package(tmp_path / "missing")


def test_the_digest_stands_for_every_file(tmp_path: Path) -> None:
    one, same, other = (tiny_package(tmp_path / n, seed=s) for n, s in (("a", 0), ("b", 0), ("c", 1)))
    successor = tiny_package(tmp_path / "d", recognizer_seed=5)
    assert one.digest == same.digest != other.digest
    assert one.line == successor.line != other.line
    assert one.digest != successor.digest
    assert one.digest.hex() == file_digest(one.file(MANIFEST))
    assert one.extractor_digest.hex() == file_digest(one.file(EXTRACTOR))
    assert one.digest.hex().startswith(one.short)


def altered(package: Package, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The manifest with a change, written in its place."""
    data = json.loads(package.file(MANIFEST).read_bytes())
    change(data)
    raw = json.dumps(data).encode()
    package.file(MANIFEST).write_bytes(raw)
    return raw


def setting(value: Any, *path: str | int) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for step in path[:-1]:
            data = data[step]
        data[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "format None"),
        (b"{}", "format None"),
        (b'{"format": 2}', "format 2"),
        (b'{"format": "1"}', "format '1'"),
        (b'{"format": 1}', "malformed"),
        (b'{"format": 1, "more": 1}', "unknown fields"),
    ],
)
def test_a_malformed_manifest_is_refused(package: Package, raw: bytes, match: str) -> None:
    package.file(MANIFEST).write_bytes(raw)
    with pytest.raises(PackageError, match=match):
        load_package(package.path)


UNEVEN = [511, 513, *[512] * 6]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (setting("tracking", "task"), "task 'tracking'"),
        (setting(7, "version"), "expected str"),
        (setting("lesion", "labels"), "expected a list"),
        (setting({}, "features"), "malformed"),
        (setting([], "features"), "must be an object"),
        (setting(True, "features", "channels"), "expected int"),
        (setting(1.5, "features", "channels"), "expected int"),
        (setting(0, "features", "grid"), "out of range"),
        (setting(257, "features", "grid"), "out of range"),
        (setting(10**9, "features", "channels"), "out of range"),
        (setting(10**9, "preprocessing", "size"), "out of range"),
        (setting(float("nan"), "preprocessing", "mean"), "number is nan"),
        (setting(float("inf"), "preprocessing", "scale"), "number is inf"),
        (setting(10**400, "preprocessing", "mean"), "malformed"),
        (setting(0, "preprocessing", "scale"), "scale must be positive"),
        (setting(10**9, "recognizer", "width"), "out of range"),
        (setting(0, "recognizer", "outputs"), "out of range"),
        (setting(7, "released", "channels"), "each of its 7 channels"),
        (setting([1.0] * 9, "released", "high"), "each of its 8 channels"),
        (setting(-1.0, "released", "high", 3), "lower bound"),
        (setting(float("nan"), "released", "low", 0), "number is nan"),
        (setting(7, "released", "levels", 0), "doesn't fit"),
        (setting(1, "released", "levels", 0), "doesn't fit"),
        (setting(257, "released", "levels", 0), "doesn't fit"),
        (setting([4096], "released", "frequencies", 0), "doesn't fit"),
        (setting(513, "released", "frequencies", 0, 0), "sum to 4096"),
        (setting([0, 1024, *[512] * 6], "released", "frequencies", 2), "every entry positive"),
        (setting([-1, 1025, *[512] * 6], "released", "frequencies", 2), "every entry positive"),
        (setting([4096], "released", "target_frequencies"), "3 entries"),
        (setting([4094, 1, 2], "released", "target_frequencies"), "sum to 4096"),
        (setting(["mean"], "released", "pooling"), "doesn't pool"),
        (setting(["median"], "released", "pooling"), "'median' is unknown"),
        (setting("pool", "released", "anonymizer"), "give 16 by mean, deviation"),
        (setting([], "calibration", "raw"), "knots"),
        (setting([0.0], "calibration", "raw"), "knots"),
        (setting([1.0, 0.0], "calibration", "raw"), "don't rise"),
        (setting(0.0, "calibration", "temperature"), "temperature"),
        (setting(float("-inf"), "calibration", "threshold"), "number is -inf"),
        (setting(["models/extractor.onnx"], "files"), "expected an object"),
        (setting(7, "files", "models/extractor.onnx"), "expected str"),
    ],
)
def test_a_manifest_with_an_impossible_value_is_refused(
    package: Package, change: Callable[[dict[str, Any]], None], match: str
) -> None:
    raw = altered(package, change)
    with pytest.raises(PackageError, match=match):
        Manifest.from_json(raw)
    with pytest.raises(PackageError, match=match):
        load_package(package.path)


def test_uneven_tables_of_the_right_sum_are_taken(package: Package) -> None:
    manifest = Manifest.from_json(altered(package, setting(UNEVEN, "released", "frequencies", 0)))
    assert manifest.released.frequencies[0] == tuple(UNEVEN)


def test_a_manifest_from_before_pooling_was_a_choice_is_read_as_mean_and_deviation(tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "pooled", task="classification")
    data = json.loads(package.manifest.to_json())
    assert data["released"].pop("pooling") == ["mean", "deviation"]
    released = Manifest.from_json(json.dumps(data).encode()).released
    assert released.pooling == ()
    assert released.statistics == ("mean", "deviation")


def test_a_manifest_survives_its_json(package: Package) -> None:
    raw = package.manifest.to_json()
    assert Manifest.from_json(raw) == package.manifest
    assert Manifest.from_json(raw).to_json() == raw == package.file(MANIFEST).read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_value_anywhere_in_a_manifest_is_taken_or_refused_as_a_package_error(
    archive: bytes, data: st.DataObject
) -> None:
    manifest = json.loads(entries(archive)[MANIFEST])
    at = manifest
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just([]) | st.just({})
    )
    raw = json.dumps(manifest).encode()
    try:
        taken = Manifest.from_json(raw)
    except PackageError:
        return
    assert Manifest.from_json(taken.to_json()) == taken


def test_packing_is_deterministic_and_unpacking_gives_the_same_package(tmp_path: Path, package: Package) -> None:
    archive = pack(package)
    copy = shutil.copytree(package.path, tmp_path / "copy")
    assert pack(load_package(copy)) == archive
    taken = unpack(archive, tmp_path / "store" / "taken")
    assert (taken.manifest, taken.digest) == (package.manifest, package.digest)
    assert load_package(tmp_path / "store" / "taken") == taken
    assert pack(taken) == archive
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["taken"]


def test_a_signature_is_packed_with_the_package(tmp_path: Path, package: Package) -> None:
    sign_package(package, KEY)
    verify_signature(unpack(pack(package), tmp_path / "taken"), [KEY.public_key()])


@pytest.mark.parametrize(
    "name",
    [
        "../outside.txt",
        "/etc/outside.txt",
        "models/../../outside.txt",
        "./notes.txt",
        "models//notes.txt",
        "models/",
        "..",
        "a" * 300,
        "models/" * 100 + "notes.txt",
        "notes\n.txt",
        "C:\\notes.txt",
        ".hidden",
        "models/extractor.onnx/notes.txt",
    ],
)
def test_a_path_that_no_package_has_is_refused(tmp_path: Path, archive: bytes, name: str) -> None:
    refuse(zipped([*entries(archive).items(), (name, b"x")]), tmp_path, "which no package has")


def test_a_path_that_comes_twice_is_refused_even_with_the_same_content(tmp_path: Path, archive: bytes) -> None:
    files = entries(archive)
    refuse(zipped([*files.items(), (EXTRACTOR, files[EXTRACTOR])]), tmp_path, "twice")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_another_compression_method_is_refused(tmp_path: Path, archive: bytes, method: int) -> None:
    refuse(zipped(entries(archive).items(), method), tmp_path, "compressed by a method")


def test_a_header_that_claims_gigabytes_is_refused_before_anything_is_written(tmp_path: Path, archive: bytes) -> None:
    bomb = bytearray(archive)
    central = bomb.index(b"PK\x01\x02")
    bomb[central + 24 : central + 28] = struct.pack("<I", 0xFFFF_FFF0)
    refuse(bytes(bomb), tmp_path, "that is no package")


def test_a_header_that_claims_less_than_it_holds_is_refused(tmp_path: Path) -> None:
    bomb = bytearray(zipped([("notes.txt", bytes(1 << 20))]))
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = bomb.index(mark) + offset
        bomb[at : at + 4] = struct.pack("<I", 10)
    refuse(bytes(bomb), tmp_path, "damaged")


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    refuse(zipped((f"f{i}", b"") for i in range(packages.MAX_FILES + 1)), tmp_path, "65 files")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_archive_is_refused(tmp_path: Path, archive: bytes, share: float) -> None:
    refuse(archive[: int(share * len(archive))], tmp_path, "damaged")


@pytest.mark.parametrize("name", [*REQUIRED, MANIFEST])
def test_an_archive_that_lacks_or_alters_a_file_is_refused(tmp_path: Path, archive: bytes, name: str) -> None:
    files = entries(archive)
    refuse(zipped((n, d) for n, d in files.items() if n != name), tmp_path)
    refuse(zipped((files | {name: files[name] + b"?"}).items()), tmp_path)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_bit_flipped_archive_is_refused_or_gives_the_same_package(
    tmp_path: Path, archive: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(archive)
    # The directory at the end is where a flip does most.
    start = data.draw(st.sampled_from([0, archive.index(b"PK\x01\x02")]))
    damaged[data.draw(st.integers(start, len(archive) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    place = tmp_path / "flipped" / "package"
    try:
        taken = unpack(bytes(damaged), place)
    except PackageError:
        assert list(place.parent.iterdir()) == []
    else:
        assert taken.digest.hex() == file_digest(place / MANIFEST)
        shutil.rmtree(place)


def test_a_refused_archive_leaves_the_package_in_its_place(tmp_path: Path, archive: bytes) -> None:
    kept = unpack(archive, tmp_path / "package")
    with pytest.raises(PackageError):
        unpack(archive[:-100], tmp_path / "package")
    assert load_package(tmp_path / "package") == kept


def test_a_package_signed_by_a_trusted_key_is_accepted(package: Package) -> None:
    sign_package(package, KEY)
    verify_signature(package, [OTHER_KEY.public_key(), KEY.public_key()])
    assert load_package(package.path) == package


def test_an_unsigned_package_is_refused(package: Package) -> None:
    with pytest.raises(AuthError, match="is not signed"):
        verify_signature(package, [KEY.public_key()])


def test_another_keys_signature_is_refused(package: Package) -> None:
    sign_package(package, OTHER_KEY)
    with pytest.raises(AuthError, match=key_id(OTHER_KEY.public_key())[:12]):
        verify_signature(package, [KEY.public_key()])
    with pytest.raises(AuthError, match="not a trusted one"):
        verify_signature(package, [])


def test_another_keys_signature_under_a_trusted_keys_name_is_refused(package: Package) -> None:
    sign_package(package, OTHER_KEY)
    text = json.loads(package.file(SIGNATURE).read_bytes())
    package.file(SIGNATURE).write_text(json.dumps(text | {"key": key_id(KEY.public_key())}))
    with pytest.raises(AuthError, match="altered"):
        verify_signature(package, [KEY.public_key()])


def test_a_manifest_altered_after_signing_is_refused(package: Package) -> None:
    sign_package(package, KEY)
    altered(package, setting("9.9", "version"))
    with pytest.raises(AuthError, match="altered"):
        verify_signature(load_package(package.path), [KEY.public_key()])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"key": 1}',
        b'{"key": "a", "ed25519": "?"}',
        b'{"key": "a", "ed25519": 1}',
        b"[" * 99_999,
    ],
)
def test_a_malformed_signature_is_refused(package: Package, raw: bytes) -> None:
    package.file(SIGNATURE).write_bytes(raw)
    with pytest.raises(AuthError, match="malformed"):
        verify_signature(package, [KEY.public_key()])


DIRECTIONS = np.eye(16)[::-1]


@pytest.mark.parametrize(
    ("task", "release", "directions", "said"),
    [
        ("segmentation", "set", np.eye(8), "has directions of one pooled vector"),
        ("classification", "pool noise=1.0,clip=2.0", DIRECTIONS, "has directions of one pooled vector"),
        ("classification", "pool", np.eye(15), "has as many directions"),
        ("classification", "pool", np.eye(16)[:, :15], "has as many directions"),
        ("classification", "pool", np.ones((16, 16)), "can't be undone"),
        ("classification", "pool", 0 * DIRECTIONS, "can't be undone"),
        ("classification", "pool", 1e300 * DIRECTIONS, "can't be undone"),
    ],
)
def test_directions_are_of_one_pooled_vector_and_can_be_undone(
    task: str, release: str, directions: NDArray[np.float64], said: str, tmp_path: Path
) -> None:
    known = tiny_package(tmp_path / "known", task="classification").manifest
    assert known.released.channels == len(DIRECTIONS)
    data = json.loads(known.to_json())
    data["released"]["directions"] = DIRECTIONS.tolist()
    assert np.array_equal(Manifest.from_json(json.dumps(data).encode()).released.directions, DIRECTIONS)
    data = json.loads(tiny_package(tmp_path / "other", task=task, release=release).manifest.to_json())
    data["released"]["directions"] = directions.tolist()
    with pytest.raises(PackageError, match=said):
        Manifest.from_json(json.dumps(data).encode())
