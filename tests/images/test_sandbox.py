"""What a confined process can still do, and what it cannot: tried by processes that confine themselves."""

from __future__ import annotations

import signal
import struct
import subprocess
import sys

import pytest

from app.images.sandbox import system_call_filter
from tests.house.source import ROOT

PRELUDE = """
import ctypes, errno, fcntl, os, resource, signal, socket, sys, threading, time
from app.images.sandbox import confine, limit_processor, limit_resources
libc = ctypes.CDLL(None, use_errno=True)
ours, theirs = socket.socketpair()
null = os.open(os.devnull, os.O_RDWR)

def refused(call):
    try:
        call()
    except OSError as error:
        return error.errno
    return 0
"""
CONFINED = "limit_resources(1 << 30)\nassert confine()\n"

FORBIDDEN = {
    "a socket": "socket.socket()",
    "a pair of sockets": "socket.socketpair()",
    "a connection": "libc.connect(ours.fileno(), None, 0)",
    "an address": "libc.bind(ours.fileno(), None, 0)",
    "a child": "os.fork()",
    "a program": "os.execv(sys.executable, ['python'])",
    "a spawned program": "os.posix_spawn(sys.executable, ['python'], {})",
    "a clone that is no thread": "libc.syscall({'x86_64': 56}.get(os.uname().machine, 220), 17, 0, 0, 0, 0)",
    "a look into another": "libc.ptrace(16, os.getppid(), 0, 0)",
    "the memory of another": "libc.process_vm_readv(os.getppid(), None, 0, None, 0, 0)",
    "a signal to its parent": "os.kill(os.getppid(), 0)",
    "a signal to everybody": "os.kill(-1, 0)",
    "a signal by its socket": "fcntl.fcntl(ours, fcntl.F_SETOWN, os.getppid())",
    "another signal by its socket": "fcntl.fcntl(ours, fcntl.F_SETSIG, 9)",
    "a name space": "libc.unshare(0)",
    "another root": "os.chroot('/')",
    "a mount": "libc.mount(None, b'/', None, 0, None)",
    "a ring of calls": "libc.syscall(425, 1, None)",
    "a program of the kernel": "libc.syscall({'x86_64': 321}.get(os.uname().machine, 280), 0, None, 0)",
}
"""What ends a process."""

REFUSED = {
    "a file to read": ("open('/etc/passwd')", "EACCES"),
    "its own environment": ("open('/proc/self/environ')", "EACCES"),
    "a file to write": ("os.open('x', os.O_WRONLY | os.O_CREAT)", "EACCES"),
    "a folder": ("os.mkdir('x')", "EPERM"),
    "a listing": ("os.listdir('.')", "EACCES"),
    "an end of a file's name": ("os.unlink('x')", "EPERM"),
    "another name": ("os.rename('x', 'y')", "EPERM"),
    "another's limits": ("resource.prlimit(os.getppid(), resource.RLIMIT_CPU)", "EPERM"),
    "a file in memory": ("os.memfd_create('x')", "EPERM"),
    "a question to a device": ("fcntl.ioctl(null, 0x5401, bytes(64))", "EPERM"),
    "another user": ("os.setuid(1)", "EPERM"),
    "another priority": ("os.nice(-1)", "EPERM"),
}
"""What is refused, and how."""

POSSIBLE = {
    "reading": "assert os.read(null, 1) == b''",
    "writing": "assert os.write(null, b'x') == 1",
    "talking to its parent": "ours.sendall(b'x'); assert theirs.recv(1) == b'x'",
    "memory": "assert len(bytearray(100_000_000)) == 100_000_000",
    "a thread": "thread = threading.Thread(target=print); thread.start(); thread.join()",
    "waiting": "time.sleep(0.001)",
    "a signal to itself": "os.kill(os.getpid(), 0)",
    "chance": "assert len(os.urandom(8)) == 8",
    "its limits": "limit_processor(5)",
    "a socket that waits no longer than it should": "ours.settimeout(0.01)",
}
"""What a decoder needs."""


def run(*lines: str, confined: bool = True) -> tuple[int, str]:
    """Return how a process ends that does this, and the last line it says."""
    text = "\n".join([PRELUDE, CONFINED if confined else "", *lines])
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, (done.stdout + done.stderr).strip().rpartition("\n")[2]


