"""Everything is put together here, in order, and closed in reverse: the only file that knows every part."""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack

from flask import Flask

from app.accounts.api_keys import ApiKeyService
from app.accounts.authentication import AccountAuthenticator
from app.accounts.credentials import Credentials
from app.accounts.delays import LoginDelays
from app.accounts.keyring import CURSOR, KeyRings
from app.accounts.passwords import Passwords
from app.accounts.principals import PrincipalCache
from app.accounts.refresh_tokens import RefreshTokens
from app.accounts.ring_file import open_rings
from app.accounts.routes import ApiKeyRoutes, SessionRoutes, UserRoutes
from app.accounts.service import AccountService
from app.accounts.sessions import SessionService
from app.accounts.tokens import AccessTokens
from app.admin.routes import BreakerRoutes
from app.admin.service import BreakerService
from app.db import leases
from app.db.engine import Database
from app.db.guarded import DATABASE_CLASSIFICATIONS, DatabasePipelines, GuardedDatabase
from app.http import context, operations, problems
from app.http.bodies import UploadReceiver
from app.http.cursors import CursorSigner
from app.http.docs import mount_document, mount_documentation
from app.http.identity import Authenticator
from app.http.proxies import TrustedProxies
from app.images.limits import ImageLimits
from app.ops import checks
from app.ops.build import VERSION, Instance, find_instance
from app.ops.health import HealthMonitor
from app.ops.host_board import HostBoard
from app.ops.lifecycle import Lifecycle, State
from app.ops.logging import configure_logging
from app.ops.maintenance import MaintenanceThread, Task
from app.ops.metrics import Metrics
from app.ops.probes import PROBE_PATHS, ProbeAnswers
from app.ops.requests import InFlight, RequestRecorder
from app.ops.routes import operations_blueprint
from app.ops.state import find_page
from app.photos.leases import LeaseKeeper
from app.photos.ledger import UploadLedger
from app.photos.listing import PhotoLists
from app.photos.original_routes import OriginalRoutes
from app.photos.routes import PhotoRoutes
from app.photos.service import PhotoService
from app.photos.upkeep import PhotoUpkeep
from app.photos.upload import UploadService
from app.photos.upload_routes import UploadRoutes
from app.pipelines import load_pipelines
from app.server.listeners import ListenerSplit
from app.server.management import build_operations_app
from app.server.unread_bodies import UnreadBodies
from app.settings import Settings
from app.stability import CircuitBreaker, EventBus, Pipeline, PolicyContext
from app.stability.integrations.logs import EventLog
from app.stability.pipelines import Pipelines
from app.storage.base import ObjectNotFoundError, ObjectStore
from app.storage.guarded import STORAGE_CLASSIFICATION, STORAGE_PIPELINES, GuardedObjectStore, StoragePipelines
from app.storage.observed import ObservedObjectStore

_LEASE_NAME = "maintenance"
_LEASE_SECONDS = 30.0


