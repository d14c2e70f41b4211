"""The learner's API as the device uses it: deliver records, enroll, ask for its health."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

import httpx

from featureloop.core.errors import AuthError, TransportError
from featureloop.core.ports import Clock, Receipt
from featureloop.device.exchange import TIMEOUT_S, bearer, check_url, exchange, opened, plain
from featureloop.device.state import Identity
from featureloop.sharing.together import media_type_of

MAX_KEYS = 16


class HttpWire:
    """`core.ports.Wire` over HTTPS.

    Parameters
    ----------
    identity
        Whose token is sent, and to which learner.
    client
        Settings such as certificates and proxies; None for httpx's defaults.
        The caller closes its own.
    timeout
        Seconds for each step of the network.
    allow_plain_http
        Send the token in clear to another machine.

    Raises
    ------
    AuthError
        The learner's URL is http:// to another machine and that isn't allowed.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        client: httpx.Client | None = None,
        timeout: float = TIMEOUT_S,
        allow_plain_http: bool = False,
        clock: Clock = time.time,
    ) -> None:
        self._url = check_url(identity.learner, allow_plain_http=allow_plain_http) + "/v1/records"
        self._headers = bearer(identity)
        self._client = httpx.Client(timeout=timeout) if client is None else client
        self._owned = client is None
        self._timeout = timeout
        self._clock = clock

    def close(self) -> None:
        """Close the connections that this wire opened itself."""
        if self._owned:
            self._client.close()

    def deliver(self, body: bytes) -> Receipt:
        """Send a body of records, an Arrow IPC stream or records that are coded together.

        Raises
        ------
        TransportError
            The learner is away, slow, or answers nonsense; `RetryLaterError` where it asks to wait,
            `MediaTypeRefusedError` where it takes no bodies of this type.
        AuthError
            The token is refused (401, 403).
        RecordError
            The body as a whole is refused (400, 422); `BodyTooLargeError` for 413.
        """
        answer = exchange(
            self._client,
            "POST",
            self._url,
            headers={**self._headers, "Content-Type": media_type_of(body)},
            content=body,
            timeout=self._timeout,
            clock=self._clock,
        )
        if answer.status != 200:
            raise answer.error()
        return _receipt(answer.json_object())


def _receipt(data: Mapping[str, Any]) -> Receipt:
    held, refused = data.get("held"), data.get("refused")
    if not isinstance(held, list) or not isinstance(refused, dict):
        raise TransportError(f"the receipt has no 'held' list or no 'refused' object: {str(dict(data))[:80]}")
    reasons = {_id(k): plain(v) if isinstance(v, str) else "no reason given" for k, v in refused.items()}
    return Receipt(frozenset(_id(k) for k in held), reasons)


def _id(text: object) -> bytes:
    try:
        raw = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise TransportError(f"the receipt names {str(text)[:80]!r}, which is no record id")
    return raw


def enroll(
    url: str,
    code: str,
    *,
    client: httpx.Client | None = None,
    timeout: float = TIMEOUT_S,
    allow_plain_http: bool = False,
) -> Identity:
    """Exchange a one-time code for the device's identity.

    Raises
    ------
    AuthError
        The code is wrong, used or expired, or the URL would send the token in clear.
    TransportError
        The learner can't be reached, or answers nonsense.
    """
    learner = check_url(url, allow_plain_http=allow_plain_http)
    content = json.dumps({"code": code}).encode()
    with opened(client, timeout=timeout) as http:
        headers = {"Content-Type": "application/json"}
        answer = exchange(http, "POST", f"{learner}/v1/enroll", headers=headers, content=content, timeout=timeout)
    if answer.status in (401, 403):
        raise AuthError(
            "the learner refused the code: it is wrong, used or expired; ask the learner's operator for a new one"
        )
    if answer.status != 200:
        error = answer.error()
        raise error if isinstance(error, TransportError) else TransportError(str(error))
    data = answer.json_object()
    try:
        found = data["keys"]
        if not isinstance(found, list) or len(found) > MAX_KEYS:
            raise ValueError(f"'keys' must be a list of at most {MAX_KEYS}")
        keys = tuple(base64.b64decode(k, validate=True) for k in found)
        return Identity(learner=learner, site=data["site"], device=data["device"], token=data["token"], keys=keys)
    except (KeyError, TypeError, ValueError) as error:
        raise TransportError(f"the learner's answer to the code is no identity ({error!r}); check the URL") from error


def check_health(
    url: str, *, client: httpx.Client | None = None, timeout: float = 5.0, allow_plain_http: bool = False
) -> None:
    """Ask a learner whether it is well.

    Raises
    ------
    TransportError
        It can't be reached, or says otherwise.
    """
    learner = check_url(url, allow_plain_http=allow_plain_http)
    with opened(client, timeout=timeout) as http:
        answer = exchange(http, "GET", f"{learner}/v1/health", timeout=timeout)
    if answer.status != 200 or answer.json_object().get("status") != "ok":
        raise TransportError(f"the learner at {learner} isn't well (it answered {answer.status}); ask its operator")
