"""Tensors that have not been read yet, and what every reader of files needs."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

HEADER_LIMIT = 100 << 20  # bytes of names and shapes; the published 7B model needs under 0.1 MB
NAME_LIMIT = 1000  # characters
MAX_RANK = 32
MAX_SIZE = 1 << 48
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

# What a reader may meet in a broken file; always turned into a `SourceError`.
READ_ERRORS = (
    OSError, EOFError, ValueError, KeyError, IndexError, TypeError, OverflowError, RuntimeError,  # zipfile: unsupported
    struct.error, zipfile.BadZipFile,
)  # fmt: skip


class SourceError(ValueError):
    """A weight file that cannot be read; the message names the file, what is wrong with it and what to do."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that has not been read yet; `np.asarray(tensor)` reads it.

    Attributes:
        shape: PyTorch shape.
        dtype: as stored.
        read: returns a fresh, contiguous array in the byte order of this machine.
        file: where it lies.
        place: equal for two names of one shared tensor of the same file, None if that cannot be known.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    file: pathlib.Path | None = None
    place: tuple | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of memory that reading takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        x = self.read()
        return x if dtype is None else x.astype(dtype, copy=False)


def in_memory(x: np.ndarray) -> Tensor:
    """An array as a `Tensor`."""
    return Tensor(x.shape, x.dtype, lambda: x)


class Source:
    """Named tensors of one file or folder, in the order of the file.

    Attributes:
        path: the file or folder.
        files: every weight file that belongs to it.
        format: "safetensors", "torch" or "torch-legacy".
        extra: what else the file holds beside tensors, for example the `cfg` of BEATs.
    """

    def __init__(
        self,
        path: pathlib.Path,
        tensors: Mapping[str, Tensor],
        *,
        format: str,
        files=None,
        extra: Mapping[str, Any] = {},
    ):
        self.path = path
        self.tensors = dict(tensors)
        self.files: tuple[pathlib.Path, ...] = tuple(files or (path,))
        self.format = format
        self.extra = dict(extra)

    def names(self) -> list[str]:
        """All names, in the order of the file."""
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor, without reading it."""
        return self.tensors[name].shape

    def dtype(self, name: str) -> np.dtype:
        """Of one tensor, without reading it."""
        return self.tensors[name].dtype

    def read(self, name: str) -> np.ndarray:
        """Reads one tensor. Raises `SourceError` if the file no longer holds it."""
        return self.tensors[name].read()


def short(error: BaseException) -> str:
    """The class and the beginning of a message; the file decides what the message holds, so it is cut."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}"


def _fill(file: BinaryIO, buffer: np.ndarray, path: pathlib.Path, what: str) -> None:
    """Reads exactly `buffer` (uint8) from the current position."""
    view = memoryview(buffer)
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            raise SourceError(
                f"{path}: the file ends inside {what} ({done} of {len(view)} bytes there); it is truncated"
            )
        done += count


def read_bytes(path: pathlib.Path, offset: int, count: int, what: str) -> np.ndarray:
    """A piece of a file.

    Args:
        path: the file.
        offset: of the first byte.
        count: bytes.
        what: to call it in messages.

    Returns:
        uint8 [count].

    Raises:
        SourceError: the file ends before, or cannot be read.
    """
    buffer = np.empty(count, np.uint8)
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            _fill(file, buffer, path, what)
    except (OSError, OverflowError) as error:
        raise SourceError(f"{path}: cannot read {what}: {short(error)}") from error
    return buffer


def is_count(value: Any) -> bool:
    """Whether it is a whole number that can be a size or a place in a file; True and False are not."""
    return type(value) is int and 0 <= value <= MAX_SIZE


def sizes(values: Any) -> tuple[int, ...]:
    """The shape that a file claims for a tensor.

    Raises:
        ValueError: it is no sequence of counts, or has more axes than any tensor.
    """
    if not isinstance(values, (tuple, list)) or len(values) > MAX_RANK or not all(is_count(n) for n in values):
        raise ValueError("a tensor whose sizes are not counts")
    return tuple(values)


def check_name(path: pathlib.Path, name: str) -> None:
    """Raises `SourceError` for names that could not be printed, written to JSON, or read by a person."""
    if not name.isprintable():
        raise SourceError(f"{path}: a tensor is called {name!r:.60}, which no program shows or stores safely; refused")
    if len(name) > NAME_LIMIT:
        raise SourceError(f"{path}: a tensor name of {len(name)} characters ({name[:40]!r}…); refused")


def raw_bytes(value: Any) -> memoryview:
    """The bytes of an array as files hold them: C order, little-endian."""
    x = np.ascontiguousarray(np.asarray(value))
    if x.dtype.byteorder == ">":
        x = x.astype(x.dtype.newbyteorder("<"))
    return memoryview(x.reshape(-1).view(np.uint8))
