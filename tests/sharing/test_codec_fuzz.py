"""Payloads that were tampered with: refused with a reason, or of the declared shape; never a hang or a crash.

A few thousand of them here; FEATURELOOP_FUZZ=1000000 makes a million (`make soak`).
"""

from __future__ import annotations

import os
import resource
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from featureloop.core.errors import RecordError
from featureloop.core.types import UInt8
from featureloop.model.manifest import ReleasedForm
from featureloop.sharing import codec
from tests.sharing.test_multiset import drawn_bag, set_form
from tests.sharing.test_ordered import ordered_form
from tests.sharing.test_pooled_codec import CLASSES, drawn, pooled_form

MUTATIONS = int(os.environ.get("FEATURELOOP_FUZZ", "6000"))
MOST_ROWS = 100
MOST_SECONDS = 2.0
"""Of one payload; most take a millisecond."""
MOST_MEMORY = 256 << 20
"""Bytes by which the process may grow, tables that are kept included."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A payload, how it is read, and what a reading has to be."""

    name: str
    payload: bytes
    read: Callable[[bytes], UInt8]
    columns: int
    highest: UInt8


def targets() -> list[Target]:
    made = []
    for levels, flags, width in (([69, 11, 9, 5, 3], 16, 16), ([256, 2], 2, 6), ([3] * 12, 1, 1)):
        bagged = set_form(levels, flags=flags, seed=len(levels))
        for form in (bagged, replace(bagged, bag=None)):
            made += targets_of(form, flags, width)
    made += single_targets()
    for text, levels in (("window=2", [69, 11, 9, 5, 3]), ("none", [255, 16, 2]), ("window=4", [3, 3])):
        made += targets_of(ordered_form(text, levels), 16, 16)[:1]
    return made


def single_targets() -> list[Target]:
    """Of one pooled vector, whose checksum is in the code stream: hardly any of them is read."""
    form = pooled_form([3, 9, 33, 5] * 10, seed=7)
    symbols, row = drawn(form, 7)

    def features(payload: bytes) -> UInt8:
        return codec.decode_features(payload, form, max_vectors=1)

    def rows(payload: bytes) -> UInt8:
        return codec.decode_rows(payload, form, width=CLASSES, max_vectors=1, symbols=symbols)

    top = np.array([n - 1 for n in form.levels], np.uint8)
    return [
        Target("pool/1 features", codec.encode_features(symbols, form), features, len(form.levels), top),
        Target("pool/1 rows", codec.encode_rows(row, form), rows, CLASSES, np.ones(CLASSES, np.uint8)),
    ]


def targets_of(form: ReleasedForm, flags: int, width: int) -> list[Target]:
    n = 60 if form.ordered is None else 64
    bag, name = drawn_bag(form, n, 3, changed=True, width=width), f"{codec.codec_of(form)} {form.anonymizer}"
    assert bag.changed is not None
    symbols, recognized = bag.symbols, bag.recognized

    def features(payload: bytes) -> UInt8:
        return codec.decode_features(payload, form, max_vectors=MOST_ROWS)

    def rows(payload: bytes) -> UInt8:
        return codec.decode_rows(payload, form, width=width, max_vectors=MOST_ROWS, symbols=symbols)

    def changed(payload: bytes) -> UInt8:
        return codec.decode_rows(payload, form, width=width, max_vectors=MOST_ROWS, symbols=symbols, before=recognized)

    def softened(payload: bytes) -> UInt8:
        return codec.decode_soft_rows(payload, form, before=recognized)

    soft = np.random.default_rng(4).integers(0, 256, recognized.shape).astype(np.uint8)
    soft[:, flags:] *= soft[:, :flags].any(axis=1, keepdims=True)
    top = np.array([n - 1 for n in form.levels], np.uint8)
    most = np.array([1] * flags + [255] * (width - flags), np.uint8)
    return [
        Target(f"{name} features", codec.encode_features(symbols, form), features, len(form.levels), top),
        Target(f"{name} rows", codec.encode_rows(recognized, form, symbols=symbols), rows, width, most),
        Target(
            f"{name} changed rows",
            codec.encode_rows(bag.changed, form, symbols=symbols, before=recognized),
            changed,
            width,
            most,
        ),
        Target(
            f"{name} softened rows",
            codec.encode_soft_rows(soft, form, before=recognized),
            softened,
            width,
            np.full(width, 255, np.uint8),
        ),
    ]


