"""A restricted unpickler.

A PyTorch file is a pickle, and a pickle is a program. `Interpreter` walks its opcodes itself, knows the handful of
names that a file of tensors needs, and refuses everything else by name: nothing in a file is ever imported or called.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from crab_jax.convert.tensors import (
    BFLOAT16,
    HEADER_LIMIT,
    NAME_LIMIT,
    READ_ERRORS,
    SourceError,
    is_count,
    short,
    sizes,
)

# PyTorch storage class ↔ dtype.
STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": BFLOAT16,
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
STORAGE_NAMES = {dtype: name for name, dtype in STORAGES.items()}


LONGEST_INT = 256  # bits; Python refuses to print whole numbers of some thousand digits


class _Refused(Exception):
    """The pickle asks for something that a file of tensors does not need."""


@dataclasses.dataclass(frozen=True)
class _Name:
    """A global that the pickle mentions: an allowed one, never imported."""

    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Storage:
    key: str
    dtype: np.dtype
    count: int
    first: int = 0  # element of the base storage `key` where a legacy view begins


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """`torch._utils._rebuild_tensor_v2`, not yet read."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_MARK = object()
_ALLOWED = frozenset(
    {
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch.Size",
        "collections.OrderedDict",
    }
    | {f"torch.{name}" for name in STORAGES}
    | {f"torch.storage.{name}" for name in ("TypedStorage", "UntypedStorage", "_TypedStorage", "_UntypedStorage")}
)


class _Bounded:
    """A file whose single reads are small: no instruction may ask for more than a weight file's names need."""

    def __init__(self, file: BinaryIO):
        self._file = file

    def read(self, count: int) -> bytes:
        if not 0 <= count <= HEADER_LIMIT:
            raise ValueError(f"an instruction that wants {count} bytes")
        return self._file.read(count)

    def readline(self) -> bytes:
        return self._file.readline(NAME_LIMIT)


class Interpreter:
    """Runs the opcodes of a pickle over plain containers and descriptions of tensors; it imports and calls nothing."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.storages: dict[str, _Storage] = {}

    def run(self, file: BinaryIO) -> Any:
        """Reads one pickle from `file`.

        Raises:
            SourceError: a broken pickle, or one that wants more than tensors; the refused name is in the message.
        """
        stack: list[Any] = []
        memo: dict[int, Any] = {}
        try:
            for opcode, argument, _ in pickletools.genops(_Bounded(file)):
                if opcode.name == "STOP":
                    return stack.pop()
                self._step(opcode.name, argument, stack, memo)
        except _Refused as refusal:
            raise SourceError(
                f"{self.path}: refused: {refusal}. Weight files hold tensors and plain values only, and nothing in "
                "them is ever executed. If you trust its origin, save only its state_dict again"
            ) from None
        except (*READ_ERRORS, MemoryError, RecursionError) as error:
            raise SourceError(f"{self.path}: the pickle inside is broken ({short(error)})") from error
        raise SourceError(f"{self.path}: the pickle inside has no end; the file is truncated")

    def _step(self, name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
        if name in ("PROTO", "FRAME"):
            return
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            if type(argument) is int and argument.bit_length() > LONGEST_INT:
                raise ValueError(f"a whole number of {argument.bit_length()} bits")
            stack.append(argument)
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[int(argument)])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            items = _pop_to_mark(stack)
            stack.append(tuple(items))
        elif name == "LIST":
            items = _pop_to_mark(stack)
            stack.append(items)
        elif name == "APPEND":
            value = stack.pop()
            _expect(stack[-1], list).append(value)
        elif name == "APPENDS":
            items = _pop_to_mark(stack)
            _expect(stack[-1], list).extend(items)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _expect(stack[-1], dict)[_key(key)] = value
        elif name in ("SETITEMS", "DICT"):
            items = _pop_to_mark(stack)
            if name == "DICT":
                stack.append({})
            target = _expect(stack[-1], dict)
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[_key(key)] = value
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            _pop_to_mark(stack)
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "GLOBAL":
            stack.append(self._global(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(self._global(_expect(module, str), _expect(attribute, str)))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._call(function, _expect(arguments, tuple)))
        elif name == "BUILD":
            # A state_dict carries `_metadata` this way: versions of modules, of no use here.
            stack.pop()
            _expect(stack[-1], dict)
        elif name == "BINPERSID":
            stack.append(self._storage(_expect(stack.pop(), tuple)))
        else:
            raise _Refused(f"the pickle instruction {name}")

    def _global(self, module: str, attribute: str) -> _Name:
        name = f"{module}.{attribute}"
        if name not in _ALLOWED:
            raise _Refused(f"the file asks for {name[:120]!r}")
        return _Name(name)

    def _call(self, function: Any, arguments: tuple) -> Any:
        name = _expect(function, _Name).name
        if name == "collections.OrderedDict":
            if arguments:
                raise _Refused("an OrderedDict with arguments")
            return {}
        if name == "torch.Size":
            return sizes(arguments[0])
        if name == "torch._utils._rebuild_tensor_v2":
            storage, offset, shape, strides = arguments[:4]
            return self._view(_expect(storage, _Storage), offset, shape, strides)
        if name.startswith("torch._utils._rebuild_parameter"):
            return _expect(arguments[0], View)
        raise _Refused(f"the file calls {name!r}")

    def _storage(self, description: tuple) -> _Storage:
        kind, storage_type, key, _, count, *view = description
        if kind != "storage" or not isinstance(storage_type, _Name):
            raise _Refused("a reference to something that is no storage")
        class_name = storage_type.name.rsplit(".", 1)[-1]
        if class_name not in STORAGES:
            raise _Refused(f"a storage of the kind {storage_type.name!r}")
        if not isinstance(key, (str, int)) or not is_count(count):
            raise ValueError("a storage without a name or a size")
        storage = _Storage(str(key), STORAGES[class_name], count)
        known = self.storages.setdefault(storage.key, storage)
        if known.dtype != storage.dtype or known.count != storage.count:
            raise ValueError(f"the storage {storage.key[:40]} is described in two ways")
        if view and view[0] is not None:  # legacy files: (name of the view, first element, number of elements)
            _, first, size = view[0]
            if not (is_count(first) and is_count(size) and first + size <= count):
                raise ValueError(f"a view outside of the storage {storage.key[:40]}")
            return _Storage(storage.key, storage.dtype, size, first)
        return storage

    def _view(self, storage: _Storage, offset: Any, shape: Any, strides: Any) -> View:
        shape, strides = sizes(shape), sizes(strides)
        if not is_count(offset) or len(shape) != len(strides):
            raise ValueError(f"a tensor with {len(shape)} sizes and {len(strides)} strides")
        size = math.prod(shape)
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if size else offset - 1
        if last >= storage.count or size > storage.count:
            raise ValueError(
                f"a tensor of {size} elements that reaches element {last} of the storage {storage.key[:40]}, "
                f"which has {storage.count}"
            )
        return View(storage, storage.first + offset, shape, strides)


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_LITERALS = frozenset(
    ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
     "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES")
)  # fmt: skip


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise _Refused(f"a {type(value).__name__.lstrip('_')} where a {kind.__name__.lstrip('_')} belongs")
    return value


def _key(key: Any) -> Any:
    # Other keys could be nested deeply enough to crash Python when hashed.
    if not isinstance(key, (str, int, float)):
        raise _Refused(f"a dict key of the kind {type(key).__name__.lstrip('_')}")
    return key
