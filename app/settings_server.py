"""The section ``server``: the listeners, the workers, what they admit and the time that things may take."""

from __future__ import annotations

from app.settings_fields import Bind, Hosts, Networks, Number, Section, Whole, setting


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
