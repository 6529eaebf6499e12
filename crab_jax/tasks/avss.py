"""Segmenting what sounds and naming its class, pixel by pixel (AVSBench-semantic)."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from crab_jax import tokens
from crab_jax.tasks import avsbench, segmentation
from crab_jax.tasks.base import AUDIO, IMAGE, Row, TaskSpec, Wording, fill
from crab_jax.tasks.clips import Clip, Reject

LAYOUT = """
AVS/avss_samples.json                [{uid, a_obj, split}, …]; split is train, val or test
AVS/v2/<uid>/frames/{0..9}.jpg
AVS/v2/<uid>/audio.wav
AVS/v2/<uid>/labels_rgb/{0..9}.png   the 71 colours of AVSBench
"""
SECONDS = 10

INSTRUCTION = {
    Wording.QUICK_START: segmentation.SOUNDING_IMAGE,
    Wording.RELEASE_TRAIN: segmentation.SOUNDING_VIDEO,
    Wording.RELEASE_TEST: IMAGE + AUDIO + "Please recognize the category of the object making the sound in the image "
    "and segment it out.",
}
TARGET = {
    Wording.QUICK_START: segmentation.SOUNDING_IMAGE_TARGET,
    Wording.RELEASE_TRAIN: segmentation.SOUNDING_VIDEO_TARGET,
    Wording.RELEASE_TEST: "The category of the sound-making object and its mask image are " + tokens.MASK_RUN,
}


def compose(row: Row, wording: Wording) -> str:
    """What sounds, and its mask tokens."""
    return fill(TARGET[wording], row)


def clips(root: pathlib.Path, split: str) -> Iterator[Clip | Reject]:
    """One clip per video, asked about each of its frames, which are alternatives (Q-24).

    Source: specification 9.2.
    """
    asked = range(SECONDS)
    yield from avsbench.clips(
        SPEC,
        root,
        split,
        file="AVS/avss_samples.json",
        folder="AVS/v2",
        seconds=SECONDS,
        asked=asked,
        masks="labels_rgb",
        alternatives=True,
    )


SPEC = TaskSpec(
    name="avss",
    about="segments what makes the sound and gives each pixel one of 71 classes",
    instruction=INSTRUCTION,
    media={
        Wording.QUICK_START: segmentation.one_image(SECONDS),
        Wording.RELEASE_TRAIN: segmentation.all_frames(SECONDS, image=False),
        Wording.RELEASE_TEST: segmentation.one_image(SECONDS),
    },
    compose=compose,
    answer=segmentation.answer,
    parse=segmentation.parse,
    max_new_tokens=segmentation.MAX_NEW_TOKENS,
    clips=clips,
    splits=avsbench.SPLITS,
    layout=LAYOUT,
    needs_masks=True,
    semantic=True,
)
