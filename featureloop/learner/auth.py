"""Who may provide: one-time enrolment codes, and one token per device, both kept only as hashes."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from featureloop.core.errors import AuthError, InputError
from featureloop.core.ports import Clock
from featureloop.learner.control import Control, Event, codes, devices
from featureloop.sharing.record import ENROLLED_ID

EXPIRY_S = 24 * 3_600.0
RESERVED = ("founding", "founding-held")
"""Sites under which the learner keeps its own founding records; a device there would be believed like them."""

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no I, L, O, U, so that a code survives being read out and typed."""
_CODE_CHARACTERS = 20
_ALIKE = str.maketrans("ILO", "110")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


class RevokedError(AuthError):
    """The device is known, and was shut out by the operator."""


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """Who speaks.

    Attributes
    ----------
    site, device
        Enrolled ids.
    """

    site: str
    device: str


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What a device is given once.

    Attributes
    ----------
    site, device
        Its enrolled ids.
    token
        Its secret, 256 bits; only its hash is kept here.
    """

    site: str
    device: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Auth:
    """Enrolment and authentication over the control database."""

    control: Control
    clock: Clock = field(default=time.time, compare=False)

    def invite(self, site: str, *, expiry_s: float = EXPIRY_S) -> str:
        """A code of 100 bits with which one device of a site can enroll, once.

        Raises
        ------
        InputError
            The site's name is no enrolled id, or kept for the learner itself.
        """
        if not ENROLLED_ID.fullmatch(site):
            raise InputError(
                f"site {site[:60]!r} can't be; use 1 to 32 lower-case letters, digits and hyphens, such as 'clinic-a'"
            )
        if site in RESERVED:
            raise InputError(f"site '{site}' is kept for founding records; choose another name")
        raw = "".join(secrets.choice(_ALPHABET) for _ in range(_CODE_CHARACTERS))
        now = self.clock()
        with self.control.write() as connection:
            connection.execute(codes.insert().values(code_hash=_hash(raw), site=site, expires=now + expiry_s))
            self.control.note(connection, Event(now, "operator", "invite", site, "code made"))
        return "-".join(raw[i : i + 5] for i in range(0, _CODE_CHARACTERS, 5))

    def enroll(self, code: str) -> Enrolled:
        """Exchange a code for a new device's id and token.

        Raises
        ------
        AuthError
            The code is wrong, used or expired. The message doesn't say which.
        """
        hashed, now = _hash(_typed(code)), self.clock()
        token = secrets.token_urlsafe(32)
        usable = (codes.c.code_hash == hashed) & codes.c.used_by.is_(None) & (codes.c.expires > now)
        with self.control.write() as connection:
            site = connection.execute(sa.select(codes.c.site).where(usable)).scalar_one_or_none()
            if site is None:
                raise AuthError("the enrolment code is wrong, used or expired; ask the learner's operator for another")
            device = _new_id(connection, site)
            # The condition repeats, so that of two at once only one gets the code on any database.
            taken = connection.execute(codes.update().where(usable).values(used_by=device)).rowcount
            if taken != 1:
                raise AuthError("the enrolment code was used at this moment; ask the learner's operator for another")
            row = {"id": device, "site": site, "token_hash": _hash(token), "enrolled": now}
            connection.execute(devices.insert().values(row))
            self.control.note(connection, Event(now, device, "enroll", site, "enrolled"))
        return Enrolled(site, device, token)

    def authenticate(self, token: str) -> DeviceIdentity:
        """Whose token it is.

        The look-up is by the token's hash, so that its time tells nothing about the token.

        Raises
        ------
        RevokedError
            The device was revoked.
        AuthError
            Nobody has this token.
        """
        hashed = _hash(token if _TOKEN.fullmatch(token) else "")
        with self.control.read() as connection:
            row = connection.execute(sa.select(devices).where(devices.c.token_hash == hashed)).one_or_none()
        if row is None or not hmac.compare_digest(row.token_hash, hashed):
            raise AuthError("the token is no enrolled device's; enroll the device again")
        if row.revoked is not None:
            raise RevokedError(f"device {row.id} was revoked; ask the learner's operator")
        return DeviceIdentity(row.site, row.id)

    def revoke(self, device: str) -> None:
        """Shut a device out; a repeat is harmless.

        Raises
        ------
        AuthError
            No such device is enrolled.
        """
        now = self.clock()
        with self.control.write() as connection:
            known = connection.execute(sa.select(devices.c.id).where(devices.c.id == device)).first()
            if known is None:
                raise AuthError(f"no device '{device[:60]}' is enrolled here; the device list names them")
            still_in = (devices.c.id == device) & devices.c.revoked.is_(None)
            if connection.execute(devices.update().where(still_in).values(revoked=now)).rowcount:
                self.control.note(connection, Event(now, "operator", "revoke", device, "revoked"))

    def enrolled(self) -> tuple[DeviceIdentity, ...]:
        """All devices that aren't revoked."""
        chosen = sa.select(devices.c.site, devices.c.id).where(devices.c.revoked.is_(None))
        with self.control.read() as connection:
            rows: Any = connection.execute(chosen.order_by(devices.c.site, devices.c.id))
            return tuple(DeviceIdentity(*row) for row in rows)


def _new_id(connection: sa.Connection, site: str) -> str:
    """An id that says the site, and that no other device has."""
    while True:
        device = f"{site[:23]}-{secrets.token_hex(4)}"
        if connection.execute(sa.select(devices.c.id).where(devices.c.id == device)).first() is None:
            return device


def _typed(code: str) -> str:
    """A code as it was made, from what a person typed."""
    return re.sub(r"[\s-]", "", code[:100]).upper().translate(_ALIKE)


def _hash(secret: str) -> bytes:
    """SHA-256; the secrets have 100 bits and more, so that no slow hash is needed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
