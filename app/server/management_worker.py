"""The worker of the management process: gunicorn's threaded one, as it is, on the management listener alone.

It is a process of its own so that metrics, details and operators' routes answer when every worker is full, stopped
or hangs. The master starts another one when it dies; it ends after the last worker.
"""

from __future__ import annotations

import signal

from gunicorn.workers.gthread import ThreadWorker


class ManagementWorker(ThreadWorker):  # type: ignore[misc]  # its base has no types
    """Serves until the master says otherwise: Ctrl-C reaches all processes of a terminal, and it goes last."""

    def init_signals(self) -> None:
        """Set the handlers; SIGINT is the master's business."""
        super().init_signals()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
