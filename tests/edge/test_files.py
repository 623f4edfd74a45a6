"""The rendered file itself: nginx takes it, gixy finds nothing in it, and its times are those of the inequalities."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.server.edge_delivery import LinkKey
from app.settings import CONFIG_FOLDER, Settings, load_settings
from app.settings_timing import judge_times
from tests.servers.base import find_free_port
from tests.servers.edge import settings_of, write_files
from tests.servers.nginx import find_program

LABEL = "a" * 58
BUCKET = {
    "STORAGE__BACKEND": "s3",
    "STORAGE__S3_BUCKET": "photos",
    "STORAGE__S3_ACCESS_KEY_ID": "photos",
    "STORAGE__S3_SECRET_ACCESS_KEY": "secret",
}
KEYS = [LinkKey("a1b2", "x" * 43), LinkKey("-_", "y" * 43)]
VARIANTS = {
    "gallery": {},
    "strict": {"EDGE__PROFILE": "strict"},
    "dry run": {"EDGE__DRY_RUN": "true"},
    "behind a balancer": {
        "BALANCER__NETWORKS": "10.0.0.0/8,fd00::/8",
        "EDGE__UNLIMITED_NETWORKS": "192.0.2.0/24,2001:db8::/32",
    },
    "many names": {"SERVER__ALLOWED_HOSTS": ".example.org,photos.example.com,192.0.2.1,photos.example.com"},
    "long names": {"SERVER__ALLOWED_HOSTS": ",".join(f"{LABEL}{n}.{LABEL}.{LABEL}.{LABEL}.org" for n in range(50))},
    "unix socket": {"SERVER__BIND": "unix:var/photo-api.sock"},
    "all addresses": {"EDGE__BIND": "[::]:$PORT", "SERVER__BIND": "0.0.0.0:8000"},
    "no HSTS": {"EDGE__HSTS_SECONDS": "0"},
    "photos in a folder": {"STORAGE__LOCAL_GROUP_READABLE": "true", "STORAGE__LOCAL_ROOT": "/srv/photos of us"},
    "decisions remembered": {"STORAGE__LOCAL_GROUP_READABLE": "true", "EDGE__DECISION_SECONDS": "5"},
    "photos in a bucket": {**BUCKET, "STORAGE__S3_ENDPOINT_URL": "http://127.0.0.1:9000"},
    "photos in a bucket, HTTPS": {**BUCKET, "STORAGE__S3_ENDPOINT_URL": "https://localhost/s3"},
    "photos in a bucket, no copies": {
        **BUCKET,
        "STORAGE__S3_ENDPOINT_URL": "https://[::1]:8443",
        "EDGE__CACHE_MEGABYTES": "0",
    },
    "photos in Swift": {
        "STORAGE__BACKEND": "swift",
        "STORAGE__SWIFT_AUTH_URL": "https://localhost/v3",
        "STORAGE__SWIFT_STORAGE_URL": "https://localhost:8080/v1/AUTH_0123",
        "STORAGE__SWIFT_CONTAINER": "photos",
        "STORAGE__SWIFT_USERNAME": "photos",
        "STORAGE__SWIFT_PASSWORD": "secret",
        "STORAGE__SWIFT_TENANT_ID": "0123",
        "STORAGE__SWIFT_TEMP_URL_KEY": "a-key-of-temporary-urls",
    },
    "largest photos": {"UPLOADS__MAX_BYTES": "5368709120", "PHOTOS__QUOTA_BYTES": "10737418240"},
}
TLS = "with a certificate"
PRODUCTION = {
    "PHOTO_API_PROFILE": "production",
    "PHOTO_API_SERVER__ALLOWED_HOSTS": "photos.example.org",
    "PHOTO_API_AUTH__KEY_RING_FILE": "/etc/photo-api/keys.json",
}


@pytest.fixture(params=[*VARIANTS, TLS])
def rendered(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The file of one variant."""
    # gixy takes every port with these digits for HTTPS.
    port, tls_port = (next(port for port in iter(find_free_port, 0) if "443" not in str(port)) for _ in range(2))
    more = {"EDGE__TLS_BIND": f"127.0.0.1:{tls_port}"}
    if request.param == TLS:
        more |= request.getfixturevalue("certificate")
    else:
        more |= {name: text.replace("$PORT", str(port)) for name, text in VARIANTS[request.param].items()}
    more |= {"EDGE__CACHE_FOLDER": str(tmp_path / "copies")}
    return write_files(settings_of(tmp_path, "127.0.0.1:8000", port, more), tmp_path, KEYS)


