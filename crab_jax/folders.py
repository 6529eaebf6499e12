"""Folders that appear complete or not at all."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile

from crab_jax.groups import CheckpointError


def check_space(where: pathlib.Path, need: int, *, what: str) -> None:
    """Raises `CheckpointError` if `what` does not fit. Estimated without compression, plus 2 % and 16 MiB."""
    while not where.exists():
        where = where.parent
    need = int(need * 1.02) + (16 << 20)
    free = shutil.disk_usage(where).free
    if free < need:
        raise CheckpointError(
            f"{what} needs about {need / 1e9:.1f} GB, but {where} has {free / 1e9:.1f} GB free; make room or choose "
            "another disk"
        )


def publish(new: pathlib.Path, old: pathlib.Path) -> None:
    """Moves a finished temporary folder to its place; at no moment is there a mixture of the two."""
    os.chmod(new, 0o777 & ~_umask())  # temporary folders are private
    if not old.exists():
        os.rename(new, old)
        return
    grave = pathlib.Path(tempfile.mkdtemp(prefix=f".{old.name}.old-", dir=old.parent))
    os.rename(old, grave / "old")
    try:
        os.rename(new, old)
    except OSError:
        os.rename(grave / "old", old)
        raise
    finally:
        shutil.rmtree(grave, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
