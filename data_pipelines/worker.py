"""What worker processes do first, so that they end with the command that started them, and not before."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Collection, Iterator
from multiprocessing import resource_tracker

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # what Ctrl-C and schedulers send, often to all processes at once


def belong_to_parent(ignore: Collection[signal.Signals] = (signal.SIGINT,)) -> None:
    """Ends this process with its parent, however that ends, and leaves signals to the parent.

    A worker of a pool whose parent was killed would wait for work for ever: it holds both ends of the queue itself.

    Args:
        ignore: these signals; the parent decides. A parent that ends its workers by SIGTERM must not leave it to them.
    """
    for number in ignore:
        signal.signal(number, signal.SIG_IGN)

    def leave_with_parent():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


@contextlib.contextmanager
def signals_kept_from_workers() -> Iterator[None]:
    """Threads that start meanwhile, and processes that those start, never get `SIGNALS`; this thread gets them later.

    A process needs seconds until it can call `belong_to_parent`, and a signal would end it before.
    """
    resource_tracker.ensure_running()  # otherwise the first worker starts it, which lets the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
