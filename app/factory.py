"""Everything is put together here, in order, and closed in reverse: the only file that knows every part."""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection
from contextlib import ExitStack
from functools import partial

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
from app.admin.routes import BreakerRoutes, ModeRoutes
from app.admin.service import BreakerService, ModeService
from app.cache.build import TierSet, open_ping, why_down
from app.cache.tiers import TIER_CLASSIFICATION, TierDownError
from app.cdn.base import UrlSigner
from app.cdn.build import CDN_CLASSIFICATIONS, build_probe, build_purger, build_signer
from app.db import leases
from app.db.engine import MANAGEMENT_CONNECTIONS, Database, StatementObserver
from app.db.guarded import DATABASE_CLASSIFICATIONS, DatabasePipelines, GuardedDatabase
from app.http import context, operations, problems
from app.http.application import Application
from app.http.bodies import UploadReceiver
from app.http.cursors import CursorSigner
from app.http.docs import mount_document, mount_documentation
from app.http.identity import admit
from app.http.openapi import path_of
from app.http.proxies import TrustedProxies
from app.images import presets
from app.images.build import build_engine
from app.images.limits import ImageLimits
from app.ops import checks, details
from app.ops.admission import HALF_WRITTEN_MAX
from app.ops.build import VERSION, Instance, find_instance
from app.ops.health import HealthMonitor
from app.ops.host_board import HostBoard
from app.ops.host_modes import HostModes
from app.ops.lifecycle import HostLife, Lifecycle, State
from app.ops.logging import configure_logging
from app.ops.maintenance import MaintenanceThread, Task
from app.ops.metric_files import Role
from app.ops.metric_workers import WorkerCollector
from app.ops.metrics import Metrics
from app.ops.modes import Changes
from app.ops.probes import PROBE_PATHS, ProbeAnswers
from app.ops.requests import InFlight, RequestRecorder
from app.ops.routes import operations_blueprint
from app.ops.stamps import open_stamps
from app.ops.state import find_page
from app.photos.documents import PhotoDocuments
from app.photos.leases import LeaseKeeper
from app.photos.ledger import UploadLedger
from app.photos.link_routes import LinkRoutes
from app.photos.links import LinkService, find_ways
from app.photos.listing import PhotoLists
from app.photos.made_renditions import MadeRenditions
from app.photos.origin_routes import OriginLinks
from app.photos.original_routes import OriginalRoutes
from app.photos.photo_cache import PhotoCache, PhotoCodec, memory_of
from app.photos.purges import PhotoPurges
from app.photos.routes import PhotoRoutes
from app.photos.sampling import RUN_SECONDS, DailySample
from app.photos.service import PhotoService
from app.photos.serving_routes import PhotoServing
from app.photos.signed_links import SignedLinks
from app.photos.upkeep import PhotoUpkeep
from app.photos.upload import UploadService
from app.photos.upload_routes import UploadRoutes
from app.pipelines import load_pipelines
from app.renditions.build import RenditionRoom
from app.renditions.routes import RenditionRoutes
from app.renditions.serving_routes import RenditionServing
from app.server.management import build_operations_app
from app.server.probe_split import ProbeSplit
from app.server.watching import FRESH_SECONDS, WatchedServer
from app.settings import Settings
from app.stability import CircuitBreaker, EventBus, Pipeline, PolicyContext
from app.stability.integrations.logs import EventLog
from app.stability.pipelines import Pipelines
from app.storage.base import ObjectStore
from app.storage.build import build_store
from app.storage.guarded import (
    STORAGE_CLASSIFICATION,
    STORAGE_PIPELINES,
    TOKEN_CLASSIFICATION,
    GuardedObjectStore,
    StoragePipelines,
)
from app.storage.links import FileStore, PresignedStore, find_capability
from app.storage.observed import ObservedObjectStore
from app.storage.probe import ask

_LEASE_NAME = "maintenance"
_LEASE_SECONDS = 30.0