class Runtime:
    """What one process opened: parts of the application that tests and the server look at, and their closing.

    Attributes:
        settings: As given.
        database: The database.
        board: What the workers of this host share; None for a process without a server.
        pipelines: What stands before every call to a dependency.
        store: The object store, behind its pipelines.
        unguarded_store: The same past them, for health.
        metrics: All metrics.
        lifecycle: Where the process is in its life.
        monitor: Health.
        probes: What the paths of probes are answered with.
        upkeep: The maintenance tasks, for running one by hand.
        operations: What the HTTP API can do, for its document.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.instance: Instance = find_instance(settings.instance.ip, settings.instance.node_name)
        self.metrics = Metrics(version=VERSION)
        page = find_page(os.environ, self.metrics.state_page_losses.inc)
        self.lifecycle = Lifecycle(self.metrics.in_flight_requests, page=page, master_pid=os.getppid())
        self._closing = ExitStack()
        self._closing.callback(self.lifecycle.close)
        self.logs = configure_logging(
            level=settings.log.level,
            output=settings.log.format,
            queue_size=settings.log.queue_size,
            instance_ip=self.instance.ip,
            node_name=self.instance.node_name,
            observer=self.metrics,
        )
        self._closing.callback(self.logs.close)
        self.bus = EventBus()
        self.bus.subscribe(EventLog())
        self._closing.callback(self.bus.close)
        self.board = None if page is None else HostBoard(page)
        self.pipelines = _open_pipelines(settings, self.bus, self.board)
        self.metrics.stability.add_source(self.pipelines.figures)
        self._closing.callback(self.metrics.stability.close)
        self.database: Database = GuardedDatabase(
            settings.database, self.metrics, DatabasePipelines(*self._pipelines_of("database", "", "_read", "_write"))
        )
        self._closing.callback(self.database.close)
        self.metrics.db_pool_max.set(self.database.max_connections)
        # Health asks past the breakers: it is to say how the store is, and its questions take no trial call.
        self.unguarded_store: ObjectStore = ObservedObjectStore(build_store(settings), self.metrics)
        self._closing.callback(self.unguarded_store.close)
        self.store: ObjectStore = GuardedObjectStore(
            self.unguarded_store,
            StoragePipelines(*self._pipelines_of("storage", "_read", "_write", "_delete", "_list")),
        )
        self.monitor = _build_monitor(self)
        self.probes = ProbeAnswers(self.monitor, self.instance)
        self._closing.callback(self.monitor.close)
        self.upkeep = PhotoUpkeep(
            self.database,
            self.store,
            self.pipelines["events"],
            trash_days=settings.photos.trash_days,
            observer=self.metrics,
        )
        self.keeper = LeaseKeeper(self.database, settings.uploads.lease_seconds)
        self._closing.callback(self.keeper.close)
        self.operations: list[operations.Operation] = []

    def _pipelines_of(self, dependency: str, *endings: str) -> list[Pipeline]:
        return [self.pipelines[dependency + ending] for ending in endings]

    def start(self, tasks: list[Task]) -> None:
        """Start what runs in the background, and be ready."""
        self.metrics.stability.start()
        owner = secrets.token_hex(16)
        maintenance = MaintenanceThread(
            lambda: leases.hold(self.database, _LEASE_NAME, owner, _LEASE_SECONDS),
            tasks,
            lease_seconds=_LEASE_SECONDS,
            release=lambda: leases.release(self.database, _LEASE_NAME, owner),
            runs=self.metrics.maintenance_runs,
        )
        maintenance.start()
        self._closing.callback(maintenance.close)
        self.monitor.start()
        self.lifecycle.advance(State.READY)

    def close(self) -> None:
        """Close everything in reverse order. Safe to call twice."""
        self.lifecycle.advance(State.STOPPED)
        self._closing.close()


def _open_pipelines(settings: Settings, bus: EventBus, board: HostBoard | None) -> Pipelines:
    """Build the pipelines of this process, and name its breakers to the commands of its host."""
    classifications = dict.fromkeys(STORAGE_PIPELINES, STORAGE_CLASSIFICATION) | DATABASE_CLASSIFICATIONS
    context = PolicyContext(name="", bus=bus, board=board)
    pipelines = load_pipelines(settings, classifications=classifications, context=context)
    if board is not None:
        board.announce(pipelines.find_all(CircuitBreaker))
    return pipelines


def create_app(settings: Settings) -> Flask:
    """Build the application for one process.

    Args:
        settings: Valid ones.

    Returns:
        The public application; behind its ``wsgi_app`` stand both listeners. What it opened is
        ``app.extensions["photo_api"]``, a :class:`Runtime`, whose ``close()`` ends it.
    """
    runtime = Runtime(settings)
    app = Flask("photo-api", static_folder=None)
    app.url_map.merge_slashes = False  # or //path would be redirected to a place built from Host
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the default provider has it
    app.extensions["photo_api"] = runtime
    problems.install(app)
    context.install(
        app,
        RequestRecorder(runtime.metrics),
        deadline_seconds=settings.server.request_deadline_seconds,
        allowed_hosts=list(settings.server.allowed_hosts),
    )
    authenticator = _mount_rooms(app, runtime)
    _join_listeners(app, runtime, authenticator)
    return app


def build_store(settings: Settings) -> ObjectStore:
    """Build the object store that the settings name; each vendor's library is loaded only when it is used."""
    storage = settings.storage
    if storage.backend == "local":
        from app.storage.local import LocalObjectStore  # noqa: PLC0415  # only the store in use is loaded

        return LocalObjectStore(storage.local_root)
    from app.storage.s3 import S3Config, S3ObjectStore  # noqa: PLC0415  # boto3 takes a while and much memory

    return S3ObjectStore(
        S3Config(
            endpoint_url=storage.s3_endpoint_url,
            bucket=storage.s3_bucket or "",
            region=storage.s3_region,
            access_key_id=storage.s3_access_key_id.get_secret_value() if storage.s3_access_key_id else "",
            secret_access_key=storage.s3_secret_access_key.get_secret_value() if storage.s3_secret_access_key else "",
            max_connections=settings.server.threads * 2,
            upload_timeout_seconds=storage.upload_timeout_seconds,
            download_timeout_seconds=storage.download_timeout_seconds,
        )
    )


