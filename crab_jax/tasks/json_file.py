"""Reading a JSON file that a person may have edited: every error says which file, where in it, and what is wrong."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

# Names that become part of a file name or path.
_NAME = re.compile("[^/\\\\\x00-\x1f\x7f\ud800-\udfff]+")
_LONGEST_NAME = 200  # bytes; a file name holds 255


def read_list(
    path: pathlib.Path,
    *,
    of: str,
    error: type[ValueError],
    largest: int | None = None,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
    nan_is_null: bool = False,
    may_be_empty: bool = False,
) -> list[Any]:
    """The list that a JSON file in UTF-8 holds.

    Args:
        path: the file.
        of: what the list is of, in the plural, for messages.
        error: what to raise.
        largest: bytes; a larger file is an error. None: any.
        pairs: makes an object from its fields, as `object_pairs_hook` of `json.loads`.
        nan_is_null: read `NaN` and `Infinity`, which are no JSON but what pandas writes for a missing value, as null.
        may_be_empty: whether a list without elements is fine.

    Raises:
        ValueError: of the type `error`: missing, a folder, unreadable, too large, not UTF-8, not JSON (with line and
            column, and the line itself), no list, or an empty one where there should be something.
    """
    expected = f"expected a JSON list of {of}"
    try:
        if path.is_dir():
            raise error(f"{path}: is a folder; expected a JSON file with a list of {of}")
        if largest is not None and path.stat().st_size > largest:
            raise error(f"{path}: more than {largest >> 20} MiB, so no list of {of}")
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise error(f"{path}: no such file; {expected}") from None
    except OSError as cause:
        raise error(f"{path}: cannot be read: {cause.strerror}") from cause
    except UnicodeDecodeError as cause:
        raise error(f"{path}: not UTF-8 at byte {cause.start}; {expected}") from cause
    constant = (lambda name: None) if nan_is_null else None
    try:
        entries = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except json.JSONDecodeError as cause:
        raise error(_syntax(path, text, cause)) from cause
    except RecursionError as cause:
        raise error(f"{path}: brackets nested too deeply for a list of {of}") from cause
    except ValueError as cause:  # a whole number of thousands of digits
        raise error(f"{path}: {cause}") from cause
    if not isinstance(entries, list):
        hint = "; put the sample into [ ]" if isinstance(entries, dict) and "task" in entries else ""
        raise error(f"{path}: expected a list of {of}, found {kind(entries)}{hint}")
    if not entries and not may_be_empty:
        raise error(f"{path}: the list of {of} is empty")
    return entries


def is_name(text: str) -> bool:
    """Whether a string can be part of a file name."""
    return bool(_NAME.fullmatch(text)) and text.strip(" .") != "" and len(text.encode()) <= _LONGEST_NAME


def kind(value: Any) -> str:
    """What a JSON value is, with as much of it as fits a message."""
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "the string", bool: "", int: "the number", float: "the number"}
    for sort, name in names.items():
        if type(value) is sort or (sort is dict and isinstance(value, Mapping)):
            shown = "" if sort in (dict, list) else json.dumps(value)
            return f"{name} {shown if len(shown) <= 60 else shown[:60] + '…'}".strip()
    return f"{value!r}"[:60]


def _syntax(path: pathlib.Path, text: str, error: json.JSONDecodeError) -> str:
    """The message of an error in the JSON, with the line (or what fits of it) and a mark under the column."""
    lines = text.split("\n")
    line = lines[error.lineno - 1].rstrip("\r") if error.lineno <= len(lines) else ""
    start = max(0, error.colno - 1 - 60)
    shown = line[start : start + 120]
    mark = " " * (error.colno - 1 - start) + "^"
    where = f"{path}: line {error.lineno}, column {error.colno}"
    return f"{where}: {error.msg}\n  {shown}\n  {mark}"
