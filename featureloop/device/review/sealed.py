"""What the review keeps of a frame, encrypted: AES-256-GCM (NIST SP 800-38D) under a key of the device.

The image, its features and its result lie on the disk only in this form, bound to their case's key, so that one
can't be put in another's place. Arrays are NumPy's own file format without pickle; images are PNG inside.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from PIL import Image

from featureloop.core.errors import StorageError
from featureloop.core.types import Asked, Deep, Frame, Recognition, Task, UInt8

KEY_BYTES = 32
_NONCE = 12


def load_key(path: Path) -> bytes:
    """The key in a file, made where there is none (mode 0600).

    Raises
    ------
    StorageError
        It can't be read or written, or is no key.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            key = path.read_bytes()
        else:
            key = secrets.token_bytes(KEY_BYTES)
            with os.fdopen(made, "wb") as file:
                file.write(key)
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"the review's key '{path}' can't be used: {error}; check its folder") from error
    if len(key) != KEY_BYTES:
        raise StorageError(
            f"the review's key '{path}' has {len(key)} bytes instead of {KEY_BYTES}: move it away together with "
            "review.sqlite, whose images can't be opened without it; their frames are asked about again"
        )
    return key


def seal(data: bytes, *, key: bytes, bound_to: bytes) -> bytes:
    """Encrypt; only who has the key and names the same case opens it."""
    nonce = secrets.token_bytes(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, data, bound_to)


def unseal(data: bytes, *, key: bytes, bound_to: bytes) -> bytes:
    """Decrypt.

    Raises
    ------
    StorageError
        It was changed, or is another key's.
    """
    try:
        return AESGCM(key).decrypt(data[:_NONCE], data[_NONCE:], bound_to)
    except InvalidTag as error:
        raise StorageError("a case of the review can't be opened: it is damaged, or of another review.key") from error


def pack(asked: Asked) -> bytes:
    """A doubtful result as bytes; the truth that a labelled folder knows is left out."""
    frame, found = asked.frame, asked.recognition
    head: dict[str, Any] = {
        "name": frame.name,
        "index": frame.index,
        "group": frame.group,
        "task": str(found.task),
        "reliability": asked.reliability,
        "package": asked.package.hex(),
        "energy": found.energy,
        "outlying": found.outlying,
        "agreement": found.agreement,
    }
    arrays: dict[str, Any] = {
        "image": np.frombuffer(png(frame.pixels), np.uint8),
        "vectors": asked.vectors,
        "probabilities": found.probabilities,
    }
    if found.distances is not None:
        arrays["distances"] = found.distances
    if frame.deep is not None:
        head |= {"low": frame.deep.low, "high": frame.deep.high}
        arrays["deep"] = np.frombuffer(zlib.compress(frame.deep.values.tobytes(), 1), np.uint8)
    arrays["head"] = np.frombuffer(json.dumps(head).encode(), np.uint8)
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def unpack(data: bytes, *, key: bytes) -> Asked:
    """The doubtful result of these bytes; `key` is what its frame is marked as done by."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        head = json.loads(arrays["head"].tobytes())
        pixels = np.asarray(Image.open(io.BytesIO(arrays["image"].tobytes())))
        distances = arrays.get("distances")
        found = Recognition(
            Task(head["task"]),
            arrays["probabilities"],
            distances,
            head["energy"],
            head["outlying"],
            head.get("agreement"),
        )
        deep = None
        if "deep" in arrays:
            inflated = zlib.decompress(arrays["deep"].tobytes())
            deep = Deep(np.frombuffer(inflated, np.uint16).reshape(pixels.shape[:2]), head["low"], head["high"])
        frame = Frame(pixels, head["name"], head["index"], head["group"], deep=deep)
        package = bytes.fromhex(head["package"])
        return Asked(key, frame, arrays["vectors"], found, head["reliability"], package)


def png(pixels: UInt8) -> bytes:
    """An image as PNG, packed lightly: it lies here for a short time, and the pipeline waits for it."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def pack_rows(rows: UInt8) -> bytes:
    """Rows of targets as bytes."""
    out = io.BytesIO()
    np.save(out, rows, allow_pickle=False)
    return out.getvalue()


def unpack_rows(data: bytes) -> UInt8:
    """Rows of targets of these bytes."""
    rows: UInt8 = np.load(io.BytesIO(data), allow_pickle=False)
    return rows