class _Accounts:
    """The accounts room, put together."""

    def __init__(self, settings: Settings, database: Database, rings: KeyRings) -> None:
        auth = settings.auth
        tokens = AccessTokens(rings, auth.access_token_seconds)
        refresh_tokens = RefreshTokens(rings, auth.refresh_token_seconds)
        principals = PrincipalCache(auth.principal_cache_seconds)
        passwords = Passwords()
        delays = LoginDelays(database)
        credentials = Credentials(database, passwords, delays)
        users = AccountService(
            database,
            passwords,
            credentials,
            principals,
            is_registration_open=auth.registration == "open",
            default_quota_bytes=settings.photos.quota_bytes,
        )
        sessions = SessionService(
            database, credentials, tokens, refresh_tokens, principals, absolute_seconds=auth.refresh_absolute_seconds
        )
        keys = ApiKeyService(database, principals)
        self.authenticator = AccountAuthenticator(database, tokens, principals)
        self.routes: list[object] = [UserRoutes(users), SessionRoutes(sessions), ApiKeyRoutes(keys)]
        self.tasks = [
            Task("purge_sessions", 300.0, sessions.purge),
            Task("purge_login_delays", 300.0, delays.purge),
        ]


def _mount_rooms(app: Flask, runtime: Runtime) -> Authenticator:
    settings, database = runtime.settings, runtime.database
    rings = open_rings(settings.auth, create=settings.profile != "production")
    accounts = _Accounts(settings, database, rings)
    for routes in [*accounts.routes, *_photo_routes(runtime, CursorSigner(lambda: rings.secrets(CURSOR)))]:
        runtime.operations += operations.mount(app, routes, accounts.authenticator)
    mount_documentation(app, runtime.operations, version=VERSION)
    runtime.start([*_photo_tasks(runtime.upkeep), *accounts.tasks])
    return accounts.authenticator


def _photo_routes(runtime: Runtime, cursors: CursorSigner) -> list[object]:
    settings, database, store, metrics = runtime.settings, runtime.database, runtime.store, runtime.metrics
    photos = PhotoService(database)
    ledger = UploadLedger(
        database,
        default_quota_bytes=settings.photos.quota_bytes,
        idempotency_seconds=settings.uploads.idempotency_seconds,
    )
    limits = ImageLimits(max_pixels=settings.uploads.max_pixels)
    uploads = UploadService(ledger, store, runtime.keeper, limits=limits, observer=metrics)
    return [
        UploadRoutes(uploads, UploadReceiver(settings.uploads.spool_dir, settings.uploads.max_bytes), metrics),
        PhotoRoutes(photos, PhotoLists(database, cursors), metrics),
        OriginalRoutes(photos, store, metrics),
    ]


def _photo_tasks(upkeep: PhotoUpkeep) -> list[Task]:
    return [
        Task("reap_ended_leases", 5.0, upkeep.reap_ended_leases),
        Task("relay_deletes", 2.0, upkeep.relay_deletes),
        Task("empty_old_trash", 60.0, upkeep.empty_old_trash),
        Task("empty_closed_accounts", 30.0, upkeep.empty_closed_accounts),
        Task("forget_expired", 300.0, upkeep.forget_expired),
    ]


def _build_monitor(runtime: Runtime) -> HealthMonitor:
    metrics = runtime.metrics
    monitor = HealthMonitor(runtime.lifecycle, ready=metrics.ready, check_status=metrics.health_check_status)
    needed_bytes = 2 * runtime.settings.uploads.max_bytes
    monitor.register("database", checks.answers(runtime.database.ping), local=False)
    monitor.register("storage", checks.answers(lambda: _ask(runtime.unguarded_store)), local=False)
    spool = checks.spool_check(runtime.settings.uploads.spool_dir, needed_bytes=needed_bytes, free=metrics.spool_free)
    monitor.register("spool", spool, local=True)
    monitor.register("memory", checks.memory_check(metrics.memory_usage), local=True)
    monitor.register("log", checks.log_check(runtime.logs), local=False)
    return monitor


def _ask(store: ObjectStore) -> None:
    try:
        store.head("probe/health")
    except ObjectNotFoundError:
        return  # it answered


def _join_listeners(app: Flask, runtime: Runtime, authenticator: Authenticator) -> None:
    blueprint = operations_blueprint(
        monitor=runtime.monitor,
        probes=runtime.probes,
        lifecycle=runtime.lifecycle,
        metrics=runtime.metrics,
        instance=runtime.instance,
    )
    management = build_operations_app([blueprint])
    breakers = BreakerService(runtime.pipelines.find_all(CircuitBreaker), runtime.board)
    admin = operations.mount(management, BreakerRoutes(breakers), authenticator)
    mount_document(management, admin, version=VERSION)
    product = InFlight(TrustedProxies(app.wsgi_app, runtime.settings.server.trusted_proxies), runtime.lifecycle)
    app.wsgi_app = ListenerSplit(  # type: ignore[method-assign]  # Flask's documented way to add middleware
        UnreadBodies(product),
        UnreadBodies(management),
        management_bind=runtime.settings.server.management_bind,
        probe_paths=PROBE_PATHS,
    )
