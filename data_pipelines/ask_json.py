"""Asks and rows as plain JSON, and back. Fields that have their default value are left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from crab_jax.tasks import Event, Row
from crab_jax.tasks.clips import Ask

_EVENTS = ("events", "audio_events", "visual_events")
_TEXTS = {f.name for f in dataclasses.fields(Row) if f.default == ""}


def ask_to_json(ask: Ask, *, raw: bool = True) -> dict[str, Any]:
    """Plain JSON types; without `raw` if it is not wanted."""
    value = {"id": ask.id, "row": _row_to_json(ask.row), "picture": ask.picture, "mask": ask.mask, "group": ask.group}
    if raw and ask.raw:
        value["raw"] = dict(ask.raw)
    return {k: v for k, v in value.items() if v is not None and v != ""}


def ask_from_json(value: Mapping[str, Any]) -> Ask:
    """The inverse of `ask_to_json`.

    Raises:
        ValueError: a field that this version does not know, or a value of another type.
    """
    try:
        ask = Ask(**{**value, "row": _row_from_json(value["row"])})
        _check("id and group", (ask.id, ask.group), str)
        _check("picture and mask", [i for i in (ask.picture, ask.mask) if i is not None], int)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an ask ({type(error).__name__}: {error})") from error
    return ask


def _row_to_json(row: Row) -> dict[str, Any]:
    value = {f.name: getattr(row, f.name) for f in dataclasses.fields(row) if getattr(row, f.name) != f.default}
    return {k: [[e.name, e.start_s, e.end_s] for e in v] if k in _EVENTS else v for k, v in value.items()}


def _row_from_json(value: Mapping[str, Any]) -> Row:
    fields = {}
    for name, v in value.items():
        if name in _EVENTS:
            v = tuple(Event(*event) for event in v)
            _check(name, [x for event in v for x in (event.start_s, event.end_s)], int)
            _check(name, [event.name for event in v], str)
        elif name in _TEXTS:
            _check(name, [v], str)
        else:  # the box and the second
            _check(name, v if isinstance(v, list) else [v], int)
        fields[name] = tuple(v) if isinstance(v, list) else v
    return Row(**fields)


def _check(name: str, values: Iterable[object], kind: type) -> None:
    for value in values:
        if not isinstance(value, kind):
            raise TypeError(f"{name}: expected {kind.__name__}, found {value!r:.60}")
