"""Annotations in LLaVA's format, which the caption sets of pretraining have: a picture or video, question, answer."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from crab_jax.tasks import parsing
from crab_jax.tasks.annotations import Source
from crab_jax.tasks.answers import Caption, Unparsed
from crab_jax.tasks.base import Row, TaskSpec, Wording, words
from crab_jax.tasks.clips import Ask, Clip, Reject
from crab_jax.tasks.entries import Entry
from crab_jax.tasks.json_file import kind

INSTRUCTION = "Please answer the question:\n{question}"


def compose(row: Row, wording: Wording) -> str:
    """The answer, closed by a full stop unless it ends in one, or in an exclamation or question mark."""
    said = words(row, "caption").strip()
    return said if said.endswith((".", "!", "?")) else said + "."


def answer(row: Row) -> Caption:
    """The answer as the target has it."""
    return Caption(compose(row, Wording.QUICK_START))


def parse(text: str) -> Caption | Unparsed:
    """Any text is an answer, unless it is empty."""
    said = parsing.clean(text)
    return Caption(said) if said else Unparsed(text, "no text")


def clips(spec: TaskSpec, root: pathlib.Path, split: str, *, file: str, field: str) -> Iterator[Clip | Reject]:
    """One clip per picture or video, with the first question and answer of each conversation about it.

    Args:
        spec: the task.
        root: of the data set.
        split: out of the task's.
        file: the annotations, `[{id, <field>, conversations: [{value}, {value}, …]}, …]`.
        field: "image" or "video", which names the media file below the folder `video-llava`.

    Source: specification 9.2.
    """
    source = Source(spec, root, split)
    taken: dict[str, str] = {}

    def key(entry: Entry) -> str:
        written = entry.path(field)
        path = pathlib.PurePosixPath(written)
        if path.name in ("", ".."):
            raise entry.bad(f"field {field!r}: expected the path of a file, found {written!r}")
        id = str(path.with_suffix("")).strip("/").replace("/", "__")
        if taken.setdefault(id, written) != written:
            raise entry.bad(f"field {field!r}: {written!r} and {taken[id]!r} differ too little for two ids")
        return id

    def media(id: str, entry: Entry) -> dict[str, Any]:
        path = source.media(str(pathlib.PurePosixPath("video-llava") / entry.path(field)))
        frames = spec.media[Wording.QUICK_START].frames
        return {"video": path, "frames": frames} if frames else {"pictures": (path,)}

    def asks(id: str, entries: Sequence[Entry]) -> Iterator[Ask]:
        (entry,) = entries
        question, said = (_turn(entry, i) for i in (0, 1))
        question = question.replace(f"<{field}>", "").replace("\n", "").strip()
        own = source.distinct(entry, entry.name("id") if entry.has("id") else id, f"{question} {said}")
        yield Ask(
            id=own,
            row=Row(question=question, caption=said),
            picture=0 if field == "image" else None,
            raw=entry.fields,
        )

    yield from source.clips(source.json_entries(file), key=key, media=media, asks=asks, same="share")


def _turn(entry: Entry, index: int) -> str:
    turns = entry.value("conversations")
    if not isinstance(turns, list) or len(turns) < 2:
        raise entry.bad(f"field 'conversations': expected a list of two turns or more, found {kind(turns)}")
    turn = turns[index]
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise entry.bad(f"field 'conversations': expected {{'value': '…'}} as turn {index}, found {kind(turn)}")
    return turn["value"]
