"""Chance that nobody without the key can repeat: a ChaCha20 stream as permutations and Gaussian numbers.

What is drawn for a frame is a function of a secret key and of the frame's own
vectors. So a frame that is processed twice leaves the same rows with the same
noise, and no average over repeats takes the noise away (the permanent response
of Erlingsson et al. 2014, arXiv:1407.6981). The stream is RFC 8439's.
"""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray


class Draws:
    """Random numbers from a key.

    Parameters
    ----------
    secret
        Bytes that the receivers of what is drawn don't have.
    purpose
        Draws for different purposes have nothing to do with each other.
    content
        What is drawn for, as bytes.
    """

    def __init__(self, secret: bytes, purpose: str, content: bytes) -> None:
        key = hmac.digest(secret, b"featureloop.draws/" + purpose.encode() + b"/" + content, hashlib.sha256)
        self._stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()

    def permutation(self, n: int) -> NDArray[np.intp]:
        """The numbers 0 to n - 1, intp (n,), every order as likely as any other but for ties of 2**-64."""
        return np.argsort(self._words(n), kind="stable")

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Independent standard normal numbers, float64, by the method of Box and Muller (1958)."""
        n = int(np.prod(shape))
        half = -(-n // 2)
        unit = ((self._words(2 * half) >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53  # in (0, 1)
        radius, angle = np.sqrt(-2 * np.log(unit[:half])), 2 * np.pi * unit[half:]
        both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return both[:n].reshape(shape)

    def _words(self, n: int) -> NDArray[np.uint64]:
        return np.frombuffer(self._stream.update(bytes(8 * n)), "<u8")
