"""One annotation as a data set has it, and typed access to its fields.

What cannot be used raises `BadEntry`, which becomes a `Reject` of this one annotation. Access is lenient where copies
of a data set differ and nothing is lost: `"3"` and `3.0` are the whole number 3.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from crab_jax.tasks import parsing
from crab_jax.tasks.json_file import is_name, kind

_WHOLE = re.compile(r"\s*[+-]?[0-9]{1,18}(?:\.0*)?\s*")
_LARGEST = 10**15  # no second, pixel or number of a picture is larger
_NUMBER = re.compile(r"\s*[+-]?[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?\s*")


class BadEntry(ValueError):
    """Why an annotation cannot be used.

    Attributes:
        entry: the annotation.
    """

    def __init__(self, entry: Entry, reason: str):
        super().__init__(reason)
        self.entry = entry


@dataclasses.dataclass(frozen=True)
class Entry:
    """One annotation.

    Attributes:
        fields: as read; a field that is null counts as absent.
        source: its file and the place in it, for messages.
    """

    fields: Mapping[str, Any]
    source: str

    def has(self, field: str) -> bool:
        """Whether the field is there and not null."""
        return self.fields.get(field) is not None

    def bad(self, reason: str) -> BadEntry:
        """The error about this annotation, for the caller to raise."""
        return BadEntry(self, reason)

    def value(self, field: str) -> Any:
        """The field, of any type.

        Raises:
            BadEntry: it is absent.
        """
        if (value := self.fields.get(field)) is None:
            raise self.bad(f"field {field!r} is missing; found {', '.join(map(repr, self.fields)) or 'no fields'}")
        return value

    def text(self, field: str) -> str:
        """A string that is not blank, without white space around it."""
        value = self.value(field)
        if not isinstance(value, str):
            raise self.bad(f"field {field!r}: expected a string, found {kind(value)}")
        if not value.strip():
            raise self.bad(f"field {field!r} is blank")
        return value.strip()

    def name(self, field: str) -> str:
        """A string or whole number that is part of a file name."""
        value = self.value(field)
        name = str(value) if isinstance(value, int) and not isinstance(value, bool) else self.text(field)
        if not is_name(name):
            raise self.bad(f"field {field!r}: {name[:60]!r} cannot be part of a file name")
        return name

    def path(self, field: str) -> str:
        """A string that can be a path."""
        path = self.text(field)
        odd = "\x00" in path or any("\ud800" <= c <= "\udfff" for c in path)
        if odd or len(path.encode()) > 4000 or any(len(part.encode()) > 255 for part in path.split("/")):
            raise self.bad(f"field {field!r}: {path[:60]!r} is no path")
        return path

    def whole(self, field: str) -> int:
        """A whole number."""
        return self.as_whole(self.value(field), f"field {field!r}")

    def number(self, field: str) -> float:
        """A number."""
        value = self.value(field)
        if type(value) in (int, float) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if math.isfinite(number):
                return number
        raise self.bad(f"field {field!r}: expected a number, found {kind(value)}")

    def as_whole(self, value: Any, what: str) -> int:
        """A value of this annotation as a whole number; `what` names it in the message."""
        number = float(value) if isinstance(value, str) and _WHOLE.fullmatch(value) else value
        if type(number) in (int, float) and abs(number) < _LARGEST and number == int(number):
            return int(number)
        raise self.bad(f"{what}: expected a whole number, found {kind(value)}")

    def one_of(self, field: str, names: Sequence[str]) -> str:
        """The entry of a vocabulary that the field spells, whatever its case, blanks and punctuation."""
        said = self.text(field)
        if (known := parsing.known(said, names)) is None:
            raise self.bad(f"field {field!r}: {said[:60]!r} is not among the {len(names)} names of this task")
        return known

    def seconds(self, first: str, last: str, *, length: int) -> tuple[int, int]:
        """Two fields as a range of whole seconds `[start, end)` of a clip."""
        start, end = self.whole(first), self.whole(last)
        self.check_seconds(start, end, length=length, what=f"fields {first!r} and {last!r}")
        return start, end

    def check_seconds(self, start: int, end: int, *, length: int, what: str) -> None:
        """Refuses ranges that run backwards, hold nothing, or leave a clip of `length` seconds."""
        said = f"{what}: from {start} to {end} s"
        if start > end:
            raise self.bad(f"{said} runs backwards")
        if start == end:
            raise self.bad(f"{said} holds no time")
        if start < 0 or end > length:
            raise self.bad(f"{said} leaves the clip of {length} s")