def mutated(payload: bytes, rng: np.random.Generator) -> bytes:
    """A payload with bits flipped, bytes replaced, cut, or grown; in two of three cases under a right checksum."""
    body = bytearray(payload)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(len(body))) if body else 0
        match int(rng.integers(6)):
            case 0 | 1 if body:
                body[at] ^= 1 << int(rng.integers(8))
            case 2 if body:
                body[at] = int(rng.integers(256))
            case 3:
                del body[at : at + int(rng.integers(1, 9))]
            case 4:
                body[at:at] = rng.bytes(int(rng.choice([1, 4, 8, 64])))
            case 5:
                body[:4] = struct.pack(
                    "<I", int(rng.choice([0, 1, 4, 16, 49, 59, 61, 64, MOST_ROWS, MOST_ROWS + 1, 2**32 - 1]))
                )
    if rng.integers(3) and len(body) >= 4:
        body[-4:] = struct.pack("<I", zlib.crc32(body[:-4]))
    return bytes(body)


EARLY = ("checksum", "truncated", "claims", "padded")
"""What is refused before anything is decoded says one of these."""


def test_a_part_above_its_whole_whose_rest_is_asked_again_is_refused() -> None:
    """Found after 610,740 mutations: the rest was below zero, and no table is of so few."""
    payload = bytes.fromhex(
        "3c00000093e1b4ff81260209282d0400669d006895840081b69909792ba516bb4d68af5fc3f9fff62701001d5f1df9d79f8b0be33ef5ffdf"
        "860d0378f001041de4330004a9dcfd75b2a82895931203390d0000650000003c7a00008d030000e83410da1f0e00003e58230e50bd660e9a"
        "94287ecfe0660c1901a400e3f4caf5acd2fb9c137ece01" + 45 * "00" + "070d9430"
    )
    with pytest.raises(RecordError, match="no valid code stream"):
        codec.decode_features(payload, set_form([69, 11, 9, 5, 3], seed=5), max_vectors=MOST_ROWS)


@pytest.mark.timeout(0 if MUTATIONS > 100_000 else 300)
def test_tampered_payloads_are_refused_or_of_the_declared_shape_in_bounded_time_and_memory() -> None:
    rng, asked = np.random.default_rng(1), targets()
    read, refused, decoded, slowest = Counter[str](), 0, set[str](), 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(MUTATIONS):
        target = asked[i % len(asked)]
        payload = mutated(target.payload, rng)
        started = time.perf_counter()
        try:
            found = target.read(payload)
        except RecordError as error:
            refused += 1
            # A single row's checksum is what is left of the stream when the row was taken.
            single = target.name.startswith("pool/1") and "checksum" in str(error)
            if single or not any(early in str(error) for early in EARLY):
                decoded.add(target.name)
        else:
            read[target.name] += 1
            decoded.add(target.name)
            assert found.dtype == np.uint8
            assert found.shape[1] == target.columns
            assert len(found) <= MOST_ROWS
            assert (found <= target.highest).all()
        slowest = max(slowest, time.perf_counter() - started)
    assert slowest < MOST_SECONDS
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < MOST_MEMORY
    # Some have to get past the checksum and through the decoder, else nothing was tried.
    assert decoded == {target.name for target in asked}
    assert sum(read.values()) > MUTATIONS // 100
    assert refused + sum(read.values()) == MUTATIONS
