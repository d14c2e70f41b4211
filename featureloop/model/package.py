"""The package: extractor, recognizer and all they need, in one signed directory.

Layout (a MONAI Bundle's, plus `featureloop.json`)::

    configs/metadata.json          MONAI Bundle metadata
    docs/README.md                 the model card
    models/extractor.onnx          first layers: image -> feature map
    models/recognizer.onnx         later layers: position vectors -> recognition
    models/recognizer.safetensors  the recognizer's weights, for training on
    models/TASK/recognizer.*       the same of every further task
    featureloop.json               the manifest, with the SHA-256 of every other file
    signature.json                 Ed25519 over the manifest's bytes (absent until signed)

A package's digest is the SHA-256 of `featureloop.json`; since that names the
digest of every other file, one value stands for the whole.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from featureloop.core.errors import AuthError, PackageError, StorageError
from featureloop.core.types import Task
from featureloop.model.manifest import Manifest

MANIFEST = "featureloop.json"
SIGNATURE = "signature.json"
EXTRACTOR = "models/extractor.onnx"
RECOGNIZER = "models/recognizer.onnx"
WEIGHTS = "models/recognizer.safetensors"
CARD = "docs/README.md"
METADATA = "configs/metadata.json"
REQUIRED = (EXTRACTOR, RECOGNIZER, WEIGHTS, CARD, METADATA)

MAX_FILES = 64
MAX_PACKAGE_BYTES = 2 << 30
MAX_NAME = 200
_NAME_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Package:
    """A package on disk whose every digest matched when it was loaded.

    Attributes
    ----------
    path
        Its directory.
    manifest
        The parsed `featureloop.json`.
    digest
        SHA-256 of `featureloop.json`, 32 bytes.
    head
        In a view (`view`) of a further task, that task; empty for the first one, and for the package as a whole.
    """

    path: Path
    manifest: Manifest
    digest: bytes
    head: str = ""

    @property
    def extractor_digest(self) -> bytes:
        """SHA-256 of the extractor (32 bytes): the identity of the package line."""
        return bytes.fromhex(self.manifest.files[EXTRACTOR])

    @property
    def line(self) -> str:
        """The package line as text: packages of one line share an extractor."""
        return self.extractor_digest.hex()

    @property
    def short(self) -> str:
        """The first 12 hexadecimal digits of the digest, for people."""
        return self.digest.hex()[:12]

    def file(self, name: str) -> Path:
        """The path of one of its files; a view's recognizer is its own."""
        return self.path / (head_file(name, self.head) if self.head and name in (RECOGNIZER, WEIGHTS) else name)

    def view(self, task: Task) -> Package:
        """The package as if it had this one task, for whoever works on one.

        Raises
        ------
        PackageError
            It has no such task.
        """
        manifest = self.manifest.for_task(task)
        return (
            self
            if manifest is self.manifest
            else replace(self, manifest=manifest, head="" if task == self.manifest.task else str(task))
        )

    @property
    def views(self) -> tuple[Package, ...]:
        """A view of every task, the first one first."""
        return tuple(self.view(task) for task in self.manifest.tasks)


def head_file(name: str, task: str) -> str:
    """Where a further task has the file that the first one has at `name`."""
    return name.replace("models/", f"models/{task}/", 1)


def load_package(path: Path) -> Package:
    """Open a package directory, and check the digest of every file.

    Raises
    ------
    PackageError
        No package is there, the manifest is malformed, a file is missing or
        additional, or a digest doesn't match.
    """
    manifest_path = path / MANIFEST
    if not manifest_path.is_file():
        raise PackageError(
            f"'{path}' is no package: it has no {MANIFEST}; name a directory made by 'model train --out'"
        )
    raw = manifest_path.read_bytes()
    manifest = Manifest.from_json(raw)
    present = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()} - {MANIFEST, SIGNATURE}
    declared = set(manifest.files)
    own = {head_file(name, head.task) for head in manifest.heads for name in (RECOGNIZER, WEIGHTS)}
    if missing := sorted((declared | set(REQUIRED) | own) - (present & declared)):
        raise PackageError(f"package '{path}' lacks {', '.join(missing)}; fetch or train it again")
    if additional := sorted(present - declared):
        raise PackageError(f"package '{path}' holds files its manifest doesn't name: {', '.join(additional[:5])}")
    for name, digest in sorted(manifest.files.items()):
        found = file_digest(path / name)
        if found != digest:
            raise PackageError(
                f"package '{path}': the SHA-256 of {name} is {found[:12]}..., the manifest says {digest[:12]}...; "
                "the file was changed or damaged, fetch or train the package again"
            )
    return Package(path, manifest, hashlib.sha256(raw).digest())


def seal_package(path: Path, manifest: Manifest) -> Package:
    """Write the manifest with the digests of all files present, and load the result."""
    names = [p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()]
    files = {n: file_digest(path / n) for n in sorted(names) if n not in (MANIFEST, SIGNATURE)}
    write_atomically(path / MANIFEST, manifest.with_files(files).to_json())
    return load_package(path)