class Foundation:
    """What a worker and the management process open alike.

    Args:
        settings: Valid ones.
        role: Of this process, for its metrics.

    Attributes:
        settings: As given.
        instance: Which one this is.
        metrics: All metrics.
        page: What the processes of this host share; None for a process without a server.
        logs: The process's log.
        board: The decisions about circuit breakers on that page; None without one.
        pipelines: What stands before every call to a dependency.
        database: The database.
        unguarded_store: The object store past its pipelines, for health.
        cdn_probe: What looks at the CDN's edge; None without a CDN.
        host_modes: The reasons for a mode.
        modes: What this host takes now.
    """

    def __init__(self, settings: Settings, role: Role) -> None:
        self.settings = settings
        self.instance: Instance = find_instance(settings.instance.ip, settings.instance.node_name)
        self.metrics = Metrics(version=VERSION, role=role)
        self.page = find_page(os.environ, self.metrics.state_page_losses.inc)
        self._closing = ExitStack()
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
        self.board = None if self.page is None else HostBoard(self.page)
        self.pipelines = _open_pipelines(settings, self.bus, self.board)
        self.metrics.stability.add_source(self.pipelines.figures)
        self._closing.callback(self.metrics.stability.close)
        # The figures of the pool are about the workers: what they may open, and what requests wait for.
        observer = self.metrics if role == "worker" else StatementObserver(self.metrics)
        self.database: Database = GuardedDatabase(
            settings.database, observer, DatabasePipelines(*self._pipelines_of("database", "", "_read", "_write"))
        )
        self._closing.callback(self.database.close)
        # Health asks past the breakers: it is to say how the store is, and its questions take no trial call.
        store = build_store(
            settings.storage,
            # Two for a request at work, and one for an answer that its client reads slowly, without a thread.
            max_connections=settings.server.threads * 2 + HALF_WRITTEN_MAX,
            swift_auth=self.pipelines["swift_auth"],
            observer=self.metrics,
        )
        self.unguarded_store: ObjectStore = ObservedObjectStore(store, self.metrics)
        self._closing.callback(self.unguarded_store.close)
        self.cdn_probe = build_probe(settings.cdn, pipelines=self.pipelines, observer=self.metrics)
        if self.cdn_probe is not None:
            self._closing.callback(self.cdn_probe.close)
        breaker = self.pipelines.find_all(CircuitBreaker).get("storage_write")
        self.host_modes = HostModes(self.page, settings.uploads, self.metrics, breaker)
        self.modes = self.host_modes.modes

    def _pipelines_of(self, dependency: str, *endings: str) -> list[Pipeline]:
        return [self.pipelines[dependency + ending] for ending in endings]


