"""Segmenting the one object that sounds (AVSBench, single source)."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from crab_jax.tasks import avsbench, segmentation
from crab_jax.tasks.base import Row, TaskSpec, Wording, fill
from crab_jax.tasks.clips import Clip, Reject

LAYOUT = """
AVS/s4_samples.json                        [{uid, a_obj, split}, …]; split is train, val or test
AVS/v1s/<uid>/frames/{0..4}.jpg
AVS/v1s/<uid>/audio.wav
AVS/v1s/<uid>/labels_semantic/{0..4}.png   a class or 255 where it sounds; in training only 0.png is read
"""
SECONDS = 5

INSTRUCTION = {
    Wording.QUICK_START: segmentation.SOUNDING_IMAGE,
    Wording.RELEASE_TRAIN: segmentation.SOUNDING_VIDEO,
    Wording.RELEASE_TEST: segmentation.SOUNDING_VIDEO,
}
TARGET = {
    Wording.QUICK_START: segmentation.SOUNDING_IMAGE_TARGET,
    Wording.RELEASE_TRAIN: segmentation.SOUNDING_VIDEO_TARGET,
    Wording.RELEASE_TEST: segmentation.SOUNDING_VIDEO_TARGET,
}


def compose(row: Row, wording: Wording) -> str:
    """What sounds, and its mask tokens."""
    return fill(TARGET[wording], row)


def clips(root: pathlib.Path, split: str) -> Iterator[Clip | Reject]:
    """One clip per video, asked about its first frame in training, about each frame in tests.

    Source: specification 9.2.
    """
    asked = range(1) if split == "train" else range(SECONDS)
    yield from avsbench.clips(
        SPEC,
        root,
        split,
        file="AVS/s4_samples.json",
        folder="AVS/v1s",
        seconds=SECONDS,
        asked=asked,
        masks="labels_semantic",
    )


SPEC = TaskSpec(
    name="s4",
    about="segments the object that makes the sound",
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
