"""HTTPS to the learner: bounded answers, and every foreign error translated.

The learner is believed only as far as needed: an answer is read up to a
limit of bytes and of time, never decompressed, and checked before use.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from featureloop.core.errors import (
    AuthError,
    BodyTooLargeError,
    InputError,
    MediaTypeRefusedError,
    RecordError,
    RetryLaterError,
    TransportError,
)
from featureloop.core.ports import Clock
from featureloop.device.state import Identity

TIMEOUT_S = 30.0
MAX_ANSWER = 4 << 20
AGENT = "featureloop"
"""No version and no library: versions tell devices apart that share a site."""
MAX_RETRY_AFTER_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, read whole.

    Attributes
    ----------
    status
        The HTTP status code.
    body
        At most as many bytes as the caller allowed.
    after_s
        The `Retry-After` header in seconds, bounded; None where there is none.
    """

    status: int
    body: bytes
    after_s: float | None

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises
        ------
        TransportError
            It is something else, such as a proxy's HTML page.
        """
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise TransportError(
                f"the answer is no JSON but {self.body[:60]!r}; check the URL, and whether a proxy answers instead"
            ) from error
        if not isinstance(value, dict):
            raise TransportError(f"the answer is no JSON object but {str(value)[:60]!r}; check the URL")
        return value

    def error(self) -> Exception:
        """What an answer that isn't a success means, in the project's errors."""
        said = self._said()
        if self.status in (401, 403):
            return AuthError(
                f"the learner refused this device ({self.status}: {said}); ask its operator, and enroll again"
            )
        if self.status == 413:
            return BodyTooLargeError(f"the body is too large for the learner (413: {said})")
        if self.status in (400, 422):
            return RecordError(f"the learner can't read the body ({self.status}: {said})")
        message = f"the learner answered {self.status}: {said}"
        if self.after_s is not None:
            return RetryLaterError(f"{message}; trying again after {self.after_s:.0f} s", after_s=self.after_s)
        if 300 <= self.status < 400:
            return TransportError(f"{message}; give the learner's final URL, redirects aren't followed")
        kind = MediaTypeRefusedError if self.status == 415 else TransportError
        return kind(f"{message}; check the URL, or try again later")

    def _said(self) -> str:
        try:
            text = self.json_object().get("error")
        except TransportError:
            text = None
        return plain(text) if isinstance(text, str) else "no reason given"


def plain(text: str) -> str:
    """A stranger's text made fit for a log line: printable, on one line, at most 200 characters."""
    return "".join(c if c.isprintable() else " " for c in text[:200]).strip()


def check_url(url: str, *, allow_plain_http: bool = False) -> str:
    """A learner's URL without its trailing slash.

    Raises
    ------
    InputError
        It is no http or https URL.
    AuthError
        It is http:// to another machine: the token would travel in clear.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise InputError(f"'{url[:200]}' is no URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InputError(f"'{url[:200]}' is no URL of a learner; give one like https://learner.example.org")
    if parsed.query or parsed.fragment or parsed.userinfo:
        raise InputError("a learner's URL has no user, query or fragment; give one like https://learner.example.org")
    if parsed.scheme == "http" and not allow_plain_http and not _is_loopback(parsed.host):
        raise AuthError(f"'{url[:200]}' would send the device's token in clear; use https://, or allow http explicitly")
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def opened(client: httpx.Client | None, *, timeout: float) -> Iterator[httpx.Client]:
    """The caller's client, or a new one that is closed at the end."""
    if client is not None:
        yield client
        return
    with httpx.Client(timeout=timeout) as made:
        yield made


def exchange(
    client: httpx.Client,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    content: bytes | None = None,
    timeout: float = TIMEOUT_S,
    max_bytes: int = MAX_ANSWER,
    clock: Clock = time.time,
) -> Answer:
    """One request, and its answer read up to a limit.

    Parameters
    ----------
    timeout
        Seconds for each step of the network; the answer's body has ten times as long in all.
    max_bytes
        Longer answers are cut off unread.

    Raises
    ------
    TransportError
        The learner can't be reached, is too slow, or its answer is too long or compressed.
    """
    sent = {"Accept-Encoding": "identity", "User-Agent": AGENT, **(headers or {})}
    try:
        with client.stream(
            method, url, headers=sent, params=params, content=content, timeout=timeout, follow_redirects=False
        ) as response:
            body = _read(response, max_bytes=max_bytes, until=clock() + 10 * timeout, clock=clock)
            after = _retry_after(response.headers.get("Retry-After"), now=clock())
            return Answer(response.status_code, body, after)
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
        what = str(error) or type(error).__name__
        raise TransportError(f"the learner at {url} can't be reached ({what}); trying again later helps") from error


def _read(response: httpx.Response, *, max_bytes: int, until: float, clock: Clock) -> bytes:
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        # Decompressing could fill the memory before any limit is seen.
        raise TransportError(f"the learner sent a '{plain(coding)}' body that nobody asked for; check for a proxy")
    chunks, size = [], 0
    for chunk in response.iter_bytes():
        size += len(chunk)
        if size > max_bytes:
            raise TransportError(f"the learner's answer is over {max_bytes} bytes; check the URL")
        if clock() > until:
            raise TransportError(f"the learner's answer takes too long ({size} bytes so far); trying again later helps")
        chunks.append(chunk)
    return b"".join(chunks)


def _retry_after(text: str | None, *, now: float) -> float | None:
    """Seconds from a `Retry-After` header (RFC 9110, section 10.2.3); None where it can't be read."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), MAX_RETRY_AFTER_S)
    try:
        when = parsedate_to_datetime(text)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return min(max(when.timestamp() - now, 0.0), MAX_RETRY_AFTER_S)
    except (ValueError, OverflowError):
        return None


def bearer(identity: Identity) -> dict[str, str]:
    """The header that says which device speaks."""
    return {"Authorization": f"Bearer {identity.token}"}
