"""Mappings (JSON, ConfigDict) → frozen dataclasses, strictly: every field is known, typed and given. No jax here."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration value that cannot be used; the message names the field, the value and what is allowed."""


def build(cls: type[T], values: Mapping[str, Any], *, where: str = "") -> T:
    """Builds the dataclass `cls` from a mapping, recursively.

    Args:
        cls: a dataclass.
        values: field name → value; nested dataclasses take nested mappings.
        where: prefix for error messages, for example a file name.

    Raises:
        ConfigError: an unknown or missing field, or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    place = f"{where}." if where else ""
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"{place}{unknown[0]}: unknown field of {cls.__name__}; known: {', '.join(fields)}")
    required = [
        n for n, f in fields.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [n for n in required if n not in values]
    if missing:
        raise ConfigError(f"{place}{missing[0]}: missing, {cls.__name__} needs {', '.join(missing)}")
    return cls(**{name: _coerce(hints[name], value, f"{place}{name}") for name, value in values.items()})


def _coerce(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (inner,) = [a for a in args if a is not type(None)]
        return _coerce(inner, value, where)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if isinstance(value, Mapping):
            return build(hint, value, where=where)
    elif origin is typing.Literal:
        if value in args:
            return value
        raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}")
    elif origin is tuple:
        if isinstance(value, Sequence) and not isinstance(value, str):
            return tuple(_coerce(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # a whole number of hundreds of digits
            raise ConfigError(f"{where}: expected float, found a whole number of {value.bit_length()} bits") from None
    elif isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"{where}: expected {getattr(hint, '__name__', hint)}, found {value!r} ({type(value).__name__})")


LARGEST = 1 << 24  # no axis of any network is longer, but a broken file may claim anything


def int_fields(config: Any) -> list[str]:
    """Names of the fields of a dataclass that are whole numbers."""
    hints = typing.get_type_hints(type(config))
    return [f.name for f in dataclasses.fields(config) if hints[f.name] is int]


def check_sizes(where: str, config: Any, names: Iterable[str] | None = None, *, least: int = 1) -> None:
    """For `__post_init__`: every named field is a whole number that some network could have.

    Args:
        where: for the message.
        config: a dataclass.
        names: of fields; None: all whole numbers.
        least: the smallest that is allowed.

    Raises:
        ConfigError: a field that is no int, below `least`, or beyond `LARGEST`.
    """
    for name in int_fields(config) if names is None else names:
        value = getattr(config, name)
        if type(value) is not int or not least <= value <= LARGEST:
            raise ConfigError(f"{where}: {name} is {value!r}, expected a whole number from {least} to {LARGEST}")


def check_positive(where: str, config: Any, *names: str) -> None:
    """For `__post_init__`: every named field is a finite number above zero.

    Raises:
        ConfigError: a field that is not.
    """
    for name in names:
        value = getattr(config, name)
        if type(value) not in (int, float) or not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{where}: {name} is {value!r}, expected a finite number above 0")


def check_path(where: str, path: str) -> None:
    """For what is read and written as files: no address of a bucket, of which `pathlib` would make a folder `gs:`.

    Raises:
        ConfigError: it has `://`.
    """
    if "://" in path:
        raise ConfigError(
            f"{where} is {path}, expected a path: buckets are not read by their address. Mount it on every host "
            '(gcsfuse) and give the path that it has there; see "Starting it" in docs/plan.md'
        )


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass as plain JSON types; `build(type(config), to_dict(config)) == config`."""
    plain = dataclasses.asdict(config)

    def lists(x: Any) -> Any:
        if isinstance(x, dict):
            return {k: lists(v) for k, v in x.items()}
        return [lists(v) for v in x] if isinstance(x, (list, tuple)) else x

    return lists(plain)
