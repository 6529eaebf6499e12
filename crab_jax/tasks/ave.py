"""Which event is both heard and seen in a video, and when (AVE)."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from crab_jax.tasks import parsing
from crab_jax.tasks.annotations import Source
from crab_jax.tasks.answers import Event, Events, Unparsed
from crab_jax.tasks.base import AUDIO, VIDEO, AudioRule, Media, Row, RowError, TaskSpec, Wording, words
from crab_jax.tasks.clips import Ask, Clip, Reject
from crab_jax.tasks.entries import Entry
from crab_jax.tasks.vocabulary import AVE_EVENTS

LAYOUT = """
data/ave_data/valid_train_samples.json   train: [{vid, event, start_time, end_time}, …], whole seconds
data/ave_data/test_samples.json          test
AVE_Dataset/AVE/<vid>.mp4
AVE_Dataset/audio_data/<vid>.mp3
AVE_Dataset/converted_label/<vid>.txt    reasoning and tagged answer, for train
"""
ANNOTATIONS = {"train": "data/ave_data/valid_train_samples.json", "test": "data/ave_data/test_samples.json"}

INSTRUCTION = VIDEO + AUDIO + "Please describe the events and time range that occurred in the video."
CLAUSE = "So the audible and visible event in the video is <event> {event} </event>, and the time range is {ranges}."
RANGE = "<range> {start},{end} </range>"


def compose(row: Row, wording: Wording) -> str:
    """The description and one clause per event, with all its times; the same in every wording."""
    if row.label_text:
        return words(row, "label_text")
    clauses = []
    for name, events in parsing.by_name(answer(row).events):
        ranges = [RANGE.format(start=e.start_s, end=e.end_s) for e in events]
        clauses.append(CLAUSE.format(event=name, ranges=" and ".join(ranges)))
    return parsing.sentences(parsing.free_text(row, "reasoning"), *clauses)


def answer(row: Row) -> Events:
    """The events of the row, with the names of the vocabulary."""
    if not row.events:
        raise RowError("events: missing, every AVE video has one")
    return Events(parsing.check_events(row.events, AVE_EVENTS, "events"))


def parse(text: str) -> Events | Unparsed:
    """Each `<event>` with the `<range>` tags that follow it, or with `(s e)` pairs of its own.

    What cannot be used is listed in `ignored`; if nothing can, the text is unparsed. Times are kept as said, so that a
    metric may count their end in or out.

    Source: specification 10.3; several events in one answer are silent there and are all kept.
    """
    said = parsing.one_line(parsing.clean(text))
    found = parsing.tags(said, "event")
    if not found:
        return Unparsed(text, "no <event> tag")
    events: list[Event] = []
    ignored: list[str] = parsing.unclosed(said, "event") + parsing.unclosed(said, "range")
    ranges = parsing.tags(said, "range")
    for i, tag in enumerate(found):
        # Ranges before the first event belong to it, as in "from <range> 0,4 </range> there is a <event> …".
        begin = tag.end() if i else 0
        end = found[i + 1].start() if i + 1 < len(found) else len(said)
        pairs = []
        for r in ranges:
            if begin <= r.start() < end:
                pair = parsing.read_pair(r[2])
                pairs.append(pair) if pair else ignored.append(f"range {r[2].strip()!r} is not two whole seconds")
        whole = parsing.known(tag[2], AVE_EVENTS)
        named = [(whole, [])] if whole else list(parsing.named_pairs(tag[2]))
        if not named:
            ignored.append("an empty <event> tag")
        for name, own in named:
            if (event := parsing.known(name, AVE_EVENTS)) is None:
                ignored.append(f"{name!r} is not among the {len(AVE_EVENTS)} events")
            elif not (times := own or pairs):
                ignored.append(f"{event}: no time range")
            else:
                parsing.add_events(event, times, events, ignored)
    return Events(tuple(events), tuple(ignored)) if events else Unparsed(text, "; ".join(ignored))


def clips(root: pathlib.Path, split: str) -> Iterator[Clip | Reject]:
    """One clip and one ask per video; several annotations of one video are several events in its answer.

    The question is the same for all of them, so asked separately they would contradict each other. An annotation that
    cannot be used costs its video, whose answer would be incomplete; so does one whose time overlaps that of another
    of the same event, which contradicts it.

    Source: specification 9.2; overlapping times are silent there.
    """
    source = Source(SPEC, root, split)
    texts = source.find("AVE_Dataset/converted_label") if split == "train" else None

    def asks(vid: str, entries: Sequence[Entry]) -> Iterator[Ask | Reject]:
        events: list[Event] = []
        raw: list[dict[str, Any]] = []
        for entry in entries:
            times = entry.seconds("start_time", "end_time", length=_MEDIA.seconds)
            event = Event(entry.one_of("event", AVE_EVENTS), *times)
            said = f"{event.name}, {times[0]} to {times[1]} s,"
            if event in events:
                yield source.reject(vid, entry.source, f"{said} stands here twice")
                continue
            for other in events:
                if other.name == event.name and other.start_s < event.end_s and event.start_s < other.end_s:
                    before = f"{other.start_s} to {other.end_s} s"
                    raise entry.bad(f"{said} overlaps {before} of the same video; expected times of one event apart")
            events.append(event)
            raw.append(dict(entry.fields))
        text = source.read_text(entries[0], texts / f"{vid}.txt") if texts else ""
        row = Row(events=tuple(sorted(events, key=lambda e: e.start_s)), label_text=text)
        yield Ask(id=vid, row=row, raw={"annotations": raw} if len(raw) > 1 else raw[0])

    yield from source.clips(
        source.json_entries(ANNOTATIONS[split]),
        key=lambda entry: entry.name("vid"),
        media=lambda vid, entry: {
            "video": source.file("AVE_Dataset/AVE", vid, ".mp4"),
            "frames": _MEDIA.frames,
            "audio": source.sound("AVE_Dataset/audio_data", vid),
        },
        asks=asks,
        same="merge",
    )


_MEDIA = Media(frames=10, audio=AudioRule.EACH_SECOND, seconds=10)

SPEC = TaskSpec(
    name="ave",
    about="names the event that is heard and seen, and its seconds",
    instruction=dict.fromkeys(Wording, INSTRUCTION),
    media=dict.fromkeys(Wording, _MEDIA),
    compose=compose,
    answer=answer,
    parse=parse,
    max_new_tokens=500,
    clips=clips,
    splits=tuple(ANNOTATIONS),
    layout=LAYOUT,
)
