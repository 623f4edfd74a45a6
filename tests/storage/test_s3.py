"""Facts of the S3 store that need no server: where it sends to, and what it does not show."""

from __future__ import annotations

import pytest

from app.storage.s3 import S3Config, bucket_url


def config(endpoint_url: str | None, region: str = "eu-west-1", bucket: str = "photos") -> S3Config:
    return S3Config(
        endpoint_url=endpoint_url, bucket=bucket, region=region, access_key_id="id", secret_access_key="hidden"
    )


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        (config("http://127.0.0.1:8080"), "http://127.0.0.1:8080/photos"),
        (config("https://storage.example.com/"), "https://storage.example.com/photos"),
        (config("https://example.com/s3"), "https://example.com/s3/photos"),
        (config(None), "https://photos.s3.eu-west-1.amazonaws.com"),
        (config(None, region="us-east-1"), "https://photos.s3.amazonaws.com"),
        (config(None, region="cn-north-1"), "https://photos.s3.cn-north-1.amazonaws.com.cn"),
        (config(None, bucket="with.dots"), "https://s3.eu-west-1.amazonaws.com/with.dots"),
    ],
)
def test_bucket_is_addressed_by_path_on_an_endpoint_and_by_the_vendors_rules_on_aws(
    settings: S3Config, url: str
) -> None:
    assert bucket_url(settings) == url


def test_secret_is_not_shown() -> None:
    assert "hidden" not in repr(config(None))
