"""The exit codes of every command; scripts and systemd units rely on them."""

from __future__ import annotations

OK = 0
FAILED = 1
USAGE = 2  # argparse ends the process with it by itself
CONFIGURATION = 78  # EX_CONFIG of sysexits.h; the systemd unit does not restart on it
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
BROKEN_PIPE = 141  # 128 + SIGPIPE
