"""What nginx has to know to send bytes itself: where they are, what keeps of the server's answer, which links hold.

Nothing here asks the world either. Where nginx cannot find the bytes by itself (a local store that is closed to its
group, a Swift whose address only the identity service knows), it asks the server for them as for everything else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from app.errors import ConfigurationError
from app.photos.acceleration import STICKY
from app.photos.signed_links import EXTENSIONS

if TYPE_CHECKING:
    from app.settings import Settings
    from app.settings_delivery import StorageSettings

KEYS_FILE: Final = "photo-api-keys.conf"
"""The file beside ``nginx.conf`` that has the keys of signed links."""

KEPT_HEADERS: Final = (
    *(
        (name, name.lower().replace("-", "_"))
        for name in (
            "ETag",
            "Last-Modified",
            "Content-Security-Policy",
            "Cross-Origin-Resource-Policy",
            "X-Content-Type-Options",
            "Referrer-Policy",
            "Vary",
        )
    ),
    *((name, f"x_photo_{name.lower().replace('-', '_')}") for name in STICKY),
)
"""What nginx has to keep of the server's answer besides its type, and the end of the variable that has it."""

HIDDEN_HEADERS: Final = (
    # What the server's answer says instead.
    *("Content-Type", "Content-Disposition", "Content-Language", "Content-Encoding", "Cache-Control", "Expires"),
    *("ETag", "Pragma", "Accept-Ranges", "Vary", "Set-Cookie", "Age", "Via", "Link", "Refresh", "Alt-Svc", "X-Cache"),
    *("Content-Security-Policy", "Cross-Origin-Resource-Policy", "X-Content-Type-Options", "X-XSS-Protection"),
    *("Referrer-Policy", "Permissions-Policy", "Strict-Transport-Security", "X-Frame-Options", "X-Request-Id"),
    *("Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Allow-Headers"),
    *(
        "Access-Control-Allow-Methods",
        "Access-Control-Expose-Headers",
        "Access-Control-Max-Age",
        *("Timing-Allow-Origin", "WWW-Authenticate", "Clear-Site-Data"),
    ),
    # S3.
    *("x-amz-id-2", "x-amz-request-id", "x-amz-meta-sha256", "x-amz-missing-meta", "x-amz-version-id"),
    *("x-amz-delete-marker", "x-amz-expiration", "x-amz-restore", "x-amz-storage-class", "x-amz-replication-status"),
    *("x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id", "x-amz-bucket-region"),
    *("x-amz-server-side-encryption-bucket-key-enabled", "x-amz-server-side-encryption-customer-algorithm"),
    *("x-amz-checksum-crc32", "x-amz-checksum-crc32c", "x-amz-checksum-crc64nvme", "x-amz-checksum-sha1"),
    *("x-amz-checksum-sha256", "x-amz-checksum-type", "x-amz-mp-parts-count", "x-amz-tagging-count"),
    *("x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date", "x-amz-object-lock-legal-hold"),
    *("x-amz-request-charged", "x-amz-website-redirect-location"),
    # Swift, with what its object metadata says of our digest.
    *("X-Timestamp", "X-Trans-Id", "X-Openstack-Request-Id", "X-Object-Meta-Sha256", "X-Static-Large-Object"),
    *("X-Object-Manifest", "X-Delete-At", "X-Symlink-Target", "X-Manifest-Etag"),
)
"""Headers of the object store's answers that clients are not told; nginx hides names, not patterns."""

MEDIA_TYPES: Final = tuple((ending, media_type) for media_type, ending in EXTENSIONS.items())
"""The endings of links, and what they mean."""

LINK_PATTERN: Final = (
    "~^GET (?<photo_api_link_signed>/o/(?<photo_api_link_folder>[a-z0-9_.,~/-]{1,600})"
    "/(?<photo_api_link_name>(?<photo_api_link_digest>[0-9a-f]{64})"
    rf"\.(?<photo_api_link_ending>{'|'.join(ending for ending, _ in MEDIA_TYPES)})))"
    r"\?exp=(?<photo_api_link_exp>[0-9]{10})&kid=(?<photo_api_link_kid>[A-Za-z0-9_-]{1,32})"
    # The last of 22 characters has two bits of the digest; with others set it would be another spelling of it.
    r"&sig=(?<photo_api_link_sig>[A-Za-z0-9_-]{21}[AQgw])$"
)
"""Method and target of a signed link in its one form, for nginx."""

