"""Questions about a music video (MUSIC-AVQA): how many, which, where, in what order, seen and heard."""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from crab_jax.tasks import parsing
from crab_jax.tasks.annotations import Source
from crab_jax.tasks.answers import Choice, Unparsed
from crab_jax.tasks.base import AUDIO, VIDEO, AudioRule, Media, Row, TaskSpec, Wording, fill, words
from crab_jax.tasks.clips import Ask, Clip, Reject
from crab_jax.tasks.entries import Entry
from crab_jax.tasks.json_file import kind
from crab_jax.tasks.vocabulary import MUSIC_AVQA_ANSWERS

LAYOUT = """
data/music_avqa_data/valid_train_samples.json  train: [{video_id, question_id, type, video_path, audio_path, question,
                                               answer}, …]; paths absolute or below the root
data/music_avqa_data/test_samples.json         test
music-avqa/converted_label/<question_id>.txt   reasoning and tagged answer, for train
music-avqa/video/<video_id>.mp4                where there are no paths, as in avqa-train.json and avqa-test.json,
                                               the files of MUSIC-AVQA itself
"""
_FOLDER = "data/music_avqa_data"
ANNOTATIONS = {
    "train": (f"{_FOLDER}/valid_train_samples.json", f"{_FOLDER}/avqa-train.json"),
    "test": (f"{_FOLDER}/test_samples.json", f"{_FOLDER}/avqa-test.json"),
}
# Folders of MUSIC-AVQA's own archives; the first is also where we expect what is nowhere.
VIDEO_FOLDERS = ("video", "videos", "MUSIC-AVQA-videos-Real", "MUSIC-AVQA-videos-Synthetic")

INSTRUCTION = VIDEO + AUDIO + "Please answer this question: {question}"
CLAUSE = "So the answer is <answer> {answer} </answer>."


def compose(row: Row, wording: Wording) -> str:
    """The reasoning and the clause with the answer; the same in every wording."""
    if row.label_text:
        return words(row, "label_text")
    return parsing.sentences(parsing.free_text(row, "reasoning"), fill(CLAUSE, row))


def answer(row: Row) -> Choice:
    """The answer in lower case."""
    return Choice(parsing.one_line(words(row, "answer")).lower())


def parse(text: str) -> Choice | Unparsed:
    """Exactly one `<answer>` tag.

    Source: specification 10.2.
    """
    found = parsing.tags(parsing.one_line(parsing.clean(text)), "answer")
    if len(found) != 1:
        return Unparsed(text, f"{len(found)} <answer> tags, expected one")
    said = found[0][2].strip().lower()
    return Choice(said) if said else Unparsed(text, "nothing inside the <answer> tag")


def clips(root: pathlib.Path, split: str) -> Iterator[Clip | Reject]:
    """One clip per video, with all questions about it.

    Source: specification 9.2.
    """
    source = Source(SPEC, root, split)
    texts = source.find("music-avqa/converted_label") if split == "train" else None

    def media(video: str, entry: Entry) -> dict[str, Any]:
        if entry.has("video_path"):
            path = source.media(entry.path("video_path"))
        else:
            paths = [source.file(f"music-avqa/{folder}", video, ".mp4") for folder in VIDEO_FOLDERS]
            path = next((p for p in paths if p.exists()), paths[0])
        sound = source.media(entry.path("audio_path"), ".mp3", ".wav") if entry.has("audio_path") else None
        return {"video": path, "frames": _MEDIA.frames, "audio": sound}

    def asks(video: str, entries: Sequence[Entry]) -> Iterator[Ask]:
        (entry,) = entries
        id = entry.name("question_id")
        row = Row(
            question=question(entry),
            answer=entry.one_of("answer" if entry.has("answer") else "anser", MUSIC_AVQA_ANSWERS),
            label_text=source.read_text(entry, texts / f"{id}.txt") if texts else "",
        )
        yield Ask(id=id, row=row, raw={**entry.fields, "type": _list(entry, "type")})

    yield from source.clips(
        source.json_entries(*ANNOTATIONS[split]),
        key=lambda entry: entry.name("video_id"),
        media=media,
        asks=asks,
        same="share",
    )


def question(entry: Entry) -> str:
    """The question of an annotation, put together from its template where it is MUSIC-AVQA's own.

    Every word of `question_content` that contains `<` gives way to the next of `templ_values`.

    Source: specification 9.2.
    """
    if entry.has("question"):
        return entry.text("question")
    values = _list(entry, "templ_values")
    said = []
    for word in entry.text("question_content").replace("？", "?").split():
        if "<" not in word:
            said.append(word)
        elif values:
            said.append(str(values.pop(0)))
        else:
            raise entry.bad(f"field 'templ_values': no value for {word!r} of the question")
    text = " ".join(said)
    return text if text.endswith("?") else text + "?"


def _list(entry: Entry, field: str) -> list[str]:
    """A list of strings, or a string that spells one, in JSON or as Python prints it; empty where it is absent."""
    value = entry.fields.get(field) or []
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
            raise entry.bad(f"field {field!r}: expected a list of strings, found {value[:60]!r}") from error
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise entry.bad(f"field {field!r}: expected a list of strings, found {kind(value)}")
    if odd := [v for v in value if any("\ud800" <= c <= "\udfff" for c in v)]:
        raise entry.bad(f"field {field!r}: {odd[0][:60]!r} cannot be written as UTF-8")
    return list(value)


_MEDIA = Media(frames=10, audio=AudioRule.SIX_SECOND_GRID, seconds=60)

SPEC = TaskSpec(
    name="avqa",
    about="answers a question about a video with its sound",
    instruction=dict.fromkeys(Wording, INSTRUCTION),
    media=dict.fromkeys(Wording, _MEDIA),
    compose=compose,
    answer=answer,
    parse=parse,
    max_new_tokens=500,
    clips=clips,
    splits=tuple(ANNOTATIONS),
    layout=LAYOUT,
)
