"""crab.json of a weights folder: read, and checked before anything relies on it."""

from __future__ import annotations

import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from crab_jax.groups import CheckpointError

FORMAT = 1
MANIFEST = "crab.json"

_Check = Callable[[str, Any], None]


class _Wrong(Exception):
    """Which field is not what it should be."""


def read_manifest(directory: str | os.PathLike) -> dict[str, Any]:
    """The content of crab.json.

    Raises:
        CheckpointError: there is none, it is broken, of another format, or one of its fields is not what it should be.
    """
    directory = pathlib.Path(directory)
    path = directory / MANIFEST
    if not path.is_file():
        raise CheckpointError(
            f"{directory}: no {MANIFEST} in it, so it is no weights folder or one that was never finished; make one "
            "with `crab convert`"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: broken ({type(error).__name__}: {error}); convert the weights again") from error
    if found != FORMAT:
        raise CheckpointError(f"{path}: format {found!r}, this version reads {FORMAT}; convert the weights again")
    try:
        for field, check in _FIELDS.items():
            check(field, manifest.get(field))
        if absent := ({"base", *manifest["overlays"]}) - set(manifest["arrays"]):
            raise _Wrong(f"arrays: no section {sorted(absent)[0]!r}")
    except _Wrong as wrong:
        raise CheckpointError(f"{path}: broken ({wrong}); convert the weights again") from None
    return manifest


def _is(kind: type | tuple[type, ...], words: str) -> _Check:
    def check(where: str, value: Any) -> None:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise _Wrong(f"{where}: expected {words}, found {value!r:.60}")

    return check


def _each(kind: type, words: str, check: _Check) -> _Check:
    """A list or table (`kind`) in which every value passes `check`."""
    outer = _is(kind, words)

    def every(where: str, value: Any) -> None:
        outer(where, value)
        for key, item in value.items() if kind is dict else enumerate(value):
            check(f"{where}.{key}"[:200], item)

    return every


def _table(**fields: _Check) -> _Check:
    """A table in which the named fields pass their checks; others may stand beside them."""

    def check(where: str, value: Any) -> None:
        _OBJECT(where, value)
        for name, inner in fields.items():
            inner(f"{where}.{name}", value.get(name))

    return check


def _count(where: str, value: Any) -> None:
    if type(value) is not int or value < 0:
        raise _Wrong(f"{where}: expected a count, found {value!r:.60}")


def _dtype(where: str, value: Any) -> None:
    _TEXT(where, value)
    try:
        known = re.fullmatch("[a-z]+[0-9]*", value) and np.dtype(value).name == value and value != "object"
    except TypeError:
        known = False
    if not known:
        raise _Wrong(f"{where}: {value!r:.60} is no dtype")


def _group(where: str, value: Any) -> None:
    _TEXT(where, value)
    if not re.fullmatch(r"[\w-]+", value):  # it becomes a folder
        raise _Wrong(f"{where}: {value!r:.60} is no name of a group")


def _kept(where: str, value: Any) -> None:
    _NUMBERED(where, value)
    if value.get("in") is not None:
        _group(f"{where}.in", value["in"])
    elif math.prod(value["shape"]):
        raise _Wrong(f"{where}: lies in no group, but is not empty")


_TEXT = _is(str, "a string")
_OBJECT = _is(dict, "an object")
_SHAPE = _each(list, "a list of sizes", _count)
_ARRAY: Mapping[str, _Check] = {"shape": _SHAPE, "dtype": _dtype}
_STORED = _table(**_ARRAY, **{"in": _group})
_NUMBERED = _table(number=_TEXT, **_ARRAY)
_WEIGHT = _table(name=_TEXT)
_TENSOR = _table(name=_TEXT, **_ARRAY, **{"in": _TEXT})
_FILE = _table(
    role=_TEXT,
    path=_TEXT,
    format=_TEXT,
    weights=_each(list, "a list of files", _WEIGHT),
    tensors=_each(list, "a list of tensors", _TENSOR),
    extra=_OBJECT,
)
_FIELDS: Mapping[str, _Check] = {
    "config": _OBJECT,
    "overlays": _each(dict, "an object", _OBJECT),
    "arrays": _each(dict, "an object", _each(dict, "an object", _STORED)),
    "kept": _each(dict, "an object", _each(dict, "an object", _kept)),
    "contents": _each(dict, "an object", _count),
    "files": _each(list, "a list", _FILE),
}
