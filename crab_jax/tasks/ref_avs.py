"""Segmenting the object that an expression refers to, through what it does and how it sounds (Ref-AVS)."""

from __future__ import annotations

from crab_jax import tokens
from crab_jax.tasks import segmentation
from crab_jax.tasks.base import AUDIO, IMAGE, VIDEO, AudioRule, Media, Row, TaskSpec, Wording, fill

INSTRUCTION = {
    Wording.QUICK_START: IMAGE + AUDIO + "Please segment out {exp_lowercase} in the image.",
    Wording.RELEASE_TRAIN: VIDEO + AUDIO + "Please segment out {exp_lowercase} at the {ordinal} second in the video.",
    Wording.RELEASE_TEST: VIDEO + AUDIO + IMAGE + "Please segment out the corresponding object in the image based on "
    "the referential expression: {exp}",
}
_EXPRESSION_IS_MASK = "{exp} is " + tokens.MASK_RUN
TARGET = {
    Wording.QUICK_START: _EXPRESSION_IS_MASK,  # recommended in 9.3; the quick-start data have no targets
    Wording.RELEASE_TRAIN: "At the {ordinal} second in the video, {exp} is {obj}. Its mask is " + tokens.MASK_RUN,
    Wording.RELEASE_TEST: _EXPRESSION_IS_MASK,
}


def compose(row: Row, wording: Wording) -> str:
    """The expression, what it refers to, and its mask tokens."""
    return fill(TARGET[wording], row)


SPEC = TaskSpec(
    name="ref-avs",
    about="segments the object that an expression refers to",
    instruction=INSTRUCTION,
    media={
        Wording.QUICK_START: Media(image=True, audio=AudioRule.EACH_SECOND, seconds=10),
        Wording.RELEASE_TRAIN: segmentation.all_frames(10, image=False),
        Wording.RELEASE_TEST: segmentation.all_frames(10, image=True),
    },
    compose=compose,
    answer=segmentation.answer,
    parse=segmentation.parse,
    max_new_tokens=segmentation.MAX_NEW_TOKENS,
    needs_masks=True,
)
