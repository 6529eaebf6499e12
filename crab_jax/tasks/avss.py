"""Segmenting what sounds and naming its class, pixel by pixel (AVSBench-semantic)."""

from __future__ import annotations

from crab_jax import tokens
from crab_jax.tasks import segmentation
from crab_jax.tasks.base import AUDIO, IMAGE, Row, TaskSpec, Wording, fill

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


SPEC = TaskSpec(
    name="avss",
    about="segments what makes the sound and gives each pixel one of 71 classes",
    instruction=INSTRUCTION,
    media={
        Wording.QUICK_START: segmentation.one_image(10),
        Wording.RELEASE_TRAIN: segmentation.all_frames(10, image=False),
        Wording.RELEASE_TEST: segmentation.one_image(10),
    },
    compose=compose,
    answer=segmentation.answer,
    parse=segmentation.parse,
    max_new_tokens=segmentation.MAX_NEW_TOKENS,
    needs_masks=True,
    semantic=True,
)
