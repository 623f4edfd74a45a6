"""What one presigned link costs, ours and botocore's, in processor time of this process."""

from __future__ import annotations

import datetime as dt
from itertools import count
from time import process_time
from typing import Final

import boto3
from botocore.config import Config

from app.storage.s3_links import S3Links
from benchmarks.stability.dependency import Function
from benchmarks.stability.findings import Finding, finding
from benchmarks.stability.timing import Effort, seconds_per_call

NAME: Final = "links"
"""What ``--only`` calls these lines."""

_ENDPOINT, _BUCKET, _REGION = "http://127.0.0.1:9", "photos", "us-east-1"
_KEY_ID, _SECRET = "AKBENCH", "a secret of the benchmark"  # of a server that does not exist
_LIFE_SECONDS = 3600
_GOAL = 0.05
_MICROSECONDS = 1e6


def measure(effort: Effort) -> list[Finding]:
    """Return the line; each link is to another object, as on a page of a list."""
    costs = seconds_per_call({"ours": _ours(), "botocore": _botocores()}, effort, process_time)
    sides = ([seconds * _MICROSECONDS for seconds in costs[name]] for name in ("ours", "botocore"))
    return [finding("a presigned link", "botocore's", "µs a link", *sides, goal=_GOAL)]


def _ours() -> Function:
    links = S3Links(f"{_ENDPOINT}/{_BUCKET}", region=_REGION, access_key_id=_KEY_ID, secret_access_key=_SECRET)
    issued_at = dt.datetime.now(dt.UTC)
    expires_at = issued_at + dt.timedelta(seconds=_LIFE_SECONDS)
    numbers = count()
    return lambda: links.presigned_get(
        f"originals/{next(numbers)}", expires_at=expires_at, issued_at=issued_at, content_type="image/jpeg"
    )


def _botocores() -> Function:
    client = boto3.client(
        "s3",
        endpoint_url=_ENDPOINT,
        region_name=_REGION,
        aws_access_key_id=_KEY_ID,
        aws_secret_access_key=_SECRET,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    numbers = count()

    def make() -> object:
        wanted = {"Bucket": _BUCKET, "Key": f"originals/{next(numbers)}", "ResponseContentType": "image/jpeg"}
        return client.generate_presigned_url("get_object", Params=wanted, ExpiresIn=_LIFE_SECONDS)

    return make
