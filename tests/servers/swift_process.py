"""The four OpenStack Swift servers in one process, run by the interpreter of ``.venv-swift``.

Usage: ``swift_process.py FOLDER [KEYSTONE_URL]``. With the address of a Keystone it believes that one's tokens, not
TempAuth's. Everything is written under the folder; all ports are free ones of 127.0.0.1. When the servers accept
connections, one line with the proxy's port goes to standard output. SIGTERM ends it, and so does the end of standard
input: the servers do not outlive who started them.
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN003, ANN202
# (Swift and eventlet are installed in the other environment only and carry no types.)

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path

import eventlet

eventlet.monkey_patch()

SWIFT_CONF = """
[swift-hash]
swift_hash_path_prefix = test
swift_hash_path_suffix = test
[storage-policy:0]
name = Standard
default = yes
"""

STORAGE_CONF = """
[DEFAULT]
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
disable_fallocate = true
log_level = ERROR
# So long that a process that stands still for a moment is waited for: there is no updater, and an object of which its
# container was not told in time would be in no listing.
conn_timeout = 30
node_timeout = 30
container_update_timeout = 30
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
[{name}-replicator]
[{name}-updater]
[{name}-auditor]
"""

PROXY_CONF = """
[DEFAULT]
swift_dir = {folder}
log_level = ERROR
[pipeline:main]
pipeline = catch_errors gatekeeper cache etag-quoter listing_formats s3api tempurl {auth}
    copy container-quotas slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
conn_timeout = 30
node_timeout = 30
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:cache]
paste.filter_factory = swift_process:build_cache
[filter:etag-quoter]
use = egg:swift#etag_quoter
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = {region}
auth_pipeline_check = false
allow_multipart_uploads = true
check_bucket_owner = false
[filter:tempurl]
use = egg:swift#tempurl
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
user_test_stranger = testing
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
www_authenticate_uri = {keystone_url}
auth_url = {keystone_url}
auth_type = password
project_domain_id = default
user_domain_id = default
project_name = service
username = swift
password = swift-asks
delay_auth_decision = true
token_cache_time = -1
include_service_catalog = false
[filter:keystoneauth]
use = egg:swift#keystoneauth
operator_roles = admin, member
[filter:copy]
use = egg:swift#copy
[filter:container-quotas]
use = egg:swift#container_quotas
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""

REGION = "KR1"
TOKENS_PATH = "/test/tokens"
"""``DELETE`` makes every token void, as a changed password does."""
LOG_TO_STDERR = "swift_process.log_to_stderr"


def log_to_stderr(_conf, name, _to_console, _route, _format, logger, _adapted):
    target = logging.StreamHandler(sys.stderr)
    target.setFormatter(logging.Formatter(f"%(asctime)s {name}: %(levelname)s %(message)s"))
    logger.addHandler(target)


class Cache:
    """Swift's memcache, for one process."""

    def __init__(self) -> None:
        self._entries = {}

    def get(self, key, **_options):
        value, ends = self._entries.get(key, (None, 0))
        return value if not ends or ends > time.time() else None

    def set(self, key, value, time=0, **_options):
        self._entries[key] = (value, _ends(time))

    def incr(self, key, delta=1, time=0, **_options):
        value = max(0, int(self.get(key) or 0) + int(delta))
        self.set(key, value, time=time)
        return value

    def decr(self, key, delta=1, time=0, **_options):
        return self.incr(key, -delta, time)

    def delete(self, key, **_options):
        self._entries.pop(key, None)

    def forget_tokens(self):
        self._entries = {key: entry for key, entry in self._entries.items() if "/token/" not in key}

    def set_multi(self, mapping, _server_key, time=0, **_options):
        for key, value in mapping.items():
            self.set(key, value, time=time)

    def get_multi(self, keys, _server_key, **_options):
        return [self.get(key) for key in keys]


def _ends(seconds: float) -> float:
    return time.time() + seconds if seconds else 0


CACHE = Cache()


def build_cache(_global_conf, **_local_conf):
    def wrap(app):
        def with_cache(environ, start_response):
            if environ["PATH_INFO"] == TOKENS_PATH and environ["REQUEST_METHOD"] == "DELETE":
                CACHE.forget_tokens()
                start_response("204 No Content", [])
                return []
            environ["swift.cache"] = CACHE
            return app(environ, start_response)

        return with_cache

    return wrap


def write_rings(folder: Path, ports: dict[str, int]) -> None:
    from swift.common.ring.builder import RingBuilder

    for name, port in ports.items():
        builder = RingBuilder(4, 1, 0)
        builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": port, "device": "disk", "weight": 1.0})
        builder.rebalance()
        builder.get_ring().save(str(folder / f"{name}.ring.gz"))


def serve(folder: Path, keystone_url: str | None = None) -> None:
    auth = "tempauth" if keystone_url is None else "authtoken keystoneauth"
    (folder / "devices" / "disk").mkdir(parents=True, exist_ok=True)
    listeners = {name: eventlet.listen(("127.0.0.1", 0), backlog=512) for name in ("account", "container", "object")}
    write_rings(folder, {name: listener.getsockname()[1] for name, listener in listeners.items()})
    (folder / "swift.conf").write_text(SWIFT_CONF)
    for name in listeners:
        (folder / f"{name}-server.conf").write_text(STORAGE_CONF.format(folder=folder, name=name))
    (folder / "proxy-server.conf").write_text(
        PROXY_CONF.format(folder=folder, region=REGION, auth=auth, keystone_url=keystone_url or "")
    )
    listeners["proxy"] = eventlet.listen(("127.0.0.1", 0), backlog=512)

    os.environ["SWIFT_CONF_DIR"] = str(folder)
    from swift.common import constraints, storage_policy, utils

    utils.SWIFT_CONF_FILE = str(folder / "swift.conf")
    # Swift reads these when it is imported, from /etc/swift.
    storage_policy.reload_storage_policies()
    constraints.reload_constraints()
    from eventlet import wsgi
    from swift.common.wsgi import SwiftHttpProtocol, loadapp

    logger = logging.getLogger("swift-servers")
    threads = []
    for name, listener in listeners.items():
        app = loadapp(
            str(folder / f"{name}-server.conf"), global_conf={"log_name": name, "log_custom_handlers": LOG_TO_STDERR}
        )
        threads.append(
            eventlet.spawn(
                wsgi.server, listener, app, logger, max_size=256, protocol=SwiftHttpProtocol, socket_timeout=60
            )
        )
    eventlet.spawn(end_with_parent)
    print(listeners["proxy"].getsockname()[1], flush=True)  # noqa: T201 - the answer to who started it
    for thread in threads:
        thread.wait()


def end_with_parent() -> None:
    from eventlet import tpool

    tpool.execute(sys.stdin.buffer.read)
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    sys.modules["swift_process"] = sys.modules["__main__"]
    serve(Path(sys.argv[1]), *sys.argv[2:3])
