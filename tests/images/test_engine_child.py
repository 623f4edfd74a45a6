"""The program that an engine process runs, spoken to by hand."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.images import engine_child
from app.images.engine_frames import Channel, Kind, encode_job
from app.images.trial import small_png
from tests.fakes.renderers import MODULE, job
from tests.house.source import ROOT

ANY = frozenset(Kind)


@contextmanager
def running(renderer: str = MODULE, *, idle_seconds: float = 60) -> Iterator[tuple[Channel, subprocess.Popen[bytes]]]:
    """Run the program with a socket of ours."""
    ours, theirs = socket.socketpair()
    command = [
        *(sys.executable, "-m", engine_child.__name__, "--socket", str(theirs.fileno()), "--renderer", renderer),
        *("--memory-bytes", str(1 << 30), "--job-seconds", "30", "--idle-seconds", str(idle_seconds)),
    ]
    with theirs:
        child = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE)
    channel = Channel(ours)
    channel.allow(30)
    with child:
        yield channel, child
        channel.close()


def test_a_job_is_reported_taken_and_answered_in_this_order() -> None:
    original = os.memfd_create("original")
    os.write(original, small_png(32))

    with running("app.images.rendering") as (channel, _):
        ready = channel.receive(most_bytes=100, kinds=ANY)
        channel.send(Kind.JOB, encode_job(job(content_type="image/png")), original)
        frames = [channel.receive(most_bytes=10_000, kinds=ANY) for _ in range(3)]

    os.close(original)
    assert ready == (Kind.READY, b'{"confined": true}')
    assert [kind for kind, _ in frames] == [Kind.TAKEN, Kind.RENDERED, Kind.CONTENT]
    assert frames[2][1].startswith(b"RIFF")


def test_without_its_parent_it_ends_without_a_fault() -> None:
    with running() as (channel, child):
        channel.close()

        assert child.wait(30) == 0
        assert child.stderr is not None
        assert child.stderr.read() == b""


def test_without_work_it_ends_without_a_fault() -> None:
    with running(idle_seconds=0.05) as (_, child):
        assert child.wait(30) == 0


def test_what_cannot_render_never_reports_for_work() -> None:
    with running("tests.fakes.admission") as (channel, child):
        assert child.wait(30) == 1
        assert channel.connection.recv(1) == b""


@pytest.mark.parametrize("left_out", ["--socket", "--memory-bytes", "--idle-seconds", "--job-seconds"])
def test_every_limit_has_to_be_given(left_out: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"--socket": "9", "--memory-bytes": "1", "--idle-seconds": "1", "--job-seconds": "1"}
    del given[left_out]

    with pytest.raises(SystemExit):
        engine_child.main([word for pair in given.items() for word in pair])

    assert left_out in capsys.readouterr().err