class Runtime(Foundation):
    """What one worker opened: parts of the application that tests and the server look at, and their closing.

    Attributes:
        lifecycle: Where the process is in its life.
        store: The object store, behind its pipelines.
        monitor: Health.
        probes: What the paths of probes are answered with.
        presets: The sizes of renditions.
        documents: What photos look like as JSON.
        known: What is remembered of photos.
        tiers: What it is remembered in.
        upkeep: The maintenance tasks, for running one by hand.
        renditions: The room of renditions.
        sample: The task that reads some photos every day.
        signer: What signs URLs of the CDN; None without one.
        purges: The task that has removed photos purged from the CDN; None where nothing is.
        operations: What the HTTP API can do, for its document.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, "worker")
        self.lifecycle = Lifecycle(self.metrics.in_flight_requests, page=self.page, master_pid=os.getppid())
        self.metrics.db_pool_max.set(self.database.max_connections)
        self.store: ObjectStore = GuardedObjectStore(
            self.unguarded_store,
            StoragePipelines(*self._pipelines_of("storage", "_read", "_write", "_delete", "_list")),
        )
        self.monitor = HealthMonitor(
            self.lifecycle, ready=self.metrics.ready, check_status=self.metrics.health_check_status
        )
        _register_checks(self.monitor, self)
        pool = checks.pool_check(self.database.pool)
        self.monitor.register_live("pool", pool, local=False, endpoints=_EVERY_ENDPOINT)
        takes_changes = self.host_modes.database_word.check(lambda: leases.change_nothing(self.database))
        self.monitor.register(
            "database_writes", takes_changes, local=False, interval_seconds=1.0, endpoints=_CHANGING_ENDPOINTS
        )
        self.probes = ProbeAnswers(self.monitor, self.instance, mode=self.modes.summary)
        self._closing.callback(self.monitor.close)
        self.signer, self.purges = self._open_cdn()
        self.known = self._open_cache()
        self.upkeep = PhotoUpkeep(
            self.database,
            self.store,
            self.pipelines["events"],
            trash_days=settings.photos.trash_days,
            observer=self.metrics,
            changing=self.known.changing,
            purges=self.purges is not None,
        )
        self.sample = DailySample(
            self.database, self.store, per_day=settings.photos.sample_per_day, observer=self.metrics
        )
        self.renditions = RenditionRoom(
            settings.renditions,
            self.database,
            self.store,
            self.presets,
            engine=build_engine(settings.renditions, self.metrics.engine),
            pressure=self.host_modes.pressure,
            changing=self.known.changing,
            may_work=self.modes.allows_background,
        )
        self._closing.callback(self.renditions.close)
        self.keeper = LeaseKeeper(self.database, settings.uploads.lease_seconds)
        self._closing.callback(self.keeper.close)
        self.operations: list[operations.Operation] = []

    def _open_cache(self) -> PhotoCache:
        settings = self.settings
        self.presets = presets.configured(settings.renditions)
        self.documents = PhotoDocuments(self.presets)
        stamps = open_stamps(os.environ, owing_seconds=settings.cache.redis_seconds + settings.cache.stale_seconds)
        self.tiers = TierSet(
            settings.redis,
            settings.cache,
            stamps,
            PhotoCodec(self.documents.form),
            self.pipelines["redis"],
            size_of=memory_of,
        )
        self._closing.callback(self.tiers.close)
        known = PhotoCache(
            self.database,
            self.documents,
            self.tiers.tiers,
            self.tiers.announcer,
            fresh_seconds=self.tiers.fresh_seconds,
            stale_seconds=settings.cache.stale_seconds,
        )
        self.metrics.stability.add_source(known.figures)
        return known

    def _open_cdn(self) -> tuple[UrlSigner | None, PhotoPurges | None]:
        cdn, pipelines, metrics = self.settings.cdn, self.pipelines, self.metrics
        signer = build_signer(cdn, pipelines=pipelines, observer=metrics, gauge=metrics.cdn_cache_size)
        purger = build_purger(cdn, pipelines=pipelines, observer=metrics)
        for opened in (signer, purger):
            if opened is not None:
                self._closing.callback(opened.close)
        return signer, None if purger is None else PhotoPurges(self.database, purger, metrics)

    def start(self, tasks: list[Task]) -> None:
        """Start what runs in the background, and be ready."""
        self.metrics.stability.start()
        owner = secrets.token_hex(16)
        maintenance = MaintenanceThread(
            lambda: leases.hold(self.database, _LEASE_NAME, owner, _LEASE_SECONDS),
            tasks,
            lease_seconds=_LEASE_SECONDS,
            release=lambda: leases.release(self.database, _LEASE_NAME, owner),
            may_work=self.modes.allows_background,
            runs=self.metrics.maintenance_runs,
        )
        maintenance.start()
        self.renditions.start()
        self._closing.callback(maintenance.close)
        self.monitor.start()
        self.lifecycle.advance(State.READY)

    def close(self) -> None:
        """Close everything in reverse order. Safe to call twice."""
        self.lifecycle.advance(State.STOPPED)
        self._closing.close()
        self.lifecycle.close()


class ManagementRuntime(Foundation):
    """What the management process opened, and its closing.

    Attributes:
        server: What it knows of the workers.
        pool: The figures of all workers' pools, as health has read them last.
        monitor: Health of the server, as it can be seen from beside it.
        probes: What the paths of probes are answered with.
    """

    def __init__(self, settings: Settings) -> None:
        few = {"pool_size": MANAGEMENT_CONNECTIONS, "max_overflow": 0}
        super().__init__(
            settings.model_copy(update={"database": settings.database.model_copy(update=few)}), "management"
        )
        self.server = WatchedServer(HostLife(self.page), os.getppid())
        self.metrics.watch_workers(
            WorkerCollector(
                HostLife(self.page).look,
                master_pid=os.getppid(),
                wanted=settings.server.workers,
                fresh_seconds=FRESH_SECONDS,
            )
        )
        self.monitor = HealthMonitor(self.server)
        self.pool = details.LastFigures(details.host_pool(self.metrics))
        workers, pool = self.server.check_workers, checks.pool_check(self.pool.read)
        self.monitor.register_live("workers", workers, local=True, endpoints=_EVERY_ENDPOINT)
        _register_checks(self.monitor, self)
        self.monitor.register("pool", pool, local=False, endpoints=_EVERY_ENDPOINT, in_details=True)
        self.probes = ProbeAnswers(
            self.monitor,
            self.instance,
            is_alive=self.server.is_alive,
            trouble=self.server.trouble,
            mode=self.modes.summary,
        )
        self._closing.callback(self.monitor.close)
        self.metrics.stability.start()
        self.monitor.start()

    def close(self) -> None:
        """Close everything in reverse order. Safe to call twice."""
        self._closing.close()


def _open_pipelines(settings: Settings, bus: EventBus, board: HostBoard | None) -> Pipelines:
    """Build the pipelines of this process, and name its breakers to the commands of its host."""
    classifications = dict.fromkeys(STORAGE_PIPELINES, STORAGE_CLASSIFICATION) | DATABASE_CLASSIFICATIONS
    classifications["swift_auth"] = TOKEN_CLASSIFICATION
    classifications["redis"] = TIER_CLASSIFICATION
    classifications |= CDN_CLASSIFICATIONS
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
    app = Application("photo-api", static_folder=None)
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
    _mount_rooms(app, runtime)
    _put_probes_before(app, runtime)
    return app


def create_management_app(settings: Settings) -> Flask:
    """Build the application of the management process: health, details, metrics and operators' routes.

    Args:
        settings: Valid ones.

    Returns:
        The application; what it opened is ``app.extensions["photo_api"]``, whose ``close()`` ends it.
    """
    runtime = ManagementRuntime(settings)
    rings = open_rings(settings.auth, create=settings.profile != "production")
    tokens = AccessTokens(rings, settings.auth.access_token_seconds)
    principals = PrincipalCache(settings.auth.principal_cache_seconds)
    authenticator = AccountAuthenticator(runtime.database, tokens, principals)
    app = build_operations_app(
        [
            operations_blueprint(
                monitor=runtime.monitor,
                probes=runtime.probes,
                lifecycle=runtime.server,
                metrics=runtime.metrics,
                instance=runtime.instance,
                sections={
                    "breakers": details.breaker_section(runtime.pipelines.find_all(CircuitBreaker)),
                    "pool": details.pool_section(runtime.pool.last),
                    "mode": runtime.modes.details,
                    "caches": details.host_caches(runtime.metrics),
                    **details.host_sections(HostLife(runtime.page).look),
                },
                admit=lambda request: admit(request, "admin:ops", authenticator),
            )
        ]
    )
    runtime.metrics.watch_operations(app)
    app.extensions["photo_api"] = runtime
    breakers = BreakerService(runtime.pipelines.find_all(CircuitBreaker), runtime.board)
    modes = ModeService(runtime.modes, runtime.host_modes.operator_word, runtime.host_modes.board)
    mounted = operations.mount(app, BreakerRoutes(breakers), authenticator)
    mounted += operations.mount(app, ModeRoutes(modes), authenticator)
    mount_document(app, mounted, version=VERSION)
    return app


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


def _mount_rooms(app: Flask, runtime: Runtime) -> None:
    settings, database = runtime.settings, runtime.database
    rings = open_rings(settings.auth, create=settings.profile != "production")
    accounts = _Accounts(settings, database, rings)
    photos = _Photos(runtime, rings)
    for routes in [*accounts.routes, *photos.routes]:
        runtime.operations += operations.mount(app, routes, accounts.authenticator, runtime.modes)
    photos.origin.mount(app)
    mount_documentation(app, runtime.operations, version=VERSION)
    runtime.start([*_photo_tasks(runtime), *accounts.tasks])


class _Photos:
    """The photos room, put together."""

    def __init__(self, runtime: Runtime, rings: KeyRings) -> None:
        settings, database, store, metrics = runtime.settings, runtime.database, runtime.store, runtime.metrics
        photos = PhotoService(database, runtime.known, purges=runtime.purges is not None)
        cursors = CursorSigner(lambda: rings.secrets(CURSOR))
        ledger = UploadLedger(
            database,
            runtime.documents,
            default_quota_bytes=settings.photos.quota_bytes,
            idempotency_seconds=settings.uploads.idempotency_seconds,
            render_delay_seconds=settings.renditions.delay_seconds,
        )
        limits = ImageLimits(max_pixels=settings.uploads.max_pixels)
        decoder = runtime.renditions.decoder if settings.uploads.decode_first else None
        uploads = UploadService(ledger, store, runtime.keeper, limits=limits, observer=metrics, decoder=decoder)
        receiver = UploadReceiver(settings.uploads.spool_dir, settings.uploads.max_bytes)
        serving = PhotoServing(store, metrics, photos.has_object)
        signed = SignedLinks(rings, files=find_capability(store, FileStore), public_url=settings.links.public_url)
        ways = find_ways(
            signed,
            store=find_capability(store, PresignedStore) if settings.links.presigned else None,
            signer=runtime.signer,
            breakers=runtime.pipelines.find_all(CircuitBreaker),
            has_failed=runtime.monitor.has_failed,
        )
        links = LinkService(ways, window_seconds=settings.links.window_seconds)
        metrics.stability.add_source(links.figures)
        self.origin = OriginLinks(signed, store, serving, metrics)
        self.routes: list[object] = [
            UploadRoutes(uploads, receiver, metrics),
            PhotoRoutes(photos, PhotoLists(database, cursors), runtime.documents, metrics),
            OriginalRoutes(photos, serving),
            RenditionRoutes(photos, runtime.presets, RenditionServing(runtime.renditions.service, serving)),
            LinkRoutes(photos, MadeRenditions(database, runtime.presets), links),
        ]


def _photo_tasks(runtime: Runtime) -> list[Task]:
    upkeep, purges = runtime.upkeep, runtime.purges
    tasks = [
        Task("reap_ended_leases", 5.0, upkeep.reap_ended_leases),
        Task("relay_deletes", 2.0, upkeep.relay_deletes),
        Task("empty_old_trash", 60.0, upkeep.empty_old_trash),
        Task("empty_closed_accounts", 30.0, upkeep.empty_closed_accounts),
        Task("forget_expired", 300.0, upkeep.forget_expired),
        Task("daily_sample", RUN_SECONDS, runtime.sample.run),
    ]
    return tasks if purges is None else [*tasks, Task("relay_purges", 2.0, purges.relay_purges)]


def _register_checks(monitor: HealthMonitor, foundation: Foundation) -> None:
    database = checks.database_check(foundation.database, when_read_only=foundation.host_modes.database_word.doubt)
    storage = checks.answers(partial(ask, foundation.unguarded_store))
    monitor.register(
        "database", database, local=False, endpoints=_EVERY_ENDPOINT, gates=_gates(foundation, "database")
    )
    monitor.register(
        "storage", storage, local=False, endpoints=_STORAGE_ENDPOINTS, gates=_gates(foundation, "storage")
    )
    if foundation.cdn_probe is not None:
        look = checks.answers(foundation.cdn_probe.look)
        gates = _gates(foundation, "cdn")
        monitor.register(
            "cdn", look, local=False, interval_seconds=2.0, endpoints=_endpoints(LinkRoutes), gates=gates
        )
    monitor.register("spool", foundation.host_modes.spool, local=True, endpoints=_UPLOAD_ENDPOINTS)
    scratch, largest = foundation.settings.renditions.scratch_dir, foundation.settings.uploads.max_bytes
    room = checks.room_check("scratch", scratch, purpose="renditions", needed_bytes=largest)
    monitor.register("scratch", room, local=False, endpoints=_endpoints(RenditionRoutes))
    monitor.register(
        "memory", foundation.host_modes.memory, local=True, interval_seconds=2.0, endpoints=_EVERY_ENDPOINT
    )
    monitor.register("mode", foundation.modes.check, local=False, interval_seconds=1.0)
    monitor.register("log", checks.log_check(foundation.logs), local=False)
    ping = open_ping(foundation.settings.redis)
    if ping is not None:
        check = checks.answers(ping, down=(TierDownError,), says=why_down)
        monitor.register("redis", check, local=False, gates=_gates(foundation, "redis"))


def _gates(foundation: Foundation, dependency: str) -> dict[str, CircuitBreaker]:
    breakers = foundation.pipelines.find_all(CircuitBreaker)
    return {name: breaker for name, breaker in breakers.items() if name.partition("_")[0] == dependency}


def _endpoints(*rooms: type, changes: Collection[Changes] = tuple(Changes)) -> tuple[str, ...]:
    """Return the paths of some routes as URI templates: what suffers when something they need does not work."""
    declared = [operation for room in rooms for operation in operations.declared_operations(room)]
    return tuple(dict.fromkeys(path_of(operation.path) for operation in declared if operation.changes in changes))


_UPLOAD_ENDPOINTS = _endpoints(UploadRoutes)
_STORAGE_ROOMS = (UploadRoutes, OriginalRoutes, RenditionRoutes)
_ROOMS = (UserRoutes, SessionRoutes, ApiKeyRoutes, PhotoRoutes, LinkRoutes, *_STORAGE_ROOMS)
_STORAGE_ENDPOINTS = (*_endpoints(*_STORAGE_ROOMS), path_of(OriginLinks.path))
_EVERY_ENDPOINT = _endpoints(*_ROOMS)
_CHANGING_ENDPOINTS = _endpoints(*_ROOMS, changes=frozenset(Changes) - {Changes.NOTHING})


def _put_probes_before(app: Flask, runtime: Runtime) -> None:
    probes = operations_blueprint(
        monitor=runtime.monitor,
        probes=runtime.probes,
        lifecycle=runtime.lifecycle,
        metrics=runtime.metrics,
        instance=runtime.instance,
    )
    product = InFlight(TrustedProxies(app.wsgi_app, runtime.settings.server.trusted_proxies), runtime.lifecycle)
    app.wsgi_app = ProbeSplit(  # type: ignore[method-assign]  # Flask's documented way to add middleware
        product, build_operations_app([probes]), probe_paths=PROBE_PATHS
    )
