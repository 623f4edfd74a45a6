"""What a process of the image engine gives up before it sees the first file of a stranger. Linux only.

Two layers, both irrevocable: limits of the kernel on memory, processor time and written bytes, and a filter of
system calls (seccomp). Under the filter a process can compute, take memory, start threads of its own, and read and
write what is open already: the original, the socket to its parent, its log. It can open no file, not even for
reading, because what it reads could leave inside a picture; it reaches no network, starts no program, and signals
nobody but itself.

What no decoder ever asks for ends the process at once and visibly (``SIGSYS``): the code of a stranger is running.
What a library may try in all innocence is refused with an error.

Sources: seccomp(2), bpf in ``linux/filter.h``; numbers of ``asm/unistd_64.h`` and ``asm-generic/unistd.h``.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import platform
import resource
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

_ALLOWED: Final = MappingProxyType({
    # reading and writing what is open
    "read": (0, 63), "write": (1, 64), "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65),
    "writev": (20, 66), "preadv": (295, 69), "lseek": (8, 62), "close": (3, 57), "dup": (32, 23),
    "fstat": (5, 80), "newfstatat": (262, 79), "statx": (332, 291), "getcwd": (79, 17),
    "recvfrom": (45, 207), "recvmsg": (47, 212), "sendto": (44, 206), "sendmsg": (46, 211),
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72),
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214),
    # threads of its own
    "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293), "membarrier": (324, 283),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120), "gettid": (186, 178), "prctl": (157, 167),
    "exit": (60, 93), "exit_group": (231, 94),
    # signals to itself, time, and who it is
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128), "setitimer": (38, 103), "getitimer": (36, 102), "alarm": (37, None),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "getrusage": (98, 165),
    "getpid": (39, 172), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "uname": (63, 160), "sysinfo": (99, 179), "getrandom": (318, 278),
})  # fmt: skip
"""System calls that a decoder needs: the number on x86-64 and on aarch64, None where there is none."""

_DEADLY: Final = MappingProxyType({
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "io_uring_setup": (425, 425), "bpf": (321, 280), "userfaultfd": (323, 282), "perf_event_open": (298, 241),
    "mount": (165, 40), "umount2": (166, 39), "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51),
    "init_module": (175, 105), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "open_by_handle_at": (304, 265),
})  # fmt: skip
"""System calls that end the process."""

_CLONE: Final = (56, 220)
_CLONE3: Final = (435, 435)
_KILLS: Final = ((62, 129), (234, 131))  # kill, tgkill
_PRLIMIT: Final = (302, 261)
_FCNTL: Final = (72, 25)
_IOCTL: Final = (16, 29)
_OPENS: Final = ((2, None), (257, 56), (437, 437))  # open, openat, openat2
_SECCOMP: Final = (317, 277)

_MACHINES: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
)
"""Of each machine: which of the numbers is its own, and its AUDIT_ARCH."""

_CLONE_THREAD: Final = 0x10000
_OWNER_COMMANDS: Final = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: with them a signal could go to anybody
_FIONBIO: Final = 0x5421  # a socket waits, or does not
_PR_SET_NO_NEW_PRIVS: Final = 38
_SET_MODE_FILTER: Final = 1
_ALL_THREADS: Final = 1
_LOAD: Final = 0x20
_IF_EQUAL: Final = 0x15
_IF_BITS: Final = 0x45
_RETURN: Final = 0x06
_NUMBER_AT: Final = 0
_MACHINE_AT: Final = 4
_ALLOW: Final = 0x7FFF0000
_KILL_PROCESS: Final = 0x80000000
_ERROR: Final = 0x00050000

_LOG_BYTES: Final = 64 * 1024
_MOST_DESCRIPTORS: Final = 64

_INSTRUCTION: Final = struct.Struct("HBBI")
_Instruction = tuple[int, int, int, int]


def limit_resources(memory_bytes: int) -> None:
    """Give up memory above a limit, core dumps, new files, and the wish to live longer than others.

    Args:
        memory_bytes: Address space and data of the process, its libraries included.
    """
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_DATA, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _LOG_BYTES),
        (resource.RLIMIT_NOFILE, _MOST_DESCRIPTORS),
    ):
        lowered = _within(value, resource.getrlimit(limit)[1])
        resource.setrlimit(limit, (lowered, lowered))
    with suppress(OSError):  # a container without its own /proc: the kernel then weighs this process like any other
        Path("/proc/self/oom_score_adj").write_text("1000")


def limit_processor(seconds: float) -> None:
    """Let the process compute for so many seconds from now on, in all its threads together; then SIGXCPU ends it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    allowed = math.ceil(used.ru_utime + used.ru_stime + seconds)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (_within(allowed, hard), hard))


