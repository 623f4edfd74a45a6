"""Passwords: parameters, the bound on hashes, and what is refused."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.accounts.passwords import Argon2id, Passwords
from app.errors import TooManyRequestsError, ValidationFailedError
from tests.accounts.world import EMAIL, PASSWORD, CountingHashing


def test_hashes_are_argon2id_with_the_parameters_of_the_design() -> None:
    kept = Passwords().hash(PASSWORD)

    assert kept.startswith("$argon2id$v=19$m=47104,t=1,p=1$")


@pytest.mark.parametrize(
    "password", [PASSWORD, " spaces stay ", "påsswörd-ÅÄÖ", "naïve\0null and \n line", "x" * 128]
)
def test_a_password_is_taken_unaltered(password: str) -> None:
    passwords = Passwords(CountingHashing())
    kept = passwords.hash(password)

    others = [password.strip() + ".", password.swapcase(), password[:-1]]

    assert passwords.verify(kept, password)
    assert not any(passwords.verify(kept, other) for other in others if other != password)


def test_a_hash_that_cannot_be_read_is_of_no_password() -> None:
    assert not Passwords(CountingHashing()).verify("!", PASSWORD)


def test_a_missing_user_costs_one_check_like_a_wrong_password() -> None:
    hashing = CountingHashing()
    passwords = Passwords(hashing)
    kept = passwords.hash(PASSWORD)

    results = []
    for password_hash in (kept, None):
        before = hashing.checks
        assert not passwords.verify(password_hash, "wrong password")
        results.append(hashing.checks - before)

    assert results == [1, 1]


def test_nobodys_hash_has_the_parameters_of_all_others() -> None:
    hashing = Argon2id(64)
    passwords = Passwords(hashing)

    assert not passwords.is_outdated(passwords._nobodys_hash)


def test_an_outdated_hash_is_known() -> None:
    assert Passwords(Argon2id(64)).is_outdated(Argon2id(32).hash(PASSWORD))


def test_two_hashes_run_eight_wait_and_the_next_is_refused() -> None:
    hashing = CountingHashing()
    passwords = Passwords(hashing)
    kept = passwords.hash(PASSWORD)
    hashing.gate.clear()
    admitted = threading.Semaphore(0)

    def check() -> bool:
        admitted.release()
        return passwords.verify(kept, PASSWORD)

    with ThreadPoolExecutor(10) as pool:
        running = [pool.submit(check) for _ in range(10)]
        for _ in range(10):
            assert admitted.acquire(timeout=30)
        while passwords._admitted < 10:  # the last ones are between the two lines above
            threading.Event().wait(0.001)
        with pytest.raises(TooManyRequestsError) as refused:
            passwords.verify(kept, PASSWORD)
        for _ in range(2):
            assert hashing.arrived.acquire(timeout=30)
        hashing.gate.set()
        results = [future.result(30) for future in running]

    assert refused.value.retry_after_seconds == 1
    assert results == [True] * 10
    assert hashing.most_running == 2
    assert passwords.verify(kept, PASSWORD)


@pytest.mark.parametrize(
    "password",
    [
        "seven77",
        "x" * 129,
        "password",
        "PassWord",
        "iloveyou",
        "1234567890",
        "photo-api",
        "PhotoApi2026!",
        "my photos 1",
        "admin-password",
        "ada@example.org",
        "ADA@example.ORG",
    ],
)
def test_passwords_that_one_guesses_first_are_refused(password: str) -> None:
    with pytest.raises(ValidationFailedError) as refused:
        Passwords(CountingHashing()).require_acceptable(password, EMAIL)

    assert refused.value.errors[0]["pointer"] == "/password"


def test_a_refusal_does_not_repeat_the_password() -> None:
    with pytest.raises(ValidationFailedError) as refused:
        Passwords(CountingHashing()).require_acceptable("iloveyou", EMAIL)

    assert "iloveyou" not in refused.value.detail + str(refused.value.errors)


def test_the_local_part_of_the_address_is_refused() -> None:
    with pytest.raises(ValidationFailedError):
        Passwords(CountingHashing()).require_acceptable("ada.lovelace", "ada.lovelace@example.org")


@pytest.mark.parametrize(
    "password", [PASSWORD, "photographer on a hill", "8 chars!", "密码很长而且没有人知道", "x7" * 64]
)
def test_other_passwords_are_accepted_whatever_their_composition(password: str) -> None:
    Passwords(CountingHashing()).require_acceptable(password, EMAIL)


def test_the_list_holds_three_thousand_passwords_that_are_long_enough() -> None:
    common = Passwords(CountingHashing())._common

    assert len(common) == 3000
    assert min(map(len, common)) >= 8
