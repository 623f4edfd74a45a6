"""What stands beside the product: a Flask hello, and the plainest photo server that boto3 and Flask make.

Served by the same gunicorn with the same workers and threads: ``gunicorn benchmarks.baselines:app``. They check
nothing: no identity, no type, no digest, no database. That is what the product's protections are measured against.
"""

from __future__ import annotations

import os
import uuid

import boto3
from botocore.config import Config
from flask import Flask, Response, request

_CHUNK_BYTES = 256 * 1024

app = Flask(__name__)
_bucket = os.environ.get("BENCH_S3_BUCKET", "")
_client = boto3.client(
    "s3",
    endpoint_url=os.environ.get("BENCH_S3_ENDPOINT", "http://127.0.0.1:9"),
    aws_access_key_id=os.environ.get("BENCH_S3_KEY", "none"),
    aws_secret_access_key=os.environ.get("BENCH_S3_SECRET", "none"),
    region_name="us-east-1",
    config=Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        max_pool_connections=64,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    ),
)


@app.get("/hello")
def hello() -> str:
    """Answer the least there is."""
    return "hello"


@app.get("/accel")
def accel() -> Response:
    """Let nginx send a file, whoever asks."""
    return Response(headers={"X-Accel-Redirect": "/files/200KB.jpg"}, content_type="image/jpeg")


@app.post("/upload-fileobj")
def upload_fileobj() -> tuple[str, int]:
    """Store a body the way most tutorials do."""
    _client.upload_fileobj(request.stream, _bucket, f"bench/{uuid.uuid4().hex}")
    return "", 201


@app.post("/put-object")
def put_object() -> tuple[str, int]:
    """Store a body that is read into memory first."""
    _client.put_object(Bucket=_bucket, Key=f"bench/{uuid.uuid4().hex}", Body=request.get_data())
    return "", 201


@app.get("/download/<path:key>")
def download(key: str) -> Response:
    """Stream an object."""
    found = _client.get_object(Bucket=_bucket, Key=key)
    headers = {"Content-Length": str(found["ContentLength"])}
    return Response(found["Body"].iter_chunks(_CHUNK_BYTES), headers=headers, content_type="image/jpeg")
