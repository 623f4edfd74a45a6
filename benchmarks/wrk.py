"""Load from wrk, a small closed-loop client, against 127.0.0.1 only, for a few seconds at a time."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import processor_seconds

_UPLOAD = """
local counter = 0
function setup(thread)
  counter = counter + 1
  thread:set("number", counter)
end
local file = io.open("{body}", "rb")
local body = file:read("*a")
file:close()
local sent = 0
function request()
  sent = sent + 1
  -- Bytes after the image's end are allowed; they make each upload another photo.
  return wrk.format("POST", nil, nil, body .. string.format("%d-%d-%s", number, sent, "{run}"))
end
"""
_IN_TURN = """
local paths = {{{paths}}}
local turn = 0
function request()
  turn = turn % #paths + 1
  return wrk.format("GET", paths[turn])
end
"""
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True)
class Request:
    """What is asked again and again.

    Attributes:
        url: On 127.0.0.1.
        headers: With each request.
        body: A file that is posted, made unique each time; None for GET.
        paths: Asked for in turn instead of the URL's own path; none for that.
        pids: The servers that work for it, whose processor time is told.
    """

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    body: Path | None = None
    paths: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Load:
    """What came of it.

    Attributes:
        per_second: Requests answered, all with 2xx or 3xx.
        p99_seconds: 99 % of the answers came within this.
        processor_seconds: Of the servers, for one request; 0 where none is named.
    """

    per_second: float
    p99_seconds: float
    processor_seconds: float = 0.0


class UnexpectedAnswersError(Exception):
    """Some answers were errors, so that their speed means nothing."""


def measure(request: Request, *, seconds: float, connections: int, run: str) -> Load:
    """Send requests for a while over some connections.

    Args:
        request: What to send.
        seconds: For how long.
        connections: How many at once.
        run: Different in every call, so that uploads are never duplicates.

    Raises:
        UnexpectedAnswersError: Some answers were errors.
    """
    assert request.url.startswith("http://127.0.0.1:")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "60s", "--latency"]
        for name, value in request.headers.items():
            command += ["-H", f"{name}: {value}"]
        if request.body is not None:
            script.write(_UPLOAD.replace("{body}", str(request.body)).replace("{run}", run))
            script.flush()
            command += ["-s", script.name]
        elif request.paths:
            script.write(_IN_TURN.format(paths=",".join(f'"{path}"' for path in request.paths)))
            script.flush()
            command += ["-s", script.name]
        before = processor_seconds(request.pids)
        done = subprocess.run([*command, request.url], capture_output=True, text=True, check=True)
        taken = processor_seconds(request.pids) - before
    return _read(done.stdout, request.url, taken)


def _read(output: str, url: str, processor: float) -> Load:
    if "Non-2xx" in output or "Socket errors" in output:
        raise UnexpectedAnswersError(f"{url}\n{output}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    latency = re.search(r"99%\s+([\d.]+)(us|ms|s|m)", output)
    total = re.search(r"(\d+) requests in", output)
    assert rate is not None and latency is not None and total is not None, output  # noqa: PT018  # all or none
    p99_seconds = float(latency.group(1)) * _UNITS[latency.group(2)]
    return Load(float(rate.group(1)), p99_seconds, processor / max(1, int(total.group(1))))