def sign_package(package: Package, key: Ed25519PrivateKey) -> None:
    """Write `signature.json`: the key's id and its signature over the manifest."""
    signature = key.sign((package.path / MANIFEST).read_bytes())
    text = {"key": key_id(key.public_key()), "ed25519": base64.b64encode(signature).decode()}
    write_atomically(package.path / SIGNATURE, json.dumps(text, indent=1).encode())


def verify_signature(package: Package, keys: Iterable[Ed25519PublicKey]) -> None:
    """Check that one of the trusted keys signed the package.

    Raises
    ------
    AuthError
        It is unsigned, signed by an unknown key, or the signature is wrong.
    """
    trusted = {key_id(k): k for k in keys}
    try:
        text = json.loads((package.path / SIGNATURE).read_bytes())
        key, signature = str(text["key"]), base64.b64decode(text["ed25519"], validate=True)
    except FileNotFoundError as error:
        raise AuthError(f"package {package.short} is not signed; take only a learner's package over") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AuthError(f"package {package.short} has a malformed {SIGNATURE}: {error}") from error
    if key not in trusted:
        raise AuthError(f"package {package.short} is signed by key {key[:12]}, not a trusted one; enroll again")
    try:
        trusted[key].verify(signature, (package.path / MANIFEST).read_bytes())
    except InvalidSignature as error:
        raise AuthError(f"package {package.short}: the signature doesn't match; it was altered") from error


def key_id(key: Ed25519PublicKey) -> str:
    """SHA-256 of the raw public key, 64 hexadecimal digits."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def pack(package: Package) -> bytes:
    """The package as a zip archive: the same bytes for the same package."""
    out = io.BytesIO()
    names = sorted(package.manifest.files) + [MANIFEST] + ([SIGNATURE] if package.file(SIGNATURE).exists() else [])
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, package.file(name).read_bytes())
    return out.getvalue()


def unpack(data: bytes, into: Path) -> Package:
    """Unpack an archive made by `pack` into the new directory `into`, and check it whole.

    `into` appears complete or not at all.

    Raises
    ------
    PackageError
        Not a zip archive, too many or too large files, a path that leads
        outside, or a package that `load_package` refuses.
    """
    into.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".unpack-", dir=into.parent))
    try:
        _extract(data, work)
        package = load_package(work)
        if into.exists():
            shutil.rmtree(into)
        work.rename(into)
        return Package(into, package.manifest, package.digest)
    except OSError as error:
        raise StorageError(f"the package can't be written to '{into}': {error}; free some space") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _extract(data: bytes, into: Path) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            size = sum(i.file_size for i in infos)
            if len(infos) > MAX_FILES or size > MAX_PACKAGE_BYTES:
                raise PackageError(f"the archive claims {len(infos)} files of {size} bytes; that is no package")
            _check_names([i.filename for i in infos])
            for info in infos:
                target = into / info.filename
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise PackageError(f"'{info.filename}' is compressed by a method that no package uses")
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, target.open("wb") as out:
                    # A lying header can't make more than it declared: ZipExtFile stops at file_size.
                    shutil.copyfileobj(source, out, _CHUNK)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise PackageError(f"the package archive is damaged: {error}") from error


def _check_names(names: Sequence[str]) -> None:
    """Refuse paths that lead outside, that can't be files beside one another, or that come twice."""
    if len(set(names)) != len(names):
        raise PackageError("the archive holds a path twice, which no package does")
    folders = {str(p) for name in names for p in PurePosixPath(name).parents}
    for name in names:
        plain = len(name) <= MAX_NAME and all(_NAME_PART.fullmatch(part) for part in name.split("/"))
        if not plain or name in folders:
            raise PackageError(f"the archive holds the path {name[:80]!r}, which no package has")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a temporary file, flush it to the disk, and rename it over `path`.

    Raises
    ------
    StorageError
        The disk is full or not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"'{path}' can't be written: {error}; free some space or check the permissions") from error


def monai_metadata(manifest: Manifest) -> Mapping[str, Any]:
    """`configs/metadata.json` in the MONAI Bundle form, with the `latent` feature format."""
    spec = manifest.features
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
        "version": manifest.version,
        "monai_version": "1.5.0",
        "pytorch_version": "2.8.0",
        "numpy_version": "2.0.0",
        "required_packages_version": {"onnxruntime": "1.20.0"},
        "task": manifest.task,
        "description": "Extractor and recognizer of one featureloop package line. Not a medical device.",
        "authors": "the operator of the learner",
        "copyright": "see docs/README.md",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "rgb",
                    "num_channels": 3,
                    "spatial_shape": [manifest.preprocessing.size, manifest.preprocessing.size],
                    "dtype": "float32",
                    "value_range": [-1, 1],
                    "is_patch_data": False,
                    "channel_def": {"0": "red", "1": "green", "2": "blue"},
                }
            },
            "outputs": {
                "pred": {
                    "type": "latent",
                    "format": "position vectors",
                    "num_channels": spec.channels,
                    "spatial_shape": [spec.grid, spec.grid],
                    "dtype": "float32",
                    "value_range": [-1, 1],
                    "is_patch_data": False,
                    "channel_def": {str(i): f"channel {i}" for i in range(spec.channels)},
                }
            },
        },
    }