def _within(value: int, hard: int) -> int:
    """Return a limit that may be set: what whoever started this server has set for all of it is not exceeded."""
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def confine() -> bool:
    """Put the filter over all threads of this process, for good.

    Returns:
        Whether it holds; False where the kernel, or what it runs in, refuses filters, or on another machine
        than x86-64 and aarch64.
    """
    code = system_call_filter(platform.machine(), own_id=os.getpid())
    if code is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    instructions = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("HxxxxxxP", len(code) // _INSTRUCTION.size, ctypes.addressof(instructions))
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    which, _ = _MACHINES[platform.machine()]
    return bool(libc.syscall(_SECCOMP[which], _SET_MODE_FILTER, _ALL_THREADS, described) == 0)


def system_call_filter(machine: str, *, own_id: int) -> bytes | None:
    """Return the filter as the kernel reads it, or None where the numbers of a machine are not known.

    Args:
        machine: As ``uname -m`` names it.
        own_id: The process that may be signalled.
    """
    if machine not in _MACHINES:
        return None
    return b"".join(_INSTRUCTION.pack(*step) for step in _program(*_MACHINES[machine], own_id))


def _program(which: int, architecture: int, own_id: int) -> Sequence[_Instruction]:
    """Return the filter: which of the numbers counts, the machine, and the process that may be signalled."""
    program: list[_Instruction] = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]

    def when(numbers: tuple[int | None, int | None], *steps: _Instruction) -> None:
        number = numbers[which]
        if number is not None:
            program.extend([(_IF_EQUAL, 0, len(steps), number), *steps])

    allow, kill, refuse = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _KILL_PROCESS), _refusal(errno.EPERM)
    for numbers in _ALLOWED.values():
        when(numbers, allow)
    for numbers in _DEADLY.values():
        when(numbers, kill)
    for numbers in _OPENS:
        when(numbers, _refusal(errno.EACCES))
    when(_CLONE3, _refusal(errno.ENOSYS))  # its flags cannot be seen from here; the C library then takes clone
    when(_CLONE, _load_argument(0), (_IF_BITS, 0, 1, _CLONE_THREAD), allow, kill)
    for numbers in _KILLS:
        when(numbers, _load_argument(0), (_IF_EQUAL, 0, 1, own_id), allow, kill)
    when(_PRLIMIT, _load_argument(0), (_IF_EQUAL, 0, 1, 0), allow, refuse)
    when(_IOCTL, _load_argument(1), (_IF_EQUAL, 0, 1, _FIONBIO), allow, refuse)
    owners = [(_IF_EQUAL, 0, 1, command) for command in _OWNER_COMMANDS]
    when(_FCNTL, _load_argument(1), *(step for owner in owners for step in (owner, kill)), allow)
    return [*program, refuse]


def _load_argument(position: int) -> _Instruction:
    """Return the step that looks at the lower half of an argument; all that are looked at fit into it."""
    return (_LOAD, 0, 0, 16 + 8 * position)


def _refusal(error: int) -> _Instruction:
    return (_RETURN, 0, 0, _ERROR | error)
