"""Who may log in, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from featureloop.core.errors import AuthError, InputError
from featureloop.device.pages.accounts import SESSION_S, Accounts, Role
from featureloop.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def accounts(tmp_path: Path, clock: FakeClock) -> Iterator[Accounts]:
    opened = Accounts(tmp_path / "users.sqlite", clock=clock, cost=16)
    opened.add("anna", "a long password", role=Role.REVIEWER)
    yield opened
    opened.close()


def test_a_session_is_of_its_user_until_it_is_closed(accounts: Accounts) -> None:
    token = accounts.log_in("anna", "a long password")
    user = accounts.user_of(token)
    assert user is not None
    assert (user.name, user.role) == ("anna", Role.REVIEWER)
    assert accounts.user_of(token + "x") is None
    accounts.log_out(token)
    assert accounts.user_of(token) is None


def test_a_session_ends_after_its_last_use(accounts: Accounts, clock: FakeClock) -> None:
    token = accounts.log_in("anna", "a long password")
    for _ in range(3):
        clock.now += SESSION_S - 1
        assert accounts.user_of(token) is not None
    clock.now += SESSION_S + 1
    assert accounts.user_of(token) is None


def test_wrong_names_and_passwords_are_told_alike(accounts: Accounts) -> None:
    said = set()
    for name, password in (("anna", "another password"), ("bert", "a long password"), ("", "")):
        with pytest.raises(AuthError) as wrong:
            accounts.log_in(name, password)
        said.add(str(wrong.value))
    assert len(said) == 1


def test_a_new_password_ends_old_sessions(accounts: Accounts) -> None:
    token = accounts.log_in("anna", "a long password")
    accounts.add("anna", "quite another one", role=Role.OPERATOR)
    assert accounts.user_of(token) is None
    with pytest.raises(AuthError):
        accounts.log_in("anna", "a long password")
    assert accounts.users() == [("anna", Role.OPERATOR)]


def test_a_removed_user_is_out_at_once(accounts: Accounts) -> None:
    token = accounts.log_in("anna", "a long password")
    accounts.remove("anna")
    assert accounts.user_of(token) is None
    with pytest.raises(InputError, match="no user 'anna'"):
        accounts.remove("anna")


@pytest.mark.parametrize(
    ("name", "password"), [("Anna", "a long password"), ("", "a long password"), ("bert", "short")]
)
def test_names_and_passwords_that_cannot_be_are_refused(accounts: Accounts, name: str, password: str) -> None:
    with pytest.raises(InputError):
        accounts.add(name, password, role=Role.REVIEWER)


def test_the_file_holds_no_password_and_no_token(accounts: Accounts, tmp_path: Path) -> None:
    token = accounts.log_in("anna", "a long password")
    held = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert b"a long password" not in held
    assert token.encode() not in held
    assert (tmp_path / "users.sqlite").stat().st_mode & 0o077 == 0
