"""Which events are heard and which are seen, each with its own times (LLP)."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Sequence

from crab_jax import tokens
from crab_jax.tasks import llp, parsing
from crab_jax.tasks.annotations import Source
from crab_jax.tasks.answers import AudioVisualEvents, Event, Unparsed
from crab_jax.tasks.base import AUDIO, VIDEO, AudioRule, Media, Row, TaskSpec, Wording
from crab_jax.tasks.clips import Ask, Clip, Reject
from crab_jax.tasks.entries import Entry
from crab_jax.tasks.vocabulary import AVVP_EVENTS

LAYOUT = """
data/avvp_data/train_samples.json      train: [{filename, vid, event, label}, …]; without label: left out
data/avvp_data/test_samples.json       test
data/avvp_data/AVVP_eval_audio.csv     what is heard in the test videos, one event per line: filename, onset, offset,
                                       event_labels, separated by tabs; filename is vid
data/avvp_data/AVVP_eval_visual.csv    what is seen; without the two, the field event, written as label is, counts
avvp/llp_videos/<vid>.mp4
avvp/audio_data/<vid>.mp3
"""
ANNOTATIONS = {"train": "data/avvp_data/train_samples.json", "test": "data/avvp_data/test_samples.json"}

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


def clips(root: pathlib.Path, split: str) -> Iterator[Clip | Reject]:
    """One clip and one ask per video.

    Source: specification 9.2, 10.4.
    """
    source = Source(SPEC, root, split)
    truth = llp.read_truth(source, folder="data/avvp_data", seconds=_MEDIA.seconds) if split == "test" else None
    if truth:
        yield from truth.rejects

    def key(entry: Entry) -> str | None:
        video = entry.name("vid")
        if split == "train" and not entry.has("label"):
            return None
        return None if truth and truth.broken & llp.names(entry) else video

    def asks(video: str, entries: Sequence[Entry]) -> Iterator[Ask]:
        (entry,) = entries
        label, events = "", truth.of(entry) if truth else None
        if split == "train":
            label = entry.text("label")
        if events is None:
            events = stored_events(entry, "label" if split == "train" else "event")
        row = Row(audio_events=events.audio, visual_events=events.visual, label_text=label)
        yield Ask(id=video, row=row, raw=entry.fields)

    yield from source.clips(
        source.json_entries(ANNOTATIONS[split]),
        key=key,
        media=lambda video, entry: {
            "video": source.file("avvp/llp_videos", video, ".mp4"),
            "frames": _MEDIA.frames,
            "audio": source.sound("avvp/audio_data", video),
        },
        asks=asks,
    )


def stored_events(entry: Entry, field: str) -> AudioVisualEvents:
    """The events in a stored text. Stricter than `parse`, because here nothing may be overlooked.

    Raises:
        BadEntry: a tag holds anything but names of the vocabulary, each with ranges of whole seconds inside the clip
            and in order.
    """
    text = entry.text(field)
    for tag in parsing.tags(parsing.one_line(text), "(?:audio|visual)(?:_event)?"):
        for inside in re.findall(r"\(([^()]*[0-9][^()]*)\)", tag[2]):
            if parsing.read_pair(inside) is None:
                raise entry.bad(f"field {field!r}: ({inside}) is not two whole seconds")
    events = parse(text)
    if isinstance(events, Unparsed):
        raise entry.bad(f"field {field!r}: {events.reason}")
    if events.ignored:
        raise entry.bad(f"field {field!r}: {'; '.join(events.ignored)}")
    for kind in (events.audio, events.visual):
        last: dict[str, Event] = {}
        for event in kind:
            what = f"field {field!r}, {event.name}"
            entry.check_seconds(event.start_s, event.end_s, length=_MEDIA.seconds, what=what)
            before = last.setdefault(event.name, event)
            if event.start_s < before.start_s:
                pairs = f"({event.start_s} {event.end_s}) stands behind ({before.start_s} {before.end_s})"
                raise entry.bad(f"{what}: {pairs}; expected ranges in order of time")
            last[event.name] = event
    return events


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
    clips=clips,
    splits=tuple(ANNOTATIONS),
    layout=LAYOUT,
)
