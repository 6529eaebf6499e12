"""Questions about a music video (MUSIC-AVQA): how many, which, where, in what order, seen and heard."""

from __future__ import annotations

from crab_jax.tasks import parsing
from crab_jax.tasks.base import (
    AUDIO,
    VIDEO,
    AudioRule,
    Choice,
    Media,
    Row,
    TaskSpec,
    Unparsed,
    Wording,
    fill,
    words,
)

INSTRUCTION = VIDEO + AUDIO + "Please answer this question: {question}"
CLAUSE = "So the answer is <answer> {answer} </answer>."


def compose(row: Row, wording: Wording) -> str:
    """The reasoning and the clause with the answer; the same in every wording."""
    if row.label_text:
        return words(row, "label_text")
    return parsing.sentences(parsing.free_text(row, "reasoning"), fill(CLAUSE, row))


def answer(row: Row) -> Choice:
    """The answer in lower case."""
    return Choice(parsing.one_line(words(row, "answer")).lower())


def parse(text: str) -> Choice | Unparsed:
    """Exactly one `<answer>` tag.

    Source: specification 10.2.
    """
    found = parsing.tags(parsing.one_line(parsing.clean(text)), "answer")
    if len(found) != 1:
        return Unparsed(text, f"{len(found)} <answer> tags, expected one")
    said = found[0][2].strip().lower()
    return Choice(said) if said else Unparsed(text, "nothing inside the <answer> tag")


_MEDIA = Media(frames=10, audio=AudioRule.SIX_SECOND_GRID, seconds=60)

SPEC = TaskSpec(
    name="avqa",
    about="answers a question about a video with its sound",
    instruction=dict.fromkeys(Wording, INSTRUCTION),
    media=dict.fromkeys(Wording, _MEDIA),
    compose=compose,
    answer=answer,
    parse=parse,
    max_new_tokens=500,
)
