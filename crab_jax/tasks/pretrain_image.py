"""Describing a picture, for pretraining the visual projector (LLaVA's captions, as Video-LLaVA distributes them)."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from crab_jax.tasks import conversations
from crab_jax.tasks.base import IMAGE, Media, TaskSpec, Wording
from crab_jax.tasks.clips import Clip, Reject
from crab_jax.tokens import TargetSuffix

LAYOUT = """
video-llava/train_json/llava_image_.json   [{id, image, conversations: [{value}, {value}]}, …]
video-llava/<image>                                the picture, a path below video-llava
"""
FILE = "video-llava/train_json/llava_image_.json"


def clips(root: pathlib.Path, split: str) -> Iterator[Clip | Reject]:
    """One clip per picture; see `conversations.clips`."""
    yield from conversations.clips(SPEC, root, split, file=FILE, field="image")


SPEC = TaskSpec(
    name="pretrain-image",
    about="answers a question about a picture, mostly for a caption (pretraining)",
    instruction=dict.fromkeys(Wording, IMAGE + conversations.INSTRUCTION),
    media=dict.fromkeys(Wording, Media(image=True)),
    compose=conversations.compose,
    answer=conversations.answer,
    parse=conversations.parse,
    max_new_tokens=500,
    clips=clips,
    splits=("train",),
    layout=LAYOUT,
    target_end=TargetSuffix.PRETRAIN,
)
