"""What worker processes do first, so that none of them outlives the command that started it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def belong_to_parent() -> None:
    """Ends this process with its parent, however that ends, and leaves Ctrl-C to the parent.

    A worker of a pool whose parent was killed would wait for work for ever: it holds both ends of the queue itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides

    def leave_with_parent():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
