"""systemd's units: systemd finds nothing wrong, they stop in order, and their times keep the inequalities."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.server.units import render_systemd
from app.settings import CONFIG_FOLDER, Settings, load_settings
from app.settings_timing import judge_times
from tests.servers.base import skip_without

PRODUCTION = {
    "PHOTO_API_PROFILE": "production",
    "PHOTO_API_SERVER__ALLOWED_HOSTS": "photos.example.org",
    "PHOTO_API_AUTH__KEY_RING_FILE": "/etc/photo-api/keys.json",
}
# Enough of Debian's own for the drop-in to be judged with it.
NGINX = """[Unit]
Description=nginx
[Service]
Type=forking
PIDFile=/run/nginx.pid
ExecStart=/bin/true
ExecStop=-/sbin/start-stop-daemon --quiet --stop --retry QUIT/5 --pidfile /run/nginx.pid
TimeoutStopSec=5
KillMode=mixed
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those of production, as shipped."""
    return load_settings(PRODUCTION, working_folder=tmp_path, config_folder=CONFIG_FOLDER)


def units_of(settings: Settings, *, home: str = "/opt/photo-api", user: str = "root") -> dict[str, str]:
    return render_systemd(settings, home=home, python=sys.executable, user=user)


def values_of(unit: str, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit, re.MULTILINE)


def test_systemd_finds_nothing_wrong(settings: Settings, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        skip_without("systemd-analyze is not installed: apt-get install systemd")
    for name, text in {**units_of(settings), "nginx.service": NGINX}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    names = ["photo-api.service", "photo-api-drain.service", "nginx.service"]

    done = subprocess.run(
        ["systemd-analyze", "--man=no", "verify", *names],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        check=False,
    )

    about_ours = [line for line in done.stderr.splitlines() if any(name in line for name in (*names, "photo-api"))]
    assert (done.returncode, about_ours) == (0, [])


def test_the_times_in_the_units_keep_the_inequalities(settings: Settings) -> None:
    found = _with_times_of(settings, units_of(settings))

    assert found == settings
    assert [judged.comparison.number for judged in judge_times(found) if not judged.holds] == []


@pytest.mark.parametrize(
    ("unit", "broken"),
    [("photo-api.service", "5"), ("photo-api-drain.service", "6"), ("nginx.service.d/photo-api.conf", "3b")],
)
def test_another_time_in_a_unit_is_seen(settings: Settings, unit: str, broken: str) -> None:
    units = units_of(settings)
    units[unit] = re.sub("TimeoutStopSec=.*", "TimeoutStopSec=5", units[unit])

    changed = _with_times_of(settings, units)

    assert [judged.comparison.number for judged in judge_times(changed) if not judged.holds] == [broken]


def test_drain_stops_before_nginx_and_nginx_before_the_server(settings: Settings) -> None:
    units = units_of(settings)

    after = {name: " ".join(values_of(text, "After")).split() for name, text in units.items()}
    assert {"photo-api.service", "nginx.service"} <= set(after["photo-api-drain.service"])
    assert "photo-api.service" in after["nginx.service.d/photo-api.conf"]
    assert not {"nginx.service", "photo-api-drain.service"} & set(after["photo-api.service"])


def test_the_drain_unit_waits_as_long_as_the_lame_duck(settings: Settings) -> None:
    stops = values_of(units_of(settings)["photo-api-drain.service"], "ExecStop")

    assert stops == [f"-{sys.executable} -m app drain", "/bin/sleep 20"]


def test_only_the_master_is_told_to_stop_and_a_wrong_configuration_is_not_tried_again(settings: Settings) -> None:
    unit = units_of(settings)["photo-api.service"]

    wanted = {"KillMode": "mixed", "Type": "notify", "Restart": "on-failure", "RestartPreventExitStatus": "78"}
    assert {name: values_of(unit, name) for name in wanted} == {name: [value] for name, value in wanted.items()}


def test_nginx_is_asked_to_quit_and_not_killed_after_five_seconds(settings: Settings) -> None:
    unit = units_of(settings)["nginx.service.d/photo-api.conf"]

    assert (values_of(unit, "ExecStop"), values_of(unit, "KillSignal")) == ([""], ["SIGQUIT"])


@pytest.mark.parametrize(
    ("home", "user", "says"),
    [
        ("/opt/photo api", "root", "the folder of this program: must be an absolute path"),
        ("/opt/%h", "root", "the folder of this program"),
        ("opt", "root", "the folder of this program"),
        ("/opt/x\nExecStart=/bin/sh", "root", "the folder of this program"),
        ("/opt", "a b", "--user: must be a user's name"),
        ("/opt", "root\nGroup=root", "--user"),
    ],
)
def test_what_cannot_stand_in_a_unit_is_refused(settings: Settings, home: str, user: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        units_of(settings, home=home, user=user)

    assert says in caught.value.mistakes[0]


def _with_times_of(settings: Settings, units: dict[str, str]) -> Settings:
    """Return the settings with the times that stand in the units."""

    def seconds(unit: str) -> float:
        (value,) = values_of(units[unit], "TimeoutStopSec")
        return float(value)

    server = {
        "stop_timeout_seconds": seconds("photo-api.service"),
        "drain_stop_timeout_seconds": seconds("photo-api-drain.service"),
    }
    edge = {"stop_timeout_seconds": seconds("nginx.service.d/photo-api.conf")}
    return settings.model_copy(
        update={
            "server": settings.server.model_copy(update=server),
            "edge": settings.edge.model_copy(update=edge),
        }
    )
