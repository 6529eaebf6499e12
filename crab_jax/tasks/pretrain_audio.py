"""Describing a sound, for pretraining the audio projector (AudioCaps)."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from crab_jax.tasks import avcap
from crab_jax.tasks.annotations import Source
from crab_jax.tasks.base import AUDIO, AudioRule, Media, Row, TaskSpec, Wording
from crab_jax.tasks.clips import Ask, Clip, Reject
from crab_jax.tasks.entries import Entry
from crab_jax.tokens import TargetSuffix

LAYOUT = """
AudioCaps/{train,val,test}.json      [{audiocap_id, caption}, …]
AudioCaps/data/<audiocap_id>.wav
"""
LEFT_OUT = "12347"  # of the training set; the reference skips it
INSTRUCTION = AUDIO + "Please describe this audio."


def clips(root: pathlib.Path, split: str) -> Iterator[Clip | Reject]:
    """One clip and one ask per sound.

    Source: specification 9.2.
    """
    source = Source(SPEC, root, split)

    def key(entry: Entry) -> str | None:
        id = entry.name("audiocap_id")
        return None if (split, id) == ("train", LEFT_OUT) else id

    yield from source.clips(
        source.json_entries(f"AudioCaps/{split}.json"),
        key=key,
        media=lambda id, entry: {"audio": source.file("AudioCaps/data", id, ".wav", ".mp3")},
        asks=lambda id, entries: [Ask(id=id, row=Row(caption=entries[0].text("caption")), raw=entries[0].fields)],
    )


SPEC = TaskSpec(
    name="pretrain-audio",
    about="describes a sound (pretraining)",
    instruction=dict.fromkeys(Wording, INSTRUCTION),
    media=dict.fromkeys(Wording, Media(audio=AudioRule.WHOLE_SECONDS)),
    compose=avcap.compose,
    answer=avcap.answer,
    parse=avcap.parse,
    max_new_tokens=500,
    clips=clips,
    splits=("train", "val", "test"),
    layout=LAYOUT,
    target_end=TargetSuffix.PRETRAIN,
)
