"""Enrolment and authentication: codes work once, tokens are kept as hashes only."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featureloop.core.errors import AuthError, InputError
from featureloop.learner.auth import Auth, DeviceIdentity, Enrolled, RevokedError
from featureloop.learner.control import Control
from featureloop.learner.service import Learner
from featureloop.sharing.record import ENROLLED_ID
from featureloop.testing import FakeClock


def test_a_code_enrolls_one_device(learner: Learner) -> None:
    """Of the site that was invited, under a fresh id, with a token that authenticates it."""
    made = learner.auth.enroll(learner.auth.invite("clinic-a"))
    assert made.site == "clinic-a"
    assert ENROLLED_ID.fullmatch(made.device)
    assert learner.auth.authenticate(made.token) == DeviceIdentity("clinic-a", made.device)
    assert learner.auth.enrolled() == (DeviceIdentity("clinic-a", made.device),)
    assert made.token not in repr(made)


def test_codes_are_for_people_and_hard_to_guess(learner: Learner) -> None:
    """Four groups of five characters that can't be confused: 20 x 5 bits."""
    codes = {learner.auth.invite("clinic-a") for _ in range(20)}
    assert len(codes) == 20
    assert all(re.fullmatch(r"([0-9A-HJKMNP-TV-Z]{5}-){3}[0-9A-HJKMNP-TV-Z]{5}", code) for code in codes)


def test_a_code_may_be_typed_as_people_type(learner: Learner) -> None:
    """Lower case, spaces instead of hyphens, O for 0, I and l for 1."""
    code = learner.auth.invite("clinic-a")
    typed = f"  {code.lower().replace('-', ' ').replace('0', 'o').replace('1', 'l')} \n"
    assert learner.auth.enroll(typed).site == "clinic-a"


def test_a_code_works_once(learner: Learner) -> None:
    """The second device needs its own."""
    code = learner.auth.invite("clinic-a")
    learner.auth.enroll(code)
    with pytest.raises(AuthError, match="wrong, used or expired"):
        learner.auth.enroll(code)
    assert len(learner.auth.enrolled()) == 1


def test_of_many_at_once_one_gets_the_code(learner: Learner) -> None:
    """A race for one code makes one device."""
    code, made = learner.auth.invite("clinic-a"), list[Enrolled]()

    def attempt() -> None:
        try:
            made.append(learner.auth.enroll(code))
        except AuthError:
            return

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == len(learner.auth.enrolled()) == 1


def test_a_code_expires(learner: Learner, clock: FakeClock) -> None:
    """After 24 hours, or what was asked for."""
    long, short = learner.auth.invite("clinic-a"), learner.auth.invite("clinic-a", expiry_s=60)
    clock.advance(61)
    with pytest.raises(AuthError, match="expired"):
        learner.auth.enroll(short)
    clock.advance(24 * 3_600 - 62)
    assert learner.auth.enroll(long).site == "clinic-a"
    late = learner.auth.invite("clinic-a")
    clock.advance(24 * 3_600)
    with pytest.raises(AuthError, match="expired"):
        learner.auth.enroll(late)


@pytest.mark.parametrize("site", ["", "Clinic A", "a" * 33, "-a", "a\n", "Österreich", "founding", "founding-held"])
def test_a_site_that_no_record_can_name_is_refused(learner: Learner, site: str) -> None:
    """And so is a site whose records would be believed like the learner's own."""
    with pytest.raises(InputError, match="site"):
        learner.auth.invite(site)


def test_a_long_site_still_gives_enrolled_ids(learner: Learner) -> None:
    """A device's id says its site and stays within 32 characters."""
    made = [learner.auth.enroll(learner.auth.invite("a" * 32)) for _ in range(3)]
    assert len({m.device for m in made}) == 3
    assert all(ENROLLED_ID.fullmatch(m.device) for m in made)


def test_a_revoked_device_is_told_so(learner: Learner, device: Enrolled) -> None:
    """Revoked is another answer than unknown; the others stay."""
    other = learner.auth.enroll(learner.auth.invite("clinic-a"))
    learner.auth.revoke(device.device)
    learner.auth.revoke(device.device)
    with pytest.raises(RevokedError, match="was revoked"):
        learner.auth.authenticate(device.token)
    assert learner.auth.authenticate(other.token).device == other.device
    assert [e.action for e in learner.control.decisions()].count("revoke") == 1
    with pytest.raises(AuthError, match="no device 'nobody'"):
        learner.auth.revoke("nobody")


def test_neither_codes_nor_tokens_are_on_the_disk(learner: Learner, device: Enrolled) -> None:
    """Only hashes are: who steals the database can't speak as a device."""
    code = learner.auth.invite("clinic-b")
    learner.control.forget()
    raw = b"".join(f.read_bytes() for f in learner.path.glob("control.sqlite*"))
    assert device.token.encode() not in raw
    assert code.encode() not in raw
    assert code.replace("-", "").encode() not in raw


@pytest.fixture(scope="module")
def auth(tmp_path_factory: pytest.TempPathFactory) -> Auth:
    return Auth(Control(f"sqlite:///{tmp_path_factory.mktemp('auth') / 'control.sqlite'}"))


@given(text=st.text(max_size=300))
def test_strange_codes_and_tokens_are_refused(auth: Auth, text: str) -> None:
    """Any text is answered with AuthError."""
    with pytest.raises(AuthError):
        auth.enroll(text)
    with pytest.raises(AuthError):
        auth.authenticate(text)


def test_decisions_are_kept(learner: Learner, device: Enrolled) -> None:
    """Who invited and who enrolled, without any secret."""
    kept = [(e.actor, e.action, e.subject) for e in learner.control.decisions()]
    assert kept[:2] == [(device.device, "enroll", "clinic-a"), ("operator", "invite", "clinic-a")]


def test_the_database_is_the_state(tmp_path: Path) -> None:
    """Another process with the same file knows the device."""
    url = f"sqlite:///{tmp_path / 'control.sqlite'}"
    first, second = Control(url), Control(url)
    made = Auth(first).enroll(Auth(first).invite("a"))
    assert Auth(second).authenticate(made.token).site == "a"
    first.close()
    second.close()
