"""Describing a video without its sound, for pretraining the visual projector (Valley's captions)."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from crab_jax.tasks import conversations
from crab_jax.tasks.base import VIDEO, Media, TaskSpec, Wording
from crab_jax.tasks.clips import Clip, Reject
from crab_jax.tokens import TargetSuffix

LAYOUT = """
video-llava/train_json/valid_valley_.json   [{id, video, conversations: [{value}, {value}]}, …]
video-llava/<video>                                 the video, a path below video-llava
"""
FILE = "video-llava/train_json/valid_valley_.json"


def clips(root: pathlib.Path, split: str) -> Iterator[Clip | Reject]:
    """One clip per video; see `conversations.clips`."""
    yield from conversations.clips(SPEC, root, split, file=FILE, field="video")


SPEC = TaskSpec(
    name="pretrain-video",
    about="answers a question about a video without its sound, mostly for a caption (pretraining)",
    instruction=dict.fromkeys(Wording, VIDEO + conversations.INSTRUCTION),
    media=dict.fromkeys(Wording, Media(frames=8)),
    compose=conversations.compose,
    answer=conversations.answer,
    parse=conversations.parse,
    max_new_tokens=500,
    clips=clips,
    splits=("train",),
    layout=LAYOUT,
    target_end=TargetSuffix.PRETRAIN,
)