def find_with_gixy(file: Path) -> list[dict[str, Any]]:
    """Return what gixy finds in a configuration."""
    command = [sys.executable, "-m", "gixy", "--format", "json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("["), done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def value_of(text: str, directive: str, *, block: str = "") -> str:
    """Return the argument of a directive that stands once, in a block or in the whole file."""
    within = re.search(rf"{re.escape(block)} {{(.*?)\n    }}", text, re.DOTALL) if block else None
    (value,) = re.findall(rf"^\s*{directive} (.+);$", within[1] if within else text, re.MULTILINE)
    return str(value)


def seconds_of(text: str, directive: str, *, block: str = "") -> float:
    return float(value_of(text, directive, block=block).removesuffix("s"))


def test_nginx_takes_the_file_without_a_word(rendered: Path) -> None:
    command = [find_program(), "-t", "-q", "-p", str(rendered.parent), "-c", str(rendered)]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    said = [line for line in done.stderr.splitlines() if '"user" directive' not in line]
    assert (done.returncode, said) == (0, [])


def test_gixy_finds_nothing(rendered: Path) -> None:
    assert find_with_gixy(rendered) == []


def test_gixy_finds_what_is_wrong(tmp_path: Path) -> None:
    bad = tmp_path / "nginx.conf"
    bad.write_text(
        "events {}\nhttp { server { location /i { return 302 http://example.org$uri; } } }\n", encoding="utf-8"
    )

    assert "http_splitting" in {finding["plugin"] for finding in find_with_gixy(bad)}


def test_the_times_in_the_file_keep_the_inequalities(tmp_path: Path) -> None:
    settings = load_settings(PRODUCTION, working_folder=tmp_path, config_folder=CONFIG_FOLDER)

    found = _with_times_of(settings, write_files(settings, tmp_path).read_text(encoding="utf-8"))

    assert found == settings
    assert [judged.comparison.number for judged in judge_times(found) if not judged.holds] == []


def test_another_time_in_the_file_is_seen(tmp_path: Path) -> None:
    settings = load_settings(PRODUCTION, working_folder=tmp_path, config_folder=CONFIG_FOLDER)
    text = write_files(settings, tmp_path).read_text(encoding="utf-8")

    changed = _with_times_of(settings, text.replace("proxy_read_timeout 40s", "proxy_read_timeout 28s"))

    assert [judged.comparison.number for judged in judge_times(changed) if not judged.holds] == ["10a"]


def _with_times_of(settings: Settings, text: str) -> Settings:
    """Return the settings with the times that stand in nginx's file."""
    outside = re.sub(r"upstream photo_api {.*?\n    }|location ~ \^\(\?:/__.*?}", "", text, flags=re.DOTALL)
    times = {
        "quit_wait_seconds": seconds_of(text, "worker_shutdown_timeout"),
        "keep_alive_seconds": seconds_of(outside, "keepalive_timeout"),
        "upstream_keep_alive_seconds": seconds_of(text, "keepalive_timeout", block="upstream photo_api"),
        "read_timeout_seconds": seconds_of(outside, "proxy_read_timeout"),
        "client_timeout_seconds": seconds_of(text, "client_header_timeout"),
    }
    return settings.model_copy(update={"edge": settings.edge.model_copy(update=times)})
