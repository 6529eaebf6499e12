"""Describing a video with its sound (VALOR-32K).

The quick-start data do not have this task, so the quick-start wording is that of the test set.
"""

from __future__ import annotations

from crab_jax.tasks import parsing
from crab_jax.tasks.base import AUDIO, VIDEO, AudioRule, Caption, Media, Row, TaskSpec, Unparsed, Wording, fill, words

_TEST = VIDEO + AUDIO + "Please describe this video."
INSTRUCTION = {
    Wording.QUICK_START: _TEST,
    Wording.RELEASE_TRAIN: VIDEO + AUDIO + "Please describe this video and audio.",
    Wording.RELEASE_TEST: _TEST,
}
TARGET = "{desc}"


def compose(row: Row, wording: Wording) -> str:
    """The caption."""
    return fill(TARGET, row)


def answer(row: Row) -> Caption:
    """The caption without white space around it."""
    return Caption(words(row, "caption").strip())


def parse(text: str) -> Caption | Unparsed:
    """Any text is a caption, unless it is empty."""
    said = parsing.clean(text)
    return Caption(said) if said else Unparsed(text, "no text")


_MEDIA = Media(frames=10, audio=AudioRule.EACH_SECOND, seconds=10)

SPEC = TaskSpec(
    name="avcap",
    about="describes a video with its sound",
    instruction=INSTRUCTION,
    media=dict.fromkeys(Wording, _MEDIA),
    compose=compose,
    answer=answer,
    parse=parse,
    max_new_tokens=500,
)
