"""Where in the image is what makes the sound, as a box (audio-referred image grounding)."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Sequence

from crab_jax.tasks import parsing
from crab_jax.tasks.annotations import Source
from crab_jax.tasks.answers import BOX_GRID, Box, Unparsed
from crab_jax.tasks.base import AUDIO, IMAGE, AudioRule, Media, Row, RowError, TaskSpec, Wording, fill, words
from crab_jax.tasks.clips import Ask, Clip, Reject
from crab_jax.tasks.entries import Entry
from crab_jax.tasks.json_file import kind

LAYOUT = """
AVS/v1s_grounding_samples.json    [{split, audio_path, frame_path, top_left, bottom_right, a_obj}, …]; split is train,
                                  val or test; a frame is named by its second; x = 1000: nothing there sounds
AVS/v1s/<uid>/frames/{0..4}.jpg
AVS/v1s/<uid>/audio.wav
"""
NOTHING_SOUNDS = 1000
SECONDS = 5

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


def clips(root: pathlib.Path, split: str) -> Iterator[Clip | Reject]:
    """One clip per frame, without those in which nothing sounds.

    Source: specification 9.2. Coordinates are kept as written, so that targets are the reference's; up to 224 is
    accepted, where a box ends at the edge of the picture, and the answer is clipped to 223.
    """
    source = Source(SPEC, root, split)

    def key(entry: Entry) -> str | None:
        if not source.of_split(entry) or _corner_of(entry, "top_left")[0] == NOTHING_SOUNDS:
            return None
        frame = pathlib.PurePosixPath(entry.path("frame_path"))
        folder = frame.parent.parent if frame.parent.name == "frames" else frame.parent
        return f"{folder.name}_{frame.stem}"

    def asks(id: str, entries: Sequence[Entry]) -> Iterator[Ask]:
        (entry,) = entries
        (x1, y1), (x2, y2) = _corner_of(entry, "top_left"), _corner_of(entry, "bottom_right")
        if not (0 <= x1 <= x2 <= BOX_GRID and 0 <= y1 <= y2 <= BOX_GRID):
            raise entry.bad(f"box ({x1},{y1}) ({x2},{y2}): expected 0 … {BOX_GRID - 1}, the upper left corner first")
        stem = pathlib.PurePosixPath(entry.path("frame_path")).stem
        second = entry.as_whole(stem, "the name of frame_path, its second")
        entry.check_seconds(second, second + 1, length=SECONDS, what="the name of frame_path")
        yield Ask(
            id=id,
            row=Row(box=(x1, y1, x2, y2), label=entry.text("a_obj"), second=second),
            picture=0,
            raw=entry.fields,
        )

    yield from source.clips(
        source.json_entries("AVS/v1s_grounding_samples.json"),
        key=key,
        media=lambda id, entry: {
            "pictures": (source.media(entry.path("frame_path")),),
            "audio": source.media(entry.path("audio_path"), ".wav", ".mp3"),
        },
        asks=asks,
    )


def _corner_of(entry: Entry, field: str) -> tuple[int, int]:
    value = entry.value(field)
    if not isinstance(value, list) or len(value) != 2:
        raise entry.bad(f"field {field!r}: expected [x, y], found {kind(value)}")
    return entry.as_whole(value[0], f"field {field!r}, x"), entry.as_whole(value[1], f"field {field!r}, y")


SPEC = TaskSpec(
    name="arig",
    about="draws a box around what makes the sound",
    instruction=INSTRUCTION,
    media={
        Wording.QUICK_START: Media(image=True, audio=AudioRule.ONE_SECOND_OF_IMAGE, seconds=SECONDS),
        Wording.RELEASE_TRAIN: Media(image=True, audio=AudioRule.EACH_SECOND, seconds=SECONDS),
        Wording.RELEASE_TEST: Media(image=True, audio=AudioRule.EACH_SECOND, seconds=SECONDS),
    },
    compose=compose,
    answer=answer,
    parse=parse,
    max_new_tokens=500,
    clips=clips,
    splits=("train", "val", "test"),
    layout=LAYOUT,
)
