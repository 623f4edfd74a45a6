"""The sections ``storage``, ``cdn``, ``links``, ``redis`` and ``cache``: where photos are and how they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from app.settings_fields import (
    AccessKey,
    FilePath,
    HexSecret,
    HttpUrl,
    Number,
    OptionalFilePath,
    RedisUrl,
    Section,
    Whole,
    setting,
)

_KEY = "3 to 512 printable ASCII characters without spaces"
_ID = "1 to 128 letters, digits, hyphens and underscores"
_Id = Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]


_NAME = "1 to 255 printable characters"
_Name = Annotated[str | None, Field(pattern=r"^[^\x00-\x1f\x7f]{1,255}$")]


class StorageSettings(Section):
    """Where the bytes of photos are kept."""

    backend: Literal["local", "s3", "swift"] = setting(
        "local", "The kind of object store: a folder, an S3 service, or OpenStack Swift (NHN Cloud)"
    )
    local_root: FilePath = setting(
        Path("var/objects"),
        "Folder of the local object store; a relative path starts in the working folder",
        allowed="a path",
    )
    local_group_readable: bool = setting(
        False,
        "Whether the group of the server's user may read the photos there, so that nginx sends them itself",
        allowed="true or false",
    )
    s3_endpoint_url: HttpUrl = setting(
        None, "Address of the S3 service; not set means Amazon's own", allowed="an http:// or https:// URL"
    )
    s3_bucket: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$")] = setting(
        None,
        "Bucket of the photos; it must exist",
        allowed="3 to 63 letters, digits, dots, hyphens and underscores, with a letter or digit at both ends",
    )
    s3_region: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")] = setting(
        "us-east-1", "Region that requests are signed for", allowed="a region's name such as eu-central-1"
    )
    s3_access_key_id: AccessKey = setting(None, "Key id at the S3 service", allowed=_KEY)
    s3_secret_access_key: AccessKey = setting(None, "Secret key at the S3 service", allowed=_KEY)
    swift_auth_url: HttpUrl = setting(
        None,
        "Address of Swift's identity service, with the version's path as in https://identity.example.org/v2.0",
        allowed="an http:// or https:// URL",
    )
    swift_auth_version: Literal["1", "2", "3"] = setting(
        "3",
        "The identity service's protocol: TempAuth (1), Keystone v2.0 as NHN Cloud speaks it (2), Keystone v3 (3)",
    )
    swift_username: _Name = setting(None, "User at the identity service", allowed=_NAME)
    swift_password: AccessKey = setting(None, "Password, at NHN Cloud the API password", allowed=_KEY)
    swift_tenant_id: _Name = setting(None, "Tenant (v2.0) or project id (v3)", allowed=_NAME)
    swift_user_domain: _Name = setting("Default", "Name of the user's domain (v3)", allowed=_NAME)
    swift_region: _Name = setting(
        None, "Region of the endpoint in the service catalogue; not set means the first", allowed=_NAME
    )
    swift_storage_url: HttpUrl = setting(
        None,
        "Address of the account's storage; not set means what the identity service says",
        allowed="an http:// or https:// URL",
    )
    swift_container: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9._-]{1,255}$")] = setting(
        None, "Container of the photos; it must exist", allowed="1 to 255 letters, digits, dots, hyphens, underscores"
    )
    swift_temp_url_key: AccessKey = setting(
        None, "Key of the container's temporary URLs; not set means no links to storage", allowed=_KEY
    )
    swift_temp_url_digest: Literal["sha1", "sha256", "sha512"] = setting(
        "sha256", "Digest of temporary URLs, one that the Swift cluster allows"
    )
    auth_timeout_seconds: Number = setting(
        30.0, "Cap on one call of the identity service", low=0.1, high=300, unit="seconds"
    )
    upload_timeout_seconds: Number = setting(
        60.0,
        "Cap on one write to the object store; a call takes the smaller of it and the request's remaining time",
        low=0.1,
        high=3600,
        unit="seconds",
    )
    download_timeout_seconds: Number = setting(
        60.0, "Cap on one wait for bytes from the object store; as above", low=0.1, high=3600, unit="seconds"
    )


class CdnSettings(Section):
    """The content delivery network in front of the object store."""

    backend: Literal["none", "edge_auth", "nhn", "cloudfront", "nginx_secure_link"] = setting(
        "none",
        "Whose links: none; edge tokens of NHN and Akamai made here, or by NHN's API; CloudFront; nginx secure_link",
    )
    base_url: HttpUrl = setting(None, "What the path of a photo is appended to", allowed="an http:// or https:// URL")
    timeout_seconds: Number = setting(
        10.0, "Cap on one call of the CDN's API and on one look at its edge", low=0.1, high=60, unit="seconds"
    )
    token_cache_size: Whole = setting(
        1000, "Tokens of the CDN's API that a worker remembers", low=1, high=1_000_000, unit="tokens"
    )
    probe_path: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._~/-]{0,254}$")] = setting(
        "/", "What is asked of the edge to see whether it lives: every answer below 500 will do", allowed="a path"
    )
    edge_auth_key: HexSecret = setting(
        None, "Key of NHN's and Akamai's edge tokens", allowed="16 to 512 hexadecimal digits, an even number"
    )
    edge_auth_parameter: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = setting(
        "token", "Name of the query parameter of edge tokens", allowed="1 to 64 letters, digits, hyphens, underscores"
    )
    nhn_app_key: _Id = setting(
        None, "App key of NHN's CDN; with it photos are purged when they are removed", allowed=_ID
    )
    nhn_secret_key: AccessKey = setting(None, "Secret key of NHN's CDN API", allowed=_KEY)
    nhn_api_url: HttpUrl = setting(
        "https://cdn.api.nhncloudservice.com", "Address of NHN's CDN API", allowed="an http:// or https:// URL"
    )
    cloudfront_key_pair_id: _Id = setting(None, "Id of CloudFront's public key", allowed=_ID)
    cloudfront_private_key_file: OptionalFilePath = setting(
        None, "File of the private key to it (PEM, RSA)", allowed="a path"
    )
    cloudfront_distribution_id: _Id = setting(
        None, "CloudFront's distribution; with it photos are purged when they are removed", allowed=_ID
    )
    secure_link_secret: AccessKey = setting(None, "Secret of nginx's secure_link_md5", allowed=_KEY)


class LinksSettings(Section):
    """Signed links to photos."""

    window_seconds: Whole = setting(
        1800,
        "The same photo has the same link for so long; a link lives once to twice as long",
        low=60,
        high=1800,
        unit="seconds",
    )
    presigned: bool = setting(
        True, "Whether links may lead to the object store when there is no CDN", allowed="true or false"
    )
    public_url: HttpUrl = setting(
        None,
        "What links to this server begin with; not set means that they begin with their path",
        allowed="an http:// or https:// URL",
    )


class RedisSettings(Section):
    """Redis, the tier of the caches that all instances share."""

    url: RedisUrl = setting(
        None,
        "Address of Redis; not set means none",
        allowed="a URL redis://…, rediss://… or unix://…",
    )
    timeout_seconds: Number = setting(
        0.05, "Cap on one call of Redis, connecting included", low=0.005, high=5, unit="seconds"
    )


class CacheSettings(Section):
    """What is remembered of photos, so that not each request asks the database."""

    memory_seconds: Number = setting(
        60.0,
        "How long a worker remembers; at most 30 s without Redis, as nobody tells it of other instances' changes",
        low=0,
        high=3600,
        unit="seconds",
    )
    redis_seconds: Number = setting(300.0, "How long Redis remembers", low=1, high=86_400, unit="seconds")
    stale_seconds: Whole = setting(
        3600,
        "How long after that it still helps while the database does not answer; 0: not at all",
        low=0,
        high=86_400,
        unit="seconds",
    )
    max_entries: Whole = setting(10_000, "Photos that a worker remembers", low=1, high=1_000_000, unit="photos")
