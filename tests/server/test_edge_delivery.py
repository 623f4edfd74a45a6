"""What nginx may send itself follows from the settings alone, and nothing odd comes into its configuration."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.errors import ConfigurationError
from app.photos import acceleration
from app.photos.signed_links import EXTENSIONS
from app.server.edge import render_nginx
from app.server.edge_delivery import HIDDEN_HEADERS, KEPT_HEADERS, KEYS_FILE, LinkKey, StorageOrigin, plan_delivery
from app.settings import Settings
from app.settings_delivery import StorageSettings
from app.settings_edge import EdgeSettings

KEYS = [LinkKey("k1", "s" * 43)]
HERE = Path("/srv/photos")


def stored_in(**storage: object) -> Settings:
    return Settings(storage=StorageSettings.model_validate(storage))


def bucket(url: str | None = "https://s3.example.org", **edge: object) -> Settings:
    storage = StorageSettings(
        backend="s3",
        s3_endpoint_url=url,
        s3_bucket="photos",
        s3_region="eu-central-1",
        s3_access_key_id=SecretStr("id-"),
        s3_secret_access_key=SecretStr("secret"),
    )
    return Settings(storage=storage, edge=EdgeSettings.model_validate(edge))


def test_a_folder_is_nginxs_only_when_its_group_may_read_it() -> None:
    closed = plan_delivery(stored_in(local_root="/srv/photos"), KEYS)
    opened = plan_delivery(stored_in(local_root="/srv/photos", local_group_readable=True), KEYS)

    assert (closed.is_possible, closed.has_links) == (False, False)
    assert (opened.local_folder, opened.has_links, opened.has_cache) == ("/srv/photos/objects/", True, False)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        (
            "https://s3.example.org",
            StorageOrigin("https", "s3.example.org:443", "s3.example.org", "s3.example.org", "/photos"),
        ),
        (
            "http://127.0.0.1:9000/base/",
            StorageOrigin("http", "127.0.0.1:9000", "127.0.0.1:9000", "127.0.0.1", "/base/photos"),
        ),
        ("https://[fd00::1]:443", StorageOrigin("https", "[fd00::1]:443", "[fd00::1]", "fd00::1", "/photos")),
        (
            None,
            StorageOrigin(
                "https",
                "photos.s3.eu-central-1.amazonaws.com:443",
                "photos.s3.eu-central-1.amazonaws.com",
                "photos.s3.eu-central-1.amazonaws.com",
                "",
            ),
        ),
    ],
    ids=["host", "port and path", "IPv6", "Amazon"],
)
def test_a_bucket_is_reached_where_its_links_lead(url: str | None, origin: StorageOrigin) -> None:
    delivery = plan_delivery(bucket(url), KEYS)

    assert (delivery.storage, delivery.has_cache, delivery.has_links) == (origin, True, True)


def test_without_copies_every_link_is_the_servers_to_judge() -> None:
    delivery = plan_delivery(bucket(cache_megabytes=0), KEYS)

    assert (delivery.is_possible, delivery.has_cache, delivery.has_links) == (True, False, False)


def test_without_keys_every_link_is_the_servers_to_judge() -> None:
    files = render_nginx(bucket(), folder=HERE)

    assert list(files) == ["nginx.conf"]
    assert "secure_link" not in files["nginx.conf"]


@pytest.mark.parametrize(
    ("given", "is_possible"),
    [
        ({}, True),
        ({"swift_storage_url": None}, False),
        ({"swift_temp_url_key": None}, False),
    ],
    ids=["all", "address from the catalogue", "no temporary URLs"],
)
def test_swift_is_reached_when_its_address_is_a_setting(given: dict[str, object], is_possible: bool) -> None:
    swift = {
        "backend": "swift",
        "swift_storage_url": "https://swift.example.org/v1/AUTH_0123",
        "swift_container": "photos",
        "swift_temp_url_key": "a-key-of-temporary-urls",
        **given,
    }

    delivery = plan_delivery(stored_in(**swift), KEYS)

    assert delivery.is_possible is is_possible
    assert delivery.storage is None or delivery.storage.prefix == "/v1/AUTH_0123/photos"


@pytest.mark.parametrize("root", ["/srv/$photos", "/srv/pho;tos", '/srv/"photos"', "/srv/{photos}", "/srv/a\nb"])
def test_a_folder_that_means_something_to_nginx_is_refused(root: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        plan_delivery(stored_in(local_root=root, local_group_readable=True), KEYS)

    assert caught.value.mistakes[0].startswith("PHOTO_API_STORAGE__LOCAL_ROOT: must be")


@pytest.mark.parametrize("url", ["https://ho$t.example", "https://host/$uri", "https://host/a;b", "https://host/%2f"])
def test_an_address_that_means_something_to_nginx_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        plan_delivery(bucket(url), KEYS)

    assert caught.value.mistakes[0].startswith("PHOTO_API_STORAGE__S3_ENDPOINT_URL: must have")


def test_keys_stand_in_their_own_file_and_nowhere_else() -> None:
    files = render_nginx(bucket(), folder=HERE, link_keys=[*KEYS, LinkKey("k2", "t" * 43)])

    assert list(files) == [KEYS_FILE, "nginx.conf"]
    assert re.findall(r"^ +'~\^(k\d)\$' '(s+|t+)';$", files[KEYS_FILE], re.MULTILINE) == [
        ("k1", "s" * 43),
        ("k2", "t" * 43),
    ]
    assert "s" * 43 not in files["nginx.conf"]
    assert "s" * 43 not in repr(KEYS)


def test_nginx_and_the_server_name_bytes_by_the_same_paths() -> None:
    folder = render_nginx(stored_in(local_root="/srv", local_group_readable=True), folder=HERE)["nginx.conf"]
    text = render_nginx(bucket(), folder=HERE)["nginx.conf"]

    assert f"location {acceleration.LOCAL_PATH} {{" in folder
    assert f'location ~ "^{re.escape(acceleration.STORAGE_PATH)}(' in text


def test_every_kind_of_photo_has_its_media_type_at_nginx() -> None:
    text = render_nginx(bucket(), folder=HERE, link_keys=KEYS)["nginx.conf"]

    assert all(f"        {ending} {media_type};\n" in text for media_type, ending in EXTENSIONS.items())


def test_what_nginx_keeps_of_the_servers_answer_it_hides_of_the_stores() -> None:
    text = render_nginx(bucket(), folder=HERE)["nginx.conf"]

    assert [name for name, _ in KEPT_HEADERS if f"proxy_hide_header {name};" not in text] == []
    assert len(set(HIDDEN_HEADERS)) == len(HIDDEN_HEADERS)
