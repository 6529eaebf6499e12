"""Where in the image is what makes the sound, as a box (audio-referred image grounding)."""

from __future__ import annotations

import re

from crab_jax.tasks import parsing
from crab_jax.tasks.base import (
    AUDIO,
    IMAGE,
    AudioRule,
    Box,
    Media,
    Row,
    RowError,
    TaskSpec,
    Unparsed,
    Wording,
    fill,
    words,
)

INSTRUCTION = {
    Wording.QUICK_START: IMAGE + AUDIO + "Please output the location coordinates of sounding object.",
    Wording.RELEASE_TRAIN: IMAGE + AUDIO + "Please recognize the category of object that makes the sound and then "
    "output its location coordinates.",
    Wording.RELEASE_TEST: IMAGE + AUDIO + "Please recognize the category of object that makes the sound and then "
    "output the location coordinates.",
}
CORNERS = (
    "The sounding object is {a_obj}. Its coordinate of top left corner is ({x1},{y1}) and coordinate of bottom right "
    "corner is ({x2},{y2})"
)
# The test set writes boxes in a form that no training target has.
TARGET = {
    Wording.QUICK_START: CORNERS,  # the quick-start data have no targets
    Wording.RELEASE_TRAIN: CORNERS,
    Wording.RELEASE_TEST: "The sounding object is {a_obj}. Its coordinates are <obj>({x1},{y1})({x2},{y2})</obj>.",
}

_LABEL = re.compile(
    r"sounding\s+object\s+is\s+(.+?)\s*\.\s*(?=(?:its|the)\s+coordinate|<\s*obj\s*>)", re.IGNORECASE | re.DOTALL
)
_CLAUSE = re.compile(r"\bcoordinates?\b|<\s*obj\s*>", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])-?[0-9]+(?:\.[0-9]+)?")
_CORNER = r"\(\s*-?[0-9]+\s*[,\s]\s*-?[0-9]+\s*\)"
_TWO_CORNERS = re.compile(rf"{_CORNER}\s*,?\s*(?:and\s*)?{_CORNER}", re.IGNORECASE)


def compose(row: Row, wording: Wording) -> str:
    """Name and corners of what sounds."""
    return fill(TARGET[wording], row)


def answer(row: Row) -> Box:
    """The box of the row, clipped to the grid and with its corners in order."""
    if row.box is None:
        raise RowError("box: missing")
    return Box.spanned(*row.box, label=parsing.one_line(words(row, "label")))


def parse(text: str) -> Box | Unparsed:
    """The first four whole numbers behind the word `coordinate` or behind `<obj>`, clipped to the grid.

    Without either, two corners in parentheses that stand side by side will do.

    Source: specification 10.5, Q-27.
    """
    said = parsing.one_line(parsing.clean(text))
    name = _LABEL.search(said)
    behind = name.end() if name else 0
    if clause := _CLAUSE.search(said, behind):
        numbers = _NUMBER.findall(said, clause.end())[:4]
    elif corners := _TWO_CORNERS.search(said, behind):
        numbers = _NUMBER.findall(corners[0])
    else:
        return Unparsed(text, "neither 'coordinate' nor <obj> nor two corners in parentheses")
    if len(numbers) < 4:
        return Unparsed(text, f"{len(numbers)} of 4 coordinates")
    if broken := [n for n in numbers if "." in n]:
        return Unparsed(text, f"coordinate {broken[0]} is not a whole number of pixels")
    # float() takes any number of digits, int() does not; Box clips afterwards.
    x1, y1, x2, y2 = (int(min(max(float(n), -1.0), 1e6)) for n in numbers)
    return Box.spanned(x1, y1, x2, y2, label=name[1] if name else None)


SPEC = TaskSpec(
    name="arig",
    about="draws a box around what makes the sound",
    instruction=INSTRUCTION,
    media={
        Wording.QUICK_START: Media(image=True, audio=AudioRule.ONE_SECOND_OF_IMAGE, seconds=5),
        Wording.RELEASE_TRAIN: Media(image=True, audio=AudioRule.EACH_SECOND, seconds=5),
        Wording.RELEASE_TEST: Media(image=True, audio=AudioRule.EACH_SECOND, seconds=5),
    },
    compose=compose,
    answer=answer,
    parse=parse,
    max_new_tokens=500,
)
