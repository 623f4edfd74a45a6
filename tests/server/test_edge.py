"""nginx's file is made of judged settings only, and what nginx answers itself has the server's form."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest

from app.errors import ConfigurationError
from app.http import bodies, operations
from app.http.problems import PROBLEMS
from app.server.edge import FORM_BYTES, JSON_BYTES_MAX, quoted, render_nginx
from app.server.edge_limits import PROFILES
from app.server.edge_problems import EDGE_PROBLEMS, EdgeProblem, document
from app.settings import Settings
from app.settings_edge import BalancerSettings, EdgeSettings, ServerSettings

HERE = Path("/srv/photos")


def rendered(settings: Settings | None = None) -> str:
    return render_nginx(Settings() if settings is None else settings, folder=HERE)["nginx.conf"]


def served_on(bind: str, /, **edge: str) -> Settings:
    return Settings(server=ServerSettings(bind=bind), edge=EdgeSettings.model_validate(edge))


@pytest.mark.parametrize(
    ("bind", "upstream"),
    [
        ("127.0.0.1:8000", "127.0.0.1:8000"),
        ("0.0.0.0:8000", "127.0.0.1:8000"),
        ("[::]:8000", "[::1]:8000"),
        ("[fd00::1]:8000", "[fd00::1]:8000"),
        ("unix:var/photo-api.sock", "unix:/srv/photos/var/photo-api.sock"),
        ("unix:/run/photo-api.sock", "unix:/run/photo-api.sock"),
    ],
)
def test_nginx_finds_the_server_where_it_listens(bind: str, upstream: str) -> None:
    text = rendered(served_on(bind))

    assert f"server {upstream} max_fails=0;" in text


@pytest.mark.parametrize(
    ("bind", "listens"),
    [
        ("0.0.0.0:80", ["0.0.0.0:80"]),
        ("[::]:80", ["0.0.0.0:80", "[::]:80"]),
        ("[fd00::1]:80", ["[fd00::1]:80"]),
    ],
)
def test_clients_of_both_families_keep_their_own_addresses(bind: str, listens: list[str]) -> None:
    text = rendered(served_on("127.0.0.1:8000", bind=bind))

    assert re.findall(r"listen (\S+) default_server;", text) == listens


@pytest.mark.parametrize(
    ("edge", "named"),
    [
        ({"bind": "0.0.0.0:8000"}, "PHOTO_API_EDGE__BIND and PHOTO_API_SERVER__BIND"),
        (
            {"tls_bind": "127.0.0.1:8000", "tls_certificate_file": "/c", "tls_key_file": "/k"},
            "PHOTO_API_EDGE__TLS_BIND and PHOTO_API_SERVER__BIND",
        ),
        (
            {"tls_bind": "0.0.0.0:80", "tls_certificate_file": "/c", "tls_key_file": "/k"},
            "PHOTO_API_EDGE__TLS_BIND and PHOTO_API_EDGE__BIND",
        ),
    ],
)
def test_nginx_and_the_server_do_not_share_an_address(edge: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        rendered(served_on("127.0.0.1:8000", **edge))

    assert [mistake.partition(":")[0] for mistake in caught.value.mistakes] == [named]


def test_nobody_is_believed_without_a_balancer() -> None:
    alone = rendered()
    behind = rendered(Settings(balancer=BalancerSettings(networks=("10.0.0.0/8", "fd00::/8"))))

    assert "real_ip" not in alone
    assert re.findall(r"set_real_ip_from (\S+);", behind) == ["10.0.0.0/8", "fd00::/8"]


@pytest.mark.parametrize("profile", PROFILES)
def test_every_zone_of_a_profile_stands_in_the_file(profile: str) -> None:
    text = rendered(Settings(edge=EdgeSettings.model_validate({"profile": profile})))

    rates = re.findall(r"zone=photo_api_(\w+):10m rate=(\S+);", text)
    bursts = re.findall(r"limit_req zone=photo_api_(\w+) burst=(\d+)( nodelay| delay=\d+)?;", text)
    assert rates == [(zone.name, f"{zone.rate}r/{zone.per}") for zone in PROFILES[profile]]
    assert bursts == [(zone.name, str(zone.burst), zone.pace) for zone in PROFILES[profile]]


def test_the_profiles_have_the_rates_that_the_documents_promise() -> None:
    promised = {profile: [f"{zone.rate}/{zone.per}" for zone in zones] for profile, zones in PROFILES.items()}

    assert promised == {"gallery": ["20/s", "100/s", "2/s", "5/m"], "strict": ["60/m", "120/m", "30/m", "5/m"]}


def test_a_page_of_a_hundred_thumbnails_loads_at_once() -> None:
    (image,) = [zone for zone in PROFILES["gallery"] if zone.name == "image"]

    assert min(image.burst, image.undelayed) >= 100


def test_the_same_settings_give_the_same_file() -> None:
    assert rendered() == rendered()


def test_nginx_takes_bodies_as_large_as_the_server_does() -> None:
    form = bodies._FRAMING_BYTES_MAX + bodies._FIELDS_BYTES_MAX

    assert JSON_BYTES_MAX == operations._JSON_BYTES_MAX
    assert form == FORM_BYTES


@pytest.mark.parametrize("text", ["a\nb", "a\0b", "a\x7fb"])
def test_a_string_with_a_control_character_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no control characters"):
        quoted(text)


def test_a_string_cannot_end_early() -> None:
    assert quoted("it's a \\ path; }") == "'it\\'s a \\\\ path; }'"


@pytest.mark.parametrize("edge", EDGE_PROBLEMS, ids=lambda edge: str(edge.problem.status))
def test_nginxs_own_problems_are_json_with_the_members_of_the_servers(edge: EdgeProblem) -> None:
    text = document(edge, request_id="$id", retry_after="$seconds").replace("$seconds", "7")

    members = orjson.loads(text)

    seconds = {429: 7}.get(edge.problem.status, edge.retry_after_seconds)
    assert members.pop("retry_after_seconds", None) == seconds
    assert list(members) == ["type", "title", "status", "detail", "request_id", "retryable"]
    assert members["request_id"] == "$id"


def test_every_code_of_nginx_leads_to_one_problem() -> None:
    codes = [code for each in EDGE_PROBLEMS for code in each.causes]

    assert sorted(codes) == sorted(set(codes))
    assert {400, 403, 404, 408, 413, 414, 421, 429, 431, 494, 495, 496, 497, 500, 502, 503, 504} <= set(codes)


def test_a_status_means_the_same_to_nginx_and_to_the_server() -> None:
    ours = {problem for problem in PROBLEMS.values() if problem.status in {404, 413, 429}}
    slugs = {each.problem.slug for each in EDGE_PROBLEMS}

    assert {problem.slug for problem in ours} <= slugs
