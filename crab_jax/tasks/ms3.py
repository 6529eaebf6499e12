"""Segmenting all objects that sound (AVSBench, several sources)."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from crab_jax import tokens
from crab_jax.tasks import avsbench, segmentation
from crab_jax.tasks.base import Row, TaskSpec, Wording, fill
from crab_jax.tasks.clips import Clip, Reject

LAYOUT = """
AVS/ms3_samples.json                       [{uid, a_obj, split}, …]; split is train, val or test
AVS/v1m/<uid>/frames/{0..4}.jpg
AVS/v1m/<uid>/audio.wav
AVS/v1m/<uid>/labels_semantic/{0..4}.png   a class or 255 where it sounds
"""
SECONDS = 5

# The reference's test set asks for the third second of every frame. Here the row says which second it is about;
# rows with `second=2` give the reference's wording for every frame. Its target says "in", not "at".
INSTRUCTION = {
    Wording.QUICK_START: segmentation.SOUNDING_IMAGE,
    Wording.RELEASE_TRAIN: segmentation.SOUNDING_VIDEO,
    Wording.RELEASE_TEST: segmentation.SOUNDING_VIDEO,
}
TARGET = {
    Wording.QUICK_START: segmentation.SOUNDING_IMAGE_TARGET,
    Wording.RELEASE_TRAIN: segmentation.SOUNDING_VIDEO_TARGET,
    Wording.RELEASE_TEST: "The object making the sound in the video is {a_obj}. The mask of the object that makes the "
    "sound in the {ordinal} second is " + tokens.MASK_RUN,
}


def compose(row: Row, wording: Wording) -> str:
    """What sounds, and its mask tokens."""
    return fill(TARGET[wording], row)


def clips(root: pathlib.Path, split: str) -> Iterator[Clip | Reject]:
    """One clip per video, asked about each of its frames.

    Source: specification 9.2.
    """
    asked = range(SECONDS)
    yield from avsbench.clips(
        SPEC,
        root,
        split,
        file="AVS/ms3_samples.json",
        folder="AVS/v1m",
        seconds=SECONDS,
        asked=asked,
        masks="labels_semantic",
    )


SPEC = TaskSpec(
    name="ms3",
    about="segments the objects that make the sounds",
    instruction=INSTRUCTION,
    media={
        Wording.QUICK_START: segmentation.one_image(SECONDS),
        Wording.RELEASE_TRAIN: segmentation.all_frames(SECONDS, image=False),
        Wording.RELEASE_TEST: segmentation.all_frames(SECONDS, image=True),
    },
    compose=compose,
    answer=segmentation.answer,
    parse=segmentation.parse,
    max_new_tokens=segmentation.MAX_NEW_TOKENS,
    clips=clips,
    splits=avsbench.SPLITS,
    layout=LAYOUT,
    needs_masks=True,
)
