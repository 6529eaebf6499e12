"""The safetensors format, read lazily and written tensor by tensor (bfloat16 included)."""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from crab_jax.convert.tensors import (
    BFLOAT16,
    Source,
    SourceError,
    Tensor,
    check_name,
    is_count,
    raw_bytes,
    read_bytes,
    short,
    sizes,
)

_SAFETENSORS = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": BFLOAT16,
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_SAFETENSORS_NAMES = {dtype: name for name, dtype in _SAFETENSORS.items()}


def read_safetensors(path: pathlib.Path) -> Source:
    """The tensors of a safetensors file; reads its header alone, the numbers when they are asked for.

    Raises:
        SourceError: a header that is broken, or describes tensors that the file cannot hold.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path}: the safetensors header is broken ({short(error)})") from error
    if not isinstance(header, dict):
        raise SourceError(f"{path}: the safetensors header is not a table")
    start = 8 + length
    tensors: dict[str, Tensor] = {}
    metadata = header.pop("__metadata__", {})
    for name, entry in sorted(header.items(), key=lambda item: _first_offset(path, *item)):
        check_name(path, name)
        try:
            dtype = _SAFETENSORS[entry["dtype"]]
            shape = entry["shape"]
            first, last = entry["data_offsets"]
            shape = sizes(shape)
            if not (is_count(first) and is_count(last)):
                raise ValueError("offsets that are not counts")
        except KeyError as error:
            raise SourceError(f"{path}: {name}: cannot read this tensor, missing or unknown: {short(error)}") from error
        except (TypeError, ValueError) as error:
            raise SourceError(f"{path}: {name}: a broken entry in the header ({short(error)})") from error
        need = math.prod(shape) * dtype.itemsize
        if last - first != need:
            given = last - first
            raise SourceError(f"{path}: {name}: {list(shape)} {dtype} needs {need} bytes, the header gives {given}")
        if start + last > size:
            raise SourceError(f"{path}: {name} ends at byte {start + last}, the file at {size}; it is truncated")

        def read(offset=start + first, count=last - first, dtype=dtype, shape=shape, name=name) -> np.ndarray:
            return read_bytes(path, offset, count, name).view(dtype).reshape(shape)

        tensors[name] = Tensor(shape, dtype, read, path, ("bytes", first, shape) if last > first else None)
    return Source(
        path, tensors, format="safetensors", extra={"metadata": metadata} if isinstance(metadata, dict) else {}
    )


def _first_offset(path: pathlib.Path, name: str, entry: Any) -> int:
    try:
        return int(entry["data_offsets"][0])
    except (TypeError, KeyError, ValueError, IndexError, OverflowError) as error:
        raise SourceError(f"{path}: {name}: a broken entry in the header ({short(error)})") from error


def write_safetensors(path: str | os.PathLike, tensors: Mapping[str, Any], *, metadata: Mapping[str, str] = {}) -> None:
    """Writes a safetensors file, tensor by tensor, in the order of `tensors`.

    Args:
        path: the new file.
        tensors: name → array, as for `write_torch`.
        metadata: text kept in the header; Hugging Face wants `{"format": "pt"}`.

    Raises:
        SourceError: a dtype that the format does not know.
    """
    path = pathlib.Path(path)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, value in tensors.items():
        dtype = np.dtype(value.dtype)
        if dtype not in _SAFETENSORS_NAMES:
            raise SourceError(f"{path}: {name}: the dtype {dtype} has no name in safetensors")
        size = math.prod(value.shape) * dtype.itemsize
        header[name] = {
            "dtype": _SAFETENSORS_NAMES[dtype],
            "shape": [int(n) for n in value.shape],
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for value in tensors.values():
            file.write(raw_bytes(value))
