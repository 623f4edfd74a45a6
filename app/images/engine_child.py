"""A process of the image engine: ``python -m app.images.engine_child``, started by :mod:`app.images.engine_process`.

::

    import ─► one picture to try ─► limits, filter ─► READY ─► job ─► answer ─► job ─► … ─► the socket ends, or idle
                                                               ╰── alarm, processor limit, parent gone: ends at once

It knows no setting, no secret, no database and no network. Its end is never an accident for anybody else.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Final

from app.errors import UndecodableImageError
from app.images.engine_frames import (
    Channel,
    Kind,
    PeerLostError,
    RefusalCode,
    has_news,
    send_refusal,
    send_rendered,
)
from app.images.jobs import HeifNotInstalledError, Rendered, RenderJob
from app.images.sandbox import confine, limit_processor, limit_resources
from app.images.trial import try_out

Render = Callable[[int, RenderJob], Rendered]
"""Makes what a job asks for of the original behind a descriptor."""

_GRACE_SECONDS: Final = 1.0
"""The parent kills first; the alarm is for a child whose parent cannot."""


def main(arguments: list[str]) -> int:
    """Serve jobs until the socket ends or none comes for a while.

    Args:
        arguments: See ``--help``.

    Returns:
        The exit code: 0 after an end without a fault.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", type=int, required=True, help="descriptor of the socket to the parent")
    parser.add_argument("--memory-bytes", type=int, required=True, help="address space and data")
    parser.add_argument("--idle-seconds", type=float, required=True, help="without a job; then the process ends")
    parser.add_argument("--job-seconds", type=float, required=True, help="for one job; then the process is ended")
    parser.add_argument("--renderer", default="app.images.rendering", help="module with the function render")
    options = parser.parse_args(arguments)
    render: Render = import_module(options.renderer).render
    try_out(render)
    channel = Channel(socket.socket(fileno=options.socket))
    fcntl.fcntl(channel.connection, fcntl.F_SETOWN, os.getpid())
    limit_resources(options.memory_bytes)
    confined = confine()
    gc.collect()
    gc.freeze()
    try:
        channel.send(Kind.READY, json.dumps({"confined": confined}).encode())
        while _is_wanted(channel, options.idle_seconds):
            _serve(channel, render, options.job_seconds)
    except PeerLostError:
        pass
    return 0


def _is_wanted(channel: Channel, idle_seconds: float) -> bool:
    return has_news(channel.connection, idle_seconds)


def _serve(channel: Channel, render: Render, job_seconds: float) -> None:
    job, descriptor = channel.receive_job()
    channel.send(Kind.TAKEN, b"")
    try:
        with _ends_with(channel.connection, job_seconds):
            rendered = render(descriptor, job)
    except PeerLostError:
        raise
    except HeifNotInstalledError as error:
        send_refusal(channel, RefusalCode.HEIF_NOT_INSTALLED, str(error))
    except UndecodableImageError as error:
        send_refusal(channel, RefusalCode.UNDECODABLE, str(error.__cause__ or error))
    except MemoryError:
        send_refusal(channel, RefusalCode.MEMORY, "no memory is left")
    except Exception as error:  # noqa: BLE001  whatever a decoder raises: the next photo has nothing to do with it
        send_refusal(channel, RefusalCode.FAULT, f"{type(error).__name__}: {error}")
    else:
        send_rendered(channel, rendered)
    finally:
        os.close(descriptor)


@contextmanager
def _ends_with(connection: socket.socket, job_seconds: float) -> Iterator[None]:
    """End this process, even within C code, when its time is over or its parent dies, and not only between jobs.

    While a job is at work the parent sends nothing: whatever the socket reports (SIGIO) is that it ended.
    """
    flags = fcntl.fcntl(connection, fcntl.F_GETFL)
    limit_processor(job_seconds + _GRACE_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, job_seconds + _GRACE_SECONDS)
    fcntl.fcntl(connection, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        if has_news(connection, 0):
            raise PeerLostError  # it died before it was watched
        yield
    finally:
        fcntl.fcntl(connection, fcntl.F_SETFL, flags)
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # what the thread that started this program had put off
    for ending in (signal.SIGALRM, signal.SIGIO, signal.SIGXCPU):
        signal.signal(ending, signal.SIG_DFL)
    for word in (signal.SIGINT, signal.SIGTERM):
        signal.signal(word, signal.SIG_IGN)  # said to a whole group of processes: the parent drains, and this with it
    sys.exit(main(sys.argv[1:]))
