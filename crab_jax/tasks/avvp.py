"""Which events are heard and which are seen, each with its own times (LLP)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from crab_jax import tokens
from crab_jax.tasks import parsing
from crab_jax.tasks.base import (
    AUDIO,
    VIDEO,
    AudioRule,
    AudioVisualEvents,
    Event,
    Media,
    Row,
    TaskSpec,
    Unparsed,
    Wording,
)
from crab_jax.tasks.vocabulary import AVVP_EVENTS

QUICK_START = (
    VIDEO + AUDIO + "Please determine the events that occur based on the visual and audio information, as well as the "
    "start and end time of these events."
)
RELEASE = (
    VIDEO + AUDIO + "Please determine the events that occur based on the visual and audio information in the video, as "
    "well as the start and end times of these events."
)
NO_EVENTS = "Therefore, there are no visual or audio events."

# `<audio>` in a stored label would be replaced by features of the sound.
LABEL_TAGS = {
    "<audio>": "<audio_event>",
    "</audio>": "</audio_event>",
    "<visual>": "<visual_event>",
    "</visual>": "</visual_event>",
}
_NO_EVENTS = re.compile(r"\bno\s+visual\s+(?:and|or)\s+audio\s+events?\b", re.IGNORECASE)


def compose(row: Row, wording: Wording) -> str:
    """The description and the clause with all events, the seen ones first; the same in every wording.

    The reference shows one event of each kind. More of them, or of one kind only, are silent there: tags of one kind
    are joined by commas, and a kind without events is left out.
    """
    if row.label_text:
        text = row.label_text
        for stored, used in LABEL_TAGS.items():
            text = text.replace(stored, used)
        tokens.check_user_text(text, field="label_text")
        return text
    events = answer(row)
    kinds = [(k, _tagged(k, e)) for k, e in (("visual", events.visual), ("audio", events.audio)) if e]
    clause = NO_EVENTS
    if kinds:
        clause = f"Therefore, {' and '.join(k for k, _ in kinds)} events are: {' and '.join(t for _, t in kinds)}"
    return parsing.sentences(parsing.free_text(row, "reasoning"), clause)


def _tagged(kind: str, events: Sequence[Event]) -> str:
    bodies = [f"{n},{' '.join(f'({e.start_s} {e.end_s})' for e in es)}" for n, es in parsing.by_name(events)]
    return ", ".join(f"<{kind}_event>{body}</{kind}_event>" for body in bodies)


def answer(row: Row) -> AudioVisualEvents:
    """The events of the row, with the names of the vocabulary; a video may have none."""
    return AudioVisualEvents(
        audio=parsing.check_events(row.audio_events, AVVP_EVENTS, "audio_events"),
        visual=parsing.check_events(row.visual_events, AVVP_EVENTS, "visual_events"),
    )


def parse(text: str) -> AudioVisualEvents | Unparsed:
    """Tags of both spellings (`audio`, `audio_event`), each with a name and one or more `(s e)` pairs.

    What cannot be used is listed in `ignored`; if there are tags but none can be used, the text is unparsed. Without
    any tag it is unparsed too, unless it says that there are no events.

    Source: specification 10.4.
    """
    said = parsing.one_line(parsing.clean(text))
    ignored: list[str] = []
    events: dict[str, list[Event]] = {"audio": [], "visual": []}
    found = False
    for kind, into in events.items():
        spelling = f"{kind}(?:_event)?"
        ignored += parsing.unclosed(said, spelling)
        for tag in parsing.tags(said, spelling):
            found = True
            named = list(parsing.named_pairs(tag[2]))
            if not named:
                ignored.append(f"an empty <{tag[1]}> tag")
            for name, pairs in named:
                if (event := parsing.known(name, AVVP_EVENTS)) is None:
                    ignored.append(f"{name!r} is not among the {len(AVVP_EVENTS)} events")
                elif not pairs:
                    ignored.append(f"{event}: no time range")
                else:
                    parsing.add_events(event, pairs, into, ignored)
    if not any(events.values()) and not (not found and not ignored and _NO_EVENTS.search(said)):
        return Unparsed(text, "; ".join(ignored) or "no <audio_event> or <visual_event> tag")
    return AudioVisualEvents(tuple(events["audio"]), tuple(events["visual"]), tuple(ignored))


_MEDIA = Media(frames=10, audio=AudioRule.EACH_SECOND, seconds=10)

SPEC = TaskSpec(
    name="avvp",
    about="names the events that are heard and those that are seen, and their seconds",
    instruction={Wording.QUICK_START: QUICK_START, Wording.RELEASE_TRAIN: RELEASE, Wording.RELEASE_TEST: RELEASE},
    media=dict.fromkeys(Wording, _MEDIA),
    compose=compose,
    answer=answer,
    parse=parse,
    max_new_tokens=500,
)
