"""PyTorch files without torch: today's zip archives, read and written, and the format before PyTorch 1.6, read."""

from __future__ import annotations

import functools
import io
import math
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from crab_jax.convert.tensors import (
    HEADER_LIMIT,
    READ_ERRORS,
    Source,
    SourceError,
    Tensor,
    check_name,
    raw_bytes,
    read_bytes,
    short,
)
from crab_jax.convert.unpickle import STORAGE_NAMES, Interpreter, View

_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_HEAD = b"\x80\x02\x8a\x0a" + _MAGIC.to_bytes(10, "little")


def read_zip(path: pathlib.Path) -> Source:
    """The tensors of a PyTorch file in the zip format; its pickle is interpreted without executing anything.

    Raises:
        SourceError: not such a file, truncated, or a pickle that holds more than tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
    except READ_ERRORS as error:
        raise SourceError(f"{path}: begins like a zip archive, but is truncated or broken ({short(error)})") from error
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        found = ", ".join(list(entries)[:5])
        raise SourceError(
            f"{path}: a zip archive without a data.pkl, so not a PyTorch file (it holds {found or 'nothing'})"
        )
    (root,) = roots
    if root + "constants.pkl" in entries:
        raise SourceError(f"{path}: a TorchScript program, not a file of tensors; save the module's state_dict instead")
    pickle_bytes = _entry_bytes(path, entries[root + "data.pkl"], limit=HEADER_LIMIT).tobytes()
    swap = False
    if root + "byteorder" in entries:
        swap = _entry_bytes(path, entries[root + "byteorder"], limit=16).tobytes().strip() == b"big"

    interpreter = Interpreter(path)
    tree = interpreter.run(io.BytesIO(pickle_bytes))
    starts: dict[str, int] = {}
    for key, storage in interpreter.storages.items():
        entry = entries.get(f"{root}data/{key}")
        if entry is None:
            raise SourceError(f"{path}: the storage {key} is missing from the archive")
        need = storage.count * storage.dtype.itemsize
        if entry.file_size < need:
            raise SourceError(
                f"{path}: the storage {key} has {entry.file_size} bytes, its tensors need {need}; the file is damaged"
            )
        starts[key] = _entry_start(path, entry)
    return _from_tree(path, tree, starts, format="torch", swap=swap)


def _entry_start(path: pathlib.Path, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of an uncompressed entry begin."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
        raise SourceError(
            f"{path}: the record {entry.filename} is compressed or encrypted ({entry.compress_size} bytes claim to "
            f"hold {entry.file_size}); PyTorch never writes that, so it is refused"
        )
    head = read_bytes(path, entry.header_offset, 30, f"the record {entry.filename}").tobytes()
    signature, name_length, extra_length = struct.unpack("<4s22xHH", head)
    start = entry.header_offset + 30 + name_length + extra_length
    if signature != b"PK\x03\x04" or start + entry.file_size > path.stat().st_size:
        raise SourceError(
            f"{path}: the record {entry.filename} does not lie where the archive says; the file is damaged"
        )
    return start


def _entry_bytes(path: pathlib.Path, entry: zipfile.ZipInfo, *, limit: int) -> np.ndarray:
    start = _entry_start(path, entry)
    if entry.file_size > limit:
        raise SourceError(
            f"{path}: the record {entry.filename} has {entry.file_size} bytes, more than {limit}; refused"
        )
    return read_bytes(path, start, entry.file_size, f"the record {entry.filename}")


def read_legacy(path: pathlib.Path) -> Source:
    """The format of PyTorch before 1.6: five pickles, then the storages one after the other."""
    interpreter = Interpreter(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        magic, protocol, system = interpreter.run(file), interpreter.run(file), interpreter.run(file)
        if magic != _MAGIC or protocol != 1001 or not isinstance(system, dict):
            raise SourceError(f"{path}: an unknown PyTorch format; save it again with a current torch.save")
        tree = interpreter.run(file)
        order = interpreter.run(file)
        swap = system.get("little_endian") is False
        starts: dict[str, int] = {}
        if not isinstance(order, list) or {str(key) for key in order if isinstance(key, (str, int))} != set(
            interpreter.storages
        ):
            raise SourceError(f"{path}: the list of storages does not fit the tensors; the file is damaged")
        for key in map(str, order):
            storage = interpreter.storages[key]
            head = file.read(8)
            if len(head) != 8 or int.from_bytes(head, "big" if swap else "little") != storage.count:
                raise SourceError(
                    f"{path}: the storage {key} does not have its {storage.count} elements; the file is truncated"
                )
            starts[key] = file.tell()
            end = file.seek(storage.count * storage.dtype.itemsize, os.SEEK_CUR)
            if end > size:
                raise SourceError(
                    f"{path}: ends inside the storage {key} ({end - size} bytes are missing); it is truncated"
                )
    return _from_tree(path, tree, starts, format="torch-legacy", swap=swap)


def _from_tree(path: pathlib.Path, tree: Any, starts: Mapping[str, int], *, format: str, swap: bool) -> Source:
    if not isinstance(tree, dict):
        raise SourceError(f"{path}: holds a {type(tree).__name__.lstrip('_')}, expected a dict of tensors")
    extra: dict[str, Any] = {}
    state: Mapping[Any, Any] = tree
    if not any(isinstance(value, View) for value in tree.values()):
        # BEATs files are {'cfg': …, 'model': …}; training scripts write 'state_dict'.
        inner = [k for k in ("model", "state_dict") if isinstance(tree.get(k), dict)]
        if len(inner) == 1:
            state = tree[inner[0]]
            extra = {str(k): v for k, v in tree.items() if k != inner[0] and _is_plain(v, [10_000])}
    tensors: dict[str, Tensor] = {}
    others = []
    for name, value in state.items():
        check_name(path, str(name))
        if isinstance(value, View):
            place = (value.storage.key, value.offset, value.shape, value.strides) if math.prod(value.shape) else None
            read = functools.partial(_read_view, path, str(name), value, starts[value.storage.key], swap)
            tensors[str(name)] = Tensor(value.shape, value.storage.dtype, read, path, place)
        else:
            others.append(str(name))
    if not tensors:
        raise SourceError(f"{path}: holds no tensors (only {', '.join(others[:5]) or 'an empty dict'})")
    if others:
        extra["not_tensors"] = others
    return Source(path, tensors, format=format, extra=extra)


def _is_plain(value: Any, budget: list[int], depth: int = 4) -> bool:
    """JSON, not deep and not many: safe to keep and to print. `budget[0]` counts down the values looked at."""
    budget[0] -= 1
    if budget[0] < 0 or depth < 0:
        return False
    if isinstance(value, dict):
        return all(isinstance(k, str) and k.isprintable() and _is_plain(v, budget, depth - 1) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v, budget, depth - 1) for v in value)
    if isinstance(value, str):
        return value.isprintable()
    return value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value))


def _read_view(path: pathlib.Path, name: str, view: View, start: int, swap: bool) -> np.ndarray:
    dtype = view.storage.dtype
    size = math.prod(view.shape)
    if size == 0:
        return np.empty(view.shape, dtype)
    reach = 1 + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
    raw = read_bytes(path, start + view.offset * dtype.itemsize, reach * dtype.itemsize, name)
    if swap:
        raw = raw.view(f"u{dtype.itemsize}").byteswap().view(np.uint8)
    flat = raw.view(dtype)
    contiguous = tuple(math.prod(view.shape[i + 1 :]) for i in range(len(view.shape)))
    if all(s == c or n == 1 for n, s, c in zip(view.shape, view.strides, contiguous, strict=True)):
        return flat.reshape(view.shape)
    strides = tuple(s * dtype.itemsize for s in view.strides)
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, view.shape, strides, writeable=False))


def write_torch(path: str | os.PathLike, tree: Mapping[str, Any]) -> None:
    """Writes a PyTorch zip file that `torch.load(path, weights_only=True)` reads; tensors are streamed one by one.

    Args:
        path: the new file.
        tree: name → array (anything with `shape` and `dtype` that `np.asarray` reads, also a `Tensor`), in the order of
            the file; values may also be plain Python values and dicts of all these, as in `{"cfg": …, "model": …}`.
            Two `Tensor`s with the same `place` become two names of one shared storage.

    Raises:
        SourceError: a value that a PyTorch file of tensors cannot hold.
    """
    path = pathlib.Path(path)
    writer = _Pickler(path)
    program = writer.dump(tree)
    root = path.stem
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        _write_entry(archive, f"{root}/data.pkl", program)
        _write_entry(archive, f"{root}/byteorder", b"little")
        for key, value in enumerate(writer.storages):
            _write_entry(archive, f"{root}/data/{key}", raw_bytes(value))
        _write_entry(archive, f"{root}/version", b"3\n")


def _write_entry(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    large = len(data) >= 1 << 30
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.file_size = len(data)
    # Storages start at multiples of 64 bytes, as torch writes them, so that they can be memory-mapped.
    head = archive.fp.tell() + 30 + len(name.encode()) + (20 if large else 0)
    padding = -(head + 4) % 64
    entry.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    with archive.open(entry, "w", force_zip64=large) as file:
        file.write(data)


class _Pickler:
    """Writes the opcodes of `torch.save` for a tree of tensors and plain values."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.storages: list[Any] = []
        self._keys: dict[Any, int] = {}
        self._out = bytearray()

    def dump(self, tree: Mapping[str, Any]) -> bytes:
        self._out += pickle.PROTO + b"\x02"
        self._put(tree, "")
        self._out += pickle.STOP
        return bytes(self._out)

    def _put(self, value: Any, where: str) -> None:
        if value is None or isinstance(value, (bool, int, float, str)):
            self._out += pickle.dumps(value, protocol=2)[2:-1]
        elif isinstance(value, Mapping):
            self._out += pickle.EMPTY_DICT + pickle.MARK
            for name, item in value.items():
                self._put(name, where)
                self._put(item, f"{where}.{name}" if where else str(name))
            self._out += pickle.SETITEMS
        elif isinstance(value, (list, tuple)):
            # Not the instruction LIST: PyTorch's own restricted unpickler does not know it.
            self._out += pickle.EMPTY_LIST + pickle.MARK if isinstance(value, list) else pickle.MARK
            for i, item in enumerate(value):
                self._put(item, f"{where}[{i}]")
            self._out += pickle.APPENDS if isinstance(value, list) else pickle.TUPLE
        elif hasattr(value, "shape") and hasattr(value, "dtype"):
            self._tensor(value, where)
        else:
            raise SourceError(f"{self.path}: {where}: a {type(value).__name__} cannot be written to a PyTorch file")

    def _tensor(self, value: Any, where: str) -> None:
        dtype = np.dtype(value.dtype)
        if dtype.newbyteorder("=") not in STORAGE_NAMES:
            raise SourceError(f"{self.path}: {where}: the dtype {dtype} has no PyTorch storage")
        place = getattr(value, "place", None)
        shared = (value.file, place) if place is not None else ("own", len(self.storages))
        key = self._keys.get(shared)
        if key is None:
            key = self._keys[shared] = len(self.storages)
            self.storages.append(value)
        shape = tuple(int(n) for n in value.shape)
        out = self._out
        out += pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n" + pickle.MARK + pickle.MARK
        self._put("storage", where)
        out += pickle.GLOBAL + f"torch\n{STORAGE_NAMES[dtype.newbyteorder('=')]}\n".encode()
        for item in (str(key), "cpu", math.prod(shape)):
            self._put(item, where)
        out += pickle.TUPLE + pickle.BINPERSID
        self._put(0, where)
        self._put(shape, where)
        self._put(tuple(math.prod(shape[i + 1 :]) for i in range(len(shape))), where)
        self._put(False, where)
        out += pickle.GLOBAL + b"collections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE  # no hooks
        out += pickle.TUPLE + pickle.REDUCE
