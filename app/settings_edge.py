"""The sections ``server``, ``edge`` (nginx in front of it) and ``balancer`` (what stands in front of nginx).

The server itself reads the first one alone: ``python -m app render`` makes nginx's and systemd's files from the
others, and ``settings_timing`` judges whether all of their times fit together.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from app.settings_fields import (
    AbsolutePath,
    Bind,
    Hosts,
    Networks,
    Number,
    OptionalAbsolutePath,
    Section,
    TcpBind,
    Whole,
    setting,
)

_PATH = "an absolute path of letters, digits and . _ + @ - /"


class ServerSettings(Section):
    """The listeners, the workers and the time a request may take."""

    bind: Bind = setting("127.0.0.1:8000", "Public listener", allowed="host:port, [IPv6]:port or unix:path")
    management_bind: Bind = setting(
        "127.0.0.1:8001",
        "Listener of metrics and details, for operators only",
        allowed="host:port, [IPv6]:port or unix:path, on a loopback or private address",
    )
    workers: Whole = setting(2, "Worker processes", low=1, high=64, unit="processes")
    threads: Whole = setting(16, "Threads per worker, each at one request", low=1, high=256, unit="threads")
    max_concurrent: Whole = setting(
        200,
        "Requests at work at once in this instance, divided among its workers; no worker has more than its threads",
        low=1,
        high=16_384,
        unit="requests",
    )
    max_queue: Whole = setting(
        2000,
        "Requests that may wait for their turn in this instance, divided among its workers; more get a 503",
        low=1,
        high=100_000,
        unit="requests",
    )
    max_requests: Whole = setting(
        0,
        "Requests after which a worker gives its place to a fresh one; 0 means never",
        low=0,
        high=1_000_000_000,
        unit="requests",
    )
    expected_instances: Whole = setting(
        1,
        "Instances at the group's largest; judged against the database's connections",
        low=1,
        high=1000,
        unit="instances",
    )
    request_deadline_seconds: Number = setting(
        28.0, "Time for an answer, from the last byte of the request's body", low=1, high=600, unit="seconds"
    )
    client_timeout_seconds: Number = setting(
        10.0,
        "Longest silence of a client within its request or while it reads an answer; less than 1 KiB is silence",
        low=0.1,
        high=300,
        unit="seconds",
    )
    drain_lame_duck_seconds: Number = setting(
        0.0,
        "How long a server that stops serves on with readiness at 503, until every balancer has noticed",
        low=0,
        high=600,
        unit="seconds",
    )
    graceful_timeout_seconds: Number = setting(
        30.0, "Time for requests in flight when the server stops", low=3, high=900, unit="seconds"
    )
    keep_alive_seconds: Whole = setting(
        75, "How long an idle connection is kept; longer than nginx keeps it", low=1, high=3600, unit="seconds"
    )
    flush_seconds: Number = setting(
        5.0, "Time for logs and connections to be closed after the last request", low=0, high=60, unit="seconds"
    )
    stop_timeout_seconds: Number = setting(
        95.0, "How long systemd waits for the server to stop (TimeoutStopSec)", low=1, high=7200, unit="seconds"
    )
    drain_stop_timeout_seconds: Number = setting(
        30.0, "How long systemd waits for the drain unit to stop (TimeoutStopSec)", low=1, high=7200, unit="seconds"
    )
    allowed_hosts: Hosts = setting(
        ("localhost", "127.0.0.1"),
        "Host headers that are answered; .example.org stands for it and all below; must be set in production",
        allowed="host names or IPv4 addresses, parted by commas, without scheme, port or path",
    )
    trusted_proxies: Networks = setting(
        (),
        "Proxies whose X-Forwarded-… headers are believed",
        allowed="IP addresses or networks such as 10.0.0.0/8, parted by commas",
    )


class EdgeSettings(Section):
    """nginx: where it listens, what it limits, how long it waits."""

    bind: TcpBind = setting("0.0.0.0:80", "nginx's listener for plain HTTP", allowed="host:port or [IPv6]:port")
    tls_bind: TcpBind = setting(
        "0.0.0.0:443", "nginx's listener for HTTPS, when there is a certificate", allowed="host:port or [IPv6]:port"
    )
    tls_certificate_file: OptionalAbsolutePath = setting(
        None,
        "Certificate with its chain (PEM); with it plain HTTP only redirects; not set means no TLS here",
        allowed=_PATH,
    )
    tls_key_file: OptionalAbsolutePath = setting(None, "Key of that certificate (PEM)", allowed=_PATH)
    hsts_seconds: Whole = setting(
        31_536_000,
        "How long browsers are to insist on HTTPS (Strict-Transport-Security); 0 sends no such header",
        low=0,
        high=63_072_000,
        unit="seconds",
    )
    profile: Literal["gallery", "strict"] = setting(
        "gallery", "Rate limits per client address: for pages of many thumbnails, or for the open internet"
    )
    dry_run: bool = setting(False, "Whether limits only log what they would refuse", allowed="true or false")
    unlimited_networks: Networks = setting(
        (),
        "Client addresses without rate limits",
        allowed="IP addresses or networks such as 10.0.0.0/8, parted by commas",
    )
    max_connections: Whole = setting(
        20, "Requests of one client address under way at once", low=1, high=10_000, unit="requests"
    )
    max_uploads: Whole = setting(
        4, "Uploads of one client address under way at once", low=1, high=10_000, unit="uploads"
    )
    worker_connections: Whole = setting(
        4096, "Connections per nginx worker, to clients and to the server", low=128, high=65_536, unit="connections"
    )
    client_timeout_seconds: Whole = setting(
        10,
        "Time for a request's head, and longest silence of a client within a body or while it reads an answer",
        low=1,
        high=300,
        unit="seconds",
    )
    keep_alive_seconds: Whole = setting(
        75, "How long an idle connection of a client, or of the balancer, is kept", low=1, high=3600, unit="seconds"
    )
    upstream_connections: Whole = setting(
        64, "Idle connections to the server kept per nginx worker", low=1, high=4096, unit="connections"
    )
    upstream_keep_alive_seconds: Whole = setting(
        60, "How long an idle connection to the server is kept", low=1, high=3600, unit="seconds"
    )
    read_timeout_seconds: Whole = setting(
        40, "Longest silence of the server before nginx answers 504 itself", low=2, high=3600, unit="seconds"
    )
    quit_wait_seconds: Whole = setting(
        30, "How long nginx waits for requests under way when it stops", low=1, high=3600, unit="seconds"
    )
    stop_timeout_seconds: Whole = setting(
        40, "How long systemd waits for nginx to stop (TimeoutStopSec)", low=1, high=3600, unit="seconds"
    )
    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = setting(
        "www-data", "The user of nginx's workers", allowed="a user's name"
    )
    pid_file: AbsolutePath = setting("/run/nginx.pid", "Where nginx writes its process id", allowed=_PATH)
    log_folder: AbsolutePath = setting("/var/log/nginx", "Folder of access.log and error.log", allowed=_PATH)
    body_folder: AbsolutePath = setting(
        "/var/lib/nginx", "Folder of bodies that do not fit into memory; needs room for uploads", allowed=_PATH
    )
    cache_folder: AbsolutePath = setting(
        "/var/lib/nginx/photo-api", "Folder of photos kept here that the object store has sent", allowed=_PATH
    )
    cache_megabytes: Whole = setting(
        1024, "How much that folder may hold; 0 keeps none", low=0, high=10_000_000, unit="megabytes"
    )
    decision_seconds: Whole = setting(
        0,
        "How long nginx remembers that a token may read a photo, also when that has changed; 0 asks every time",
        low=0,
        high=10,
        unit="seconds",
    )
    decision_folder: AbsolutePath = setting(
        "/dev/shm/photo-api-decisions",  # noqa: S108  # nginx makes it for its user alone
        "Folder of what it remembers, with the tokens: to be in memory",
        allowed=_PATH,
    )
    decision_bind: TcpBind = setting(
        "127.0.0.1:8089", "nginx's own step before the server, on this host alone", allowed="host:port or [IPv6]:port"
    )
    ca_file: AbsolutePath = setting(
        "/etc/ssl/certs/ca-certificates.crt",
        "Certificates (PEM) that the object store's own must come from when nginx fetches photos over HTTPS",
        allowed=_PATH,
    )


class BalancerSettings(Section):
    """The load balancer in front of nginx, as it is configured there; without one, the times of its probes are 0."""

    networks: Networks = setting(
        (),
        "Networks of the balancer: only their X-Forwarded-For and X-Forwarded-Proto are believed by nginx",
        allowed="IP addresses or networks such as 10.0.0.0/8, parted by commas",
    )
    probe_interval_seconds: Number = setting(5.0, "Time between two probes", low=0, high=300, unit="seconds")
    probe_timeout_seconds: Number = setting(2.0, "Time for a probe's answer", low=0, high=120, unit="seconds")
    unhealthy_threshold: Whole = setting(
        2, "Failed probes after which an instance gets no new requests", low=1, high=20, unit="probes"
    )
    propagation_seconds: Number = setting(
        5.0, "Time until all parts of the balancer know a verdict", low=0, high=120, unit="seconds"
    )
    deregistration_delay_seconds: Number = setting(
        60.0,
        "How long requests under way are let finish after an instance was taken out",
        low=0,
        high=3600,
        unit="seconds",
    )
    idle_timeout_seconds: Number = setting(
        60.0,
        "How long the balancer keeps an idle connection, and waits for an answer",
        low=1,
        high=4000,
        unit="seconds",
    )
    platform_budget_seconds: Number = setting(
        120.0,
        "Time from the platform's notice that an instance is to go until it is cut off",
        low=1,
        high=7200,
        unit="seconds",
    )