@pytest.mark.parametrize("wish", FORBIDDEN)
def test_what_no_decoder_asks_for_ends_the_process(wish: str) -> None:
    code, _ = run(FORBIDDEN[wish])

    assert code == -signal.SIGSYS


def test_the_numbers_of_another_abi_lead_nowhere() -> None:
    code, said = run("print(libc.syscall(0x40000000 + 41, 1, 1, 0), errno.errorcode[ctypes.get_errno()])")

    assert (code, said) == (0, "-1 EPERM")


@pytest.mark.parametrize("wish", REFUSED)
def test_what_a_library_may_try_is_refused(wish: str) -> None:
    call, error = REFUSED[wish]

    code, said = run(f"print(errno.errorcode[refused(lambda: {call})])")

    assert (code, said) == (0, error)


@pytest.mark.parametrize("wish", POSSIBLE)
def test_what_a_decoder_needs_is_possible(wish: str) -> None:
    code, said = run(POSSIBLE[wish])

    assert (code, said) == (0, "")


def test_threads_that_run_already_are_confined_too() -> None:
    code, _ = run(
        "go, gone = threading.Event(), threading.Event()",
        "threading.Thread(target=lambda: (go.wait(), socket.socket())).start()",
        "assert confine()",
        "go.set()",
        "time.sleep(30)",
        confined=False,
    )

    assert code == -signal.SIGSYS


def test_without_the_filter_the_same_wishes_are_granted() -> None:
    code, said = run("socket.socket()", "open('/etc/passwd')", "os.kill(os.getppid(), 0)", confined=False)

    assert (code, said) == (0, "")


def test_new_rights_are_given_up() -> None:
    code, said = run(
        "status = os.open('/proc/self/status', os.O_RDONLY)",
        CONFINED,
        "print(b'NoNewPrivs:\\t1' in os.read(status, 10_000))",
        confined=False,
    )

    assert (code, said) == (0, "True")


def test_more_memory_than_allowed_is_not_there() -> None:
    code, said = run("bytearray(2 << 30)")

    assert code == 1
    assert said == "MemoryError"


def test_a_process_computes_no_longer_than_allowed() -> None:
    code, _ = run("limit_processor(0.1)", "while True: pass")

    assert code == -signal.SIGXCPU


def test_processor_time_is_allowed_anew_for_each_job() -> None:
    code, said = run(
        "for _ in range(3):",
        "    limit_processor(1)",
        "    end = time.process_time() + 0.7",
        "    while time.process_time() < end: pass",
    )

    assert (code, said) == (0, "")


def test_limits_of_the_whole_server_are_not_exceeded() -> None:
    code, said = run(
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))",
        "resource.setrlimit(resource.RLIMIT_CPU, (30, 30))",
        "os.setuid(65534) if os.getuid() == 0 else None",  # who is no root cannot raise what was lowered
        "limit_resources(1 << 30)",
        "limit_processor(100)",
        "print(resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CPU))",
        confined=False,
    )

    assert (code, said) == (0, "(40, 40) (30, 30)")


def test_a_process_is_the_first_that_a_host_without_memory_ends() -> None:
    code, said = run("limit_resources(1 << 30)", "print(open('/proc/self/oom_score_adj').read())", confined=False)

    assert (code, said) == (0, "1000")


def test_its_log_cannot_fill_the_host() -> None:
    code, said = run(
        "log = os.memfd_create('log')",
        CONFINED,
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
        "os.write(log, bytes(100_000))",
        "print(errno.errorcode[refused(lambda: os.write(log, b'x'))], os.fstat(log).st_size)",
        confined=False,
    )

    assert (code, said) == (0, "EFBIG 65536")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_filter_leads_every_call_to_a_verdict(machine: str) -> None:
    code = system_call_filter(machine, own_id=7)
    assert code is not None
    steps = [struct.unpack_from("HBBI", code, place) for place in range(0, len(code), 8)]

    for place, (kind, if_so, if_not, _) in enumerate(steps):
        assert kind == 0x06 or place + 1 + max(if_so, if_not) < len(steps)
    assert steps[-1][0] == 0x06
    assert len(steps) < 4096  # the kernel's limit


def test_there_is_no_filter_for_a_machine_that_is_not_known() -> None:
    assert system_call_filter("riscv64", own_id=7) is None
