"""Segmenting the one object that sounds (AVSBench, single source)."""

from __future__ import annotations

from crab_jax.tasks import segmentation
from crab_jax.tasks.base import Row, TaskSpec, Wording, fill

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


SPEC = TaskSpec(
    name="s4",
    about="segments the object that makes the sound",
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
