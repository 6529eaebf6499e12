"""One program at a time in a folder."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows: two programs in one folder are not noticed there
    fcntl = None


@contextlib.contextmanager
def alone(file: pathlib.Path, busy: Exception) -> Iterator[None]:
    """Holds a lock while the `with` block runs. The system lets it go however the process ends, also when killed.

    Args:
        file: is made if it is not there, in a folder that is, and stays behind empty.
        busy: what to raise if another process holds it.

    Raises:
        Exception: `busy`.
        OSError: the file cannot be made.
    """
    with file.open("w") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise busy from error
            except OSError:
                pass  # a file system without locks: two programs are not noticed there
        yield
