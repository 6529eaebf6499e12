"""What the parsers of several tasks share: cleaning, tags, names, pairs of numbers.

What reads a prediction raises on no string. It takes text in which runs of white space are one blank (`one_line`): a
model can emit thousands of blanks, and several `\\s*` in one pattern become slow on them.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Sequence

from crab_jax.tasks.answers import Event
from crab_jax.tasks.base import Row, RowError, words

# Numbers of more digits are no seconds or pixels; without the limit, int() refuses some strings that a model can write.
NUMBER = "[0-9]{1,6}"
_PAIR = re.compile(rf"\(\s*({NUMBER})\s*[,\s]\s*({NUMBER})\s*\)")
_TAG_NAMES = ("answer", "event", "range", "audio", "visual", "audio_event", "visual_event", "obj")
_TAG = re.compile(rf"<\s*/?\s*(?:{'|'.join(_TAG_NAMES)})\b", re.IGNORECASE)


def clean(text: str) -> str:
    """The answer without what a tokenizer may have left around it: `<s>`, all from `</s>` on, and `<unk>`."""
    return text.split("</s>", 1)[0].replace("<s>", "").replace("<unk>", "").strip()


@functools.lru_cache
def _tag(name: str) -> re.Pattern[str]:
    return re.compile(rf"<\s*({name})\s*>(.*?)<\s*/\s*(?:{name})\s*>", re.IGNORECASE | re.DOTALL)


def tags(text: str, name: str) -> list[re.Match[str]]:
    """Every `<name> … </name>` in order, in any case and spacing. Group 1 is the name as written, group 2 the inside.

    Args:
        text: any string.
        name: a name, or a regular expression without groups, so that several spellings belong together.
    """
    return list(_tag(name).finditer(text))


def unclosed(text: str, name: str) -> list[str]:
    """One remark for every opening tag without its end, as in an answer that was cut off."""
    rest = _tag(name).sub(" ", text)
    return [f"<{m[1]}> is not closed" for m in re.finditer(rf"<\s*({name})\s*>", rest, re.IGNORECASE)]


def one_line(text: str) -> str:
    """Runs of white space become one blank."""
    return " ".join(text.split())


def plain(name: str) -> str:
    """A name reduced to what counts in a comparison: lower case, letters and digits, single blanks."""
    return re.sub(r"[\W_]+", " ", name).strip().casefold()


def known(name: str, names: Sequence[str]) -> str | None:
    """The entry of `names` that `name` spells, whatever its case, blanks, underscores and punctuation; or None."""
    return _by_plain_name(tuple(names)).get(plain(name))


@functools.lru_cache
def _by_plain_name(names: tuple[str, ...]) -> dict[str, str]:
    table = {plain(n): n for n in names}
    assert len(table) == len(names), "two names of a vocabulary are spelt alike"
    return table


def named_pairs(body: str) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Splits `Name,(0 4) (6 10) Other,(1 2)` into names with their pairs; a name without a pair has an empty list."""
    end, name, pairs = 0, "", []
    for found in _PAIR.finditer(body):
        before = body[end : found.start()].strip(" \t\r\n,;:.")
        if before:
            if name:
                yield name, pairs
            name, pairs = before, []
        pairs.append((int(found[1]), int(found[2])))
        end = found.end()
    if name or pairs:
        yield name, pairs
    if rest := body[end:].strip(" \t\r\n,;:."):
        yield rest, []


def read_pair(text: str) -> tuple[int, int] | None:
    """`s,e`, `s e` or `(s e)` alone; anything else is None."""
    found = re.fullmatch(rf"\s*\(?\s*({NUMBER})\s*[,\s]\s*({NUMBER})\s*\)?\s*", text)
    return (int(found[1]), int(found[2])) if found else None


def free_text(row: Row, field: str) -> str:
    """A text of the row that stands beside the tags of the answer; may be empty.

    Raises:
        RowError: it contains such a tag itself, so that the answer could not be found again.
        crab_jax.tokens.UserTextError: it contains a string that means something to the model.
    """
    if not getattr(row, field):
        return ""
    text = words(row, field)
    if found := _TAG.search(text):
        raise RowError(f"{field}: contains {found[0]!r}, which marks an answer")
    return text


def check_events(events: Sequence[Event], names: Sequence[str], field: str) -> tuple[Event, ...]:
    """The events of a row, with the names of the vocabulary.

    Raises:
        RowError: an unknown name, or times that are negative or run backwards.
    """
    checked = []
    for event in events:
        name = known(event.name, names)
        if name is None:
            raise RowError(f"{field}: {event.name!r} is not among the {len(names)} events of this task")
        if not 0 <= event.start_s <= event.end_s < 10**6:
            raise RowError(f"{field}: {name} from {event.start_s} to {event.end_s} s runs backwards or out of range")
        checked.append(Event(name, event.start_s, event.end_s))
    return tuple(checked)


def by_name(events: Sequence[Event]) -> Iterator[tuple[str, list[Event]]]:
    """Neighbours of the same name together; the order stays."""
    for name, group in itertools.groupby(events, key=lambda e: e.name):
        yield name, list(group)


def sentences(*parts: str) -> str:
    """Parts joined by a blank, without the empty ones."""
    return " ".join(p for p in parts if p)


def add_events(name: str, pairs: Sequence[tuple[int, int]], events: list[Event], ignored: list[str]) -> None:
    """Appends an event per pair; a pair that runs backwards contradicts itself and goes to `ignored`."""
    for start, end in pairs:
        if start <= end:
            events.append(Event(name, start, end))
        else:
            ignored.append(f"{name}: from {start} to {end} s runs backwards")
