"""The stacks that the product runs on in tests: what stands behind it, and how a test looks at it directly.

``embedded`` is what ``make run`` gives: SQLite and a folder. ``cloud`` is PostgreSQL and S3 on a real Swift, with a
fault proxy between the product and Swift that counts, and breaks what a test wants broken. ``swift`` is SQLite and
Swift in its own protocol, with tokens of an identity service like NHN Cloud's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import NullPool

from app.photos.reconcile import PREFIX
from app.storage.local import LocalObjectStore
from app.storage.s3 import S3Config, S3ObjectStore
from tests.fakes.fault_proxy import FaultProxy
from tests.servers.identity import IdentityServer
from tests.servers.mariadb import MariadbServer
from tests.servers.postgres import PostgresServer
from tests.servers.swift import ACCOUNT_PATH, SwiftServer

EMBEDDED = "embedded"
CLOUD = "cloud"
MARIADB = "mariadb"
SWIFT = "swift"
TEMP_URL_KEY = "a-key-of-temporary-urls"


@dataclass(frozen=True)
class Stack:
    """What stands behind one product.

    Attributes:
        name: ``embedded``, ``cloud``, ``mariadb`` or ``swift``.
        environ: The settings that lead there.
        database_url: SQLAlchemy's URL.
        s3_config: The bucket, past the proxy; None for a folder.
        objects_folder: The folder of the local store; None for a bucket.
        proxy: Between the product and Swift; None for a folder.
        postgres: The database server, to be stopped and killed; None for SQLite.
        identity: Who issues the tokens; None where nobody does.
    """

    name: str
    environ: Mapping[str, str]
    database_url: str = field(repr=False)
    s3_config: S3Config | None = None
    objects_folder: Path | None = None
    proxy: FaultProxy | None = None
    postgres: PostgresServer | None = None
    identity: IdentityServer | None = None

    @contextmanager
    def database(self) -> Iterator[Connection]:
        """Yield a transaction in the product's database, beside the product."""
        patient = {"timeout": 60} if self.database_url.startswith("sqlite") else {}  # who writes may stand still
        engine = create_engine(self.database_url, poolclass=NullPool, connect_args=patient)
        try:
            with engine.begin() as connection:
                yield connection
        finally:
            engine.dispose()

    def open_store(self) -> LocalObjectStore | S3ObjectStore:
        """Open the product's object store, beside the product and past the proxy."""
        if self.s3_config is not None:
            return S3ObjectStore(self.s3_config)
        assert self.objects_folder is not None
        return LocalObjectStore(self.objects_folder)

    def object_keys(self) -> list[str]:
        """Return the keys of all photos' objects."""
        with closing(self.open_store()) as store:
            return [info.key for info in store.list(PREFIX)]


def embedded_stack(folder: Path) -> Stack:
    """Return a stack of files under a folder."""
    url = f"sqlite:///{folder}/var/photo-api.db"
    objects = folder / "var" / "objects"
    environ = {"PHOTO_API_DATABASE__URL": url, "PHOTO_API_STORAGE__LOCAL_ROOT": str(objects)}
    return Stack(EMBEDDED, environ, url, objects_folder=objects)


@contextmanager
def mariadb_stack(folder: Path, server: MariadbServer) -> Iterator[Stack]:
    """Yield a stack of files under a folder with a database of its own."""
    with server.database() as url:
        files = embedded_stack(folder)
        yield replace(
            files, name=MARIADB, environ={**files.environ, "PHOTO_API_DATABASE__URL": url}, database_url=url
        )


@contextmanager
def cloud_stack(swift: SwiftServer, postgres: PostgresServer) -> Iterator[Stack]:
    """Yield a stack with a database and a bucket of its own."""
    config = swift.config(swift.create_bucket())
    with FaultProxy(swift.port) as proxy, postgres.database() as url:
        environ = {
            "PHOTO_API_DATABASE__URL": url,
            "PHOTO_API_STORAGE__BACKEND": "s3",
            "PHOTO_API_STORAGE__S3_ENDPOINT_URL": proxy.url,
            "PHOTO_API_STORAGE__S3_BUCKET": config.bucket,
            "PHOTO_API_STORAGE__S3_REGION": config.region,
            "PHOTO_API_STORAGE__S3_ACCESS_KEY_ID": config.access_key_id,
            "PHOTO_API_STORAGE__S3_SECRET_ACCESS_KEY": config.secret_access_key,
        }
        yield Stack(CLOUD, environ, url, s3_config=replace(config), proxy=proxy, postgres=postgres)


@contextmanager
def swift_stack(folder: Path, swift: SwiftServer) -> Iterator[Stack]:
    """Yield a stack of files under a folder and a container of its own, which S3's protocol shows as a bucket."""
    config = swift.config(swift.create_bucket())
    url = f"sqlite:///{folder}/var/photo-api.db"
    with (
        FaultProxy(swift.port) as proxy,
        IdentityServer(swift, storage_url=proxy.url + ACCOUNT_PATH) as identity,
    ):
        signing_in = identity.identity()
        environ = {
            "PHOTO_API_DATABASE__URL": url,
            "PHOTO_API_STORAGE__BACKEND": SWIFT,
            "PHOTO_API_STORAGE__SWIFT_AUTH_URL": signing_in.auth_url,
            "PHOTO_API_STORAGE__SWIFT_AUTH_VERSION": signing_in.version,
            "PHOTO_API_STORAGE__SWIFT_USERNAME": signing_in.username,
            "PHOTO_API_STORAGE__SWIFT_PASSWORD": signing_in.password,
            "PHOTO_API_STORAGE__SWIFT_TENANT_ID": signing_in.tenant_id or "",
            "PHOTO_API_STORAGE__SWIFT_REGION": signing_in.region or "",
            "PHOTO_API_STORAGE__SWIFT_CONTAINER": config.bucket,
            "PHOTO_API_STORAGE__SWIFT_TEMP_URL_KEY": TEMP_URL_KEY,
        }
        yield Stack(SWIFT, environ, url, s3_config=config, proxy=proxy, identity=identity)
