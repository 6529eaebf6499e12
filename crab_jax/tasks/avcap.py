"""Describing a video with its sound (VALOR-32K).

The quick-start data do not have this task, so the quick-start wording is that of the test set.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from crab_jax.tasks import parsing
from crab_jax.tasks.annotations import Source
from crab_jax.tasks.answers import Caption, Unparsed
from crab_jax.tasks.base import AUDIO, VIDEO, AudioRule, Media, Row, TaskSpec, Wording, fill, words
from crab_jax.tasks.clips import Ask, Clip, Reject

LAYOUT = """
valor/train_samples.json     train: [{video_id, desc}, …]
valor/val_samples.json       test: the reference tests on the validation set
valor/video_data/<video_id>.mp4
valor/audio_data/<video_id>.mp3
"""
ANNOTATIONS = {"train": "valor/train_samples.json", "test": "valor/val_samples.json"}

_TEST = VIDEO + AUDIO + "Please describe this video."
INSTRUCTION = {
    Wording.QUICK_START: _TEST,
    Wording.RELEASE_TRAIN: VIDEO + AUDIO + "Please describe this video and audio.",
    Wording.RELEASE_TEST: _TEST,
}
TARGET = "{desc}"


def compose(row: Row, wording: Wording) -> str:
    """The caption."""
    return fill(TARGET, row)


def answer(row: Row) -> Caption:
    """The caption without white space around it."""
    return Caption(words(row, "caption").strip())


def parse(text: str) -> Caption | Unparsed:
    """Any text is a caption, unless it is empty."""
    said = parsing.clean(text)
    return Caption(said) if said else Unparsed(text, "no text")


def clips(root: pathlib.Path, split: str) -> Iterator[Clip | Reject]:
    """One clip and one ask per video.

    Source: specification 9.2.
    """
    source = Source(SPEC, root, split)
    yield from source.clips(
        source.json_entries(ANNOTATIONS[split]),
        key=lambda entry: entry.name("video_id"),
        media=lambda video, entry: {
            "video": source.file("valor/video_data", video, ".mp4"),
            "frames": _MEDIA.frames,
            "audio": source.sound("valor/audio_data", video),
        },
        asks=lambda video, entries: [Ask(id=video, row=Row(caption=entries[0].text("desc")), raw=entries[0].fields)],
    )


_MEDIA = Media(frames=10, audio=AudioRule.EACH_SECOND, seconds=10)

SPEC = TaskSpec(
    name="avcap",
    about="describes a video with its sound",
    instruction=INSTRUCTION,
    media=dict.fromkeys(Wording, _MEDIA),
    compose=compose,
    answer=answer,
    parse=parse,
    max_new_tokens=500,
    clips=clips,
    splits=tuple(ANNOTATIONS),
    layout=LAYOUT,
)
