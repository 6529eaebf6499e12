"""Segmenting all objects that sound (AVSBench, several sources)."""

from __future__ import annotations

from crab_jax import tokens
from crab_jax.tasks import segmentation
from crab_jax.tasks.base import Row, TaskSpec, Wording, fill

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


SPEC = TaskSpec(
    name="ms3",
    about="segments the objects that make the sounds",
    instruction=INSTRUCTION,
    media={
        Wording.QUICK_START: segmentation.one_image(5),
        Wording.RELEASE_TRAIN: segmentation.all_frames(5, image=False),
        Wording.RELEASE_TEST: segmentation.all_frames(5, image=True),
    },
    compose=compose,
    answer=segmentation.answer,
    parse=segmentation.parse,
    max_new_tokens=segmentation.MAX_NEW_TOKENS,
    needs_masks=True,
)