LINK_HEADERS: Final = (
    ("ETag", '"$photo_api_link_digest"'),
    ("Cache-Control", "private, max-age=0, no-transform"),
    ("Content-Disposition", "inline; filename=\"$photo_api_link_name\"; filename*=UTF-8''$photo_api_link_name"),
    ("Content-Security-Policy", "default-src 'none'; sandbox"),
    ("Cross-Origin-Resource-Policy", "cross-origin"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
)
"""What answers of signed links say. nginx cannot compute how long a link still lives: copies are asked for anew."""

KEEP_ALIVE_SECONDS: Final = 20
"""How long an idle connection to the object store is kept: shorter than stores do."""

_CLIENT_CLOSED = 499  # no answer, and no code of `error_page`
_FAILURES = " ".join(str(code) for code in range(300, 600) if code != _CLIENT_CLOSED)
_HOST = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~+@:-]+)*")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class LinkKey:
    """One key of signed links, as nginx's ``secure_link_md5`` needs it.

    Attributes:
        kid: Its name in links.
        secret: What is hashed before and behind the link's expiry and path.
    """

    kid: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class StorageOrigin:
    """The object store as nginx reaches it.

    Attributes:
        scheme: ``http`` or ``https``.
        server: Host and port to connect to.
        host: The ``Host`` that its links are signed for.
        name: The host alone, which its certificate must have.
        prefix: The path before an object's key.
    """

    scheme: str
    server: str
    host: str
    name: str
    prefix: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the templates name of all this.

    Attributes:
        local_folder: The folder of the local store's objects, with a slash at its end; None for other stores.
        storage: The object store; None for the local one.
        has_cache: Whether nginx keeps copies of objects.
        has_links: Whether nginx judges signed links.
    """

    local_folder: str | None
    storage: StorageOrigin | None
    has_cache: bool
    has_links: bool
    keys_file: str = KEYS_FILE
    kept_headers: tuple[tuple[str, str], ...] = KEPT_HEADERS
    hidden_headers: tuple[str, ...] = HIDDEN_HEADERS
    media_types: tuple[tuple[str, str], ...] = MEDIA_TYPES
    link_headers: tuple[tuple[str, str], ...] = LINK_HEADERS
    keep_alive_seconds: int = KEEP_ALIVE_SECONDS
    failures: str = _FAILURES

    @property
    def is_possible(self) -> bool:
        """Tell whether nginx can send anything by itself."""
        return self.local_folder is not None or self.storage is not None


def plan_delivery(settings: Settings, link_keys: Sequence[LinkKey]) -> Delivery:
    """Return what nginx can send by itself with these settings.

    Args:
        settings: Valid ones.
        link_keys: The keys of signed links; none means that the server judges all of them.

    Raises:
        ConfigurationError: The store's folder or address cannot stand in nginx's configuration.
    """
    storage = settings.storage
    folder = _local_folder(storage) if storage.backend == "local" and storage.local_group_readable else None
    origin = _storage_origin(storage)
    has_cache = origin is not None and settings.edge.cache_megabytes > 0
    return Delivery(folder, origin, has_cache, bool(link_keys) and (folder is not None or has_cache))


def _local_folder(storage: StorageSettings) -> str:
    folder = f"{storage.local_root}/objects/"
    if not re.fullmatch(r"/[A-Za-z0-9._+@,=/ -]*", folder):
        raise ConfigurationError(
            ["PHOTO_API_STORAGE__LOCAL_ROOT: must be an absolute path of letters, digits, spaces and . _ + @ , = / -"]
        )
    return folder


def _storage_origin(storage: StorageSettings) -> StorageOrigin | None:
    if storage.backend == "s3":
        from app.storage.s3 import S3Config, bucket_url  # noqa: PLC0415  # botocore takes a while to import

        secrets = storage.s3_access_key_id, storage.s3_secret_access_key
        key_id, secret = ("-" if each is None else each.get_secret_value() for each in secrets)
        url = bucket_url(
            S3Config(storage.s3_endpoint_url, storage.s3_bucket or "", storage.s3_region, key_id, secret)
        )
        return _origin_of(url, "PHOTO_API_STORAGE__S3_ENDPOINT_URL")
    if storage.backend == "swift" and storage.swift_storage_url and storage.swift_temp_url_key is not None:
        url = f"{storage.swift_storage_url.rstrip('/')}/{storage.swift_container}"
        return _origin_of(url, "PHOTO_API_STORAGE__SWIFT_STORAGE_URL")
    return None


def _origin_of(url: str, setting: str) -> StorageOrigin:
    parts = urlsplit(url)
    host = parts.hostname or ""
    name = f"[{host}]" if ":" in host else host
    prefix = parts.path.rstrip("/")
    if not _HOST.fullmatch(name) or not _PREFIX.fullmatch(prefix):
        raise ConfigurationError(
            [f"{setting}: must have a host of letters, digits, dots and hyphens, and such a path, for nginx"]
        )
    usual = _DEFAULT_PORTS[parts.scheme]
    port = parts.port or usual
    return StorageOrigin(parts.scheme, f"{name}:{port}", name if port == usual else f"{name}:{port}", host, prefix)
