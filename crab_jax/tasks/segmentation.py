"""What the four tasks share whose answer is a mask: its text is six tokens, its pixels come from the mask decoder."""

from __future__ import annotations

import re

from crab_jax import tokens
from crab_jax.tasks import parsing
from crab_jax.tasks.answers import MaskTokens, Unparsed
from crab_jax.tasks.base import AUDIO, IMAGE, VIDEO, AudioRule, Media, Row

MAX_NEW_TOKENS = 100

# s4, ms3 and avss ask alike, except in their test sets.
SOUNDING_IMAGE = IMAGE + AUDIO + "Please segment out the object that makes the sound in the image."
SOUNDING_VIDEO = (
    VIDEO + AUDIO + "Please recognize the category of object making sound in the video, and then segment out the "
    "object that makes the sound at the {ordinal} second of the video."
)
# No snapshot of the reference holds the targets of the published weights; this one goes with the same instruction
# (specification 9.3).
SOUNDING_IMAGE_TARGET = "The object that makes the sound is " + tokens.MASK_RUN
SOUNDING_VIDEO_TARGET = (
    "The object making the sound in the video is {a_obj}. The mask of the object that makes the sound at the {ordinal} "
    "second is " + tokens.MASK_RUN
)

# Exact spelling: text that merely looks like a mask token was no token, so no state was kept for it.
_MASK = re.compile(r"<mask_([0-5])>")


def one_image(seconds: int) -> Media:
    """A single image and the second of the sound that it belongs to."""
    return Media(image=True, audio=AudioRule.ONE_SECOND_OF_IMAGE, seconds=seconds)


def all_frames(seconds: int, *, image: bool) -> Media:
    """One picture and one audio window per second; `image` is what the mask decoder works on, if there is one."""
    return Media(frames=seconds, image=image, audio=AudioRule.EACH_SECOND, seconds=seconds)


def answer(row: Row) -> MaskTokens:
    """Six mask tokens in order, whatever is said before them."""
    number = len(tokens.MASK_TAGS)
    return MaskTokens(order=tuple(range(number)), emitted=number)


def parse(text: str) -> MaskTokens | Unparsed:
    """At least six mask tokens; the last six count.

    Source: specification 7.7, Q-12.
    """
    said = parsing.clean(text)
    found = list(_MASK.finditer(said))
    needed = len(tokens.MASK_TAGS)
    if len(found) < needed:
        return Unparsed(text, f"{len(found)} of {needed} mask tokens")
    before = said[: found[0].start()].rstrip().removesuffix("<mask_start>").strip()
    return MaskTokens(order=tuple(int(m[1]) for m in found[-needed:]), emitted=len(found), text=before)
