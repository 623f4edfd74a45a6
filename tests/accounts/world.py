"""The room of accounts, wired as the factory wires it, around a clock in the test's hand."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from flask import Flask
from pydantic import SecretStr
from sqlalchemy import event

from app.accounts.api_keys import ApiKeyService
from app.accounts.authentication import AccountAuthenticator
from app.accounts.credentials import Credentials
from app.accounts.delays import LoginDelays
from app.accounts.keyring import KeyRings
from app.accounts.passwords import Argon2id, Hashing, Passwords
from app.accounts.principals import PrincipalCache
from app.accounts.refresh_tokens import RefreshTokens
from app.accounts.ring_file import RingFile, create_ring_file
from app.accounts.routes import ApiKeyRoutes, SessionRoutes, UserRoutes
from app.accounts.service import AccountService
from app.accounts.sessions import Client, SessionService
from app.accounts.tokens import AccessTokens
from app.db import migrate
from app.db.engine import Database, SilentObserver
from app.http import context, problems
from app.http.operations import mount
from app.settings import DatabaseSettings
from tests.fakes.clocks import HandClock

EMAIL = "ada@example.org"
PASSWORD = "a lighthouse in the rain"
_PATIENCE = "PRAGMA busy_timeout = 30000"
T = TypeVar("T")
CLIENT = Client("192.0.2.7", "Test/1.0")


class CountingHashing:
    """Cheap argon2id that counts, and whose checks a test may hold at a gate."""

    def __init__(self, memory_kibibytes: int = 8) -> None:
        self._argon2 = Argon2id(memory_kibibytes)
        self.hashes = 0
        self.checks = 0
        self.running = 0
        self.most_running = 0
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Semaphore(0)
        self._lock = threading.Lock()

    def hash(self, password: str) -> str:
        self.hashes += 1
        return self._argon2.hash(password)

    def verify(self, password_hash: str, password: str) -> bool:
        with self._lock:
            self.checks += 1
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        self.arrived.release()
        assert self.gate.wait(30)
        try:
            return self._argon2.verify(password_hash, password)
        finally:
            with self._lock:
                self.running -= 1

    def is_outdated(self, password_hash: str) -> bool:
        return self._argon2.is_outdated(password_hash)


class Observer:
    """Hears of requests and keeps nothing."""

    def request_started(self, request_id: str, route: str) -> None: ...

    def request_ended(self, method: str, route: str, status: int, seconds: float) -> None: ...

    def unforeseen(self, kind: str) -> None: ...


class World:
    """One process's room of accounts; several over one database and ring file are several workers."""

    def __init__(
        self,
        database: Database,
        ring_path: Path,
        clock: HandClock,
        *,
        hashing: Hashing | None = None,
        waiting: int = 8,
        concurrent: int = 2,
        cache_seconds: float = 5.0,
        is_registration_open: bool = True,
    ) -> None:
        self.clock = clock
        self.database = database
        self.ring_path = ring_path
        create_ring_file(ring_path, now=clock)
        self.rings = KeyRings(RingFile(ring_path, clock), clock)
        self.passwords = Passwords(hashing or CountingHashing(), concurrent=concurrent, waiting=waiting)
        self.delays = LoginDelays(database, clock)
        self.principals = PrincipalCache(cache_seconds, clock)
        self.tokens = AccessTokens(self.rings, 600, clock)
        credentials = Credentials(database, self.passwords, self.delays)
        refresh_tokens = RefreshTokens(self.rings, 604_800, clock)
        self.sessions = SessionService(
            database,
            credentials,
            self.tokens,
            refresh_tokens,
            self.principals,
            absolute_seconds=2_592_000,
            now=clock,
        )
        self.accounts = AccountService(
            database,
            self.passwords,
            credentials,
            self.principals,
            is_registration_open=is_registration_open,
            default_quota_bytes=1_000_000,
            now=clock,
        )
        self.api_keys = ApiKeyService(database, self.principals, clock)
        self.authenticator = AccountAuthenticator(database, self.tokens, self.principals, clock, clock.monotonic)

    def app(self) -> Flask:
        app = Flask("accounts")
        context.install(app, Observer(), deadline_seconds=28, allowed_hosts=[])
        problems.install(app)
        for routes in (UserRoutes(self.accounts), SessionRoutes(self.sessions), ApiKeyRoutes(self.api_keys)):
            mount(app, routes, self.authenticator)
        return app


def open_database(url: str) -> Database:
    """Return it with all tables; nobody of a crowd on a busy machine gives up waiting for the others."""
    settings = DatabaseSettings(url=SecretStr(url), pool_timeout_seconds=30, statement_timeout_seconds=30)
    database = Database(settings, SilentObserver())
    if database.dialect == "sqlite":
        event.listen(database.engine, "connect", lambda connection, _: connection.execute(_PATIENCE))
    migrate.upgrade(database)
    return database


def at_once(count: int, work: Callable[[int], T]) -> list[T | Exception]:
    """Run work in threads that start together; what each raised stands in its place."""
    barrier = threading.Barrier(count)

    def run(number: int) -> T | Exception:
        barrier.wait(30)
        try:
            return work(number)
        except Exception as error:  # noqa: BLE001  # the test judges it
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def in_days(clock: HandClock, days: float) -> dt.datetime:
    return clock() + dt.timedelta(days=days)
