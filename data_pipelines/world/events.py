"""Ten-second videos in which things are seen and heard, each in its own time: AVE, LLP (avvp) and VALOR (avcap)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crab_jax.tasks import avvp
from data_pipelines.world import phrases
from data_pipelines.world.casting import Casting, names_in, pretending, side_of, sounding_then, timed
from data_pipelines.world.kinds import KINDS
from data_pipelines.world.orders import Order, Studio, truth
from data_pipelines.world.stage import Performer, Scene

SECONDS = 10
Entry = dict[str, Any]
Span = tuple[int, int]


# ------------------------------------------------------------------------------------------------------------- AVE

_AVE_LINK = (
    "only the {noun} is seen and heard.",
    "the {noun} is what is both seen and heard.",
    "what is seen as well as heard is the {noun}.",
    "sound and picture agree on the {noun}.",
    "both senses meet at the {noun}.",
)
_AVE_TIMES = (
    "it is seen {seen} and heard {heard}.",
    "it is visible {seen} and audible {heard}.",
    "seen {seen}, heard {heard}.",
    "it sounds {heard} and shows itself {seen}.",
)
AVE_CLAUSE = "So the audible and visible event in the video is <event> {event} </event>, and the time range is {range}."


def ave(order: Order, studio: Studio) -> Entry:
    """One event is seen and heard at once. Others are only seen, moving as if they sounded, or only heard."""
    rng = order.rng()
    casting = Casting.of(rng, order.split)
    silent, hidden = ((0, 0), (1, 0), (0, 1), (1, 1), (2, 1))[rng.choice(5, p=(0.10, 0.12, 0.13, 0.45, 0.20))]
    cast = casting.stand(names_in("ave"), 1 + silent, hidden)
    who = int(rng.integers(1 + silent))
    seen, heard = overlapping(casting)
    performers = []
    for k, p in enumerate(cast):
        if k == who:
            performers.append(timed(sounding_then(casting, p, (heard,), SECONDS), seen=(seen,)))
        elif k <= silent:
            shown = overlapping(casting)[0]
            performers.append(timed(pretending(casting, p, SECONDS), seen=(shown,)))
        else:
            performers.append(timed(p, heard=(overlapping(casting)[1],), loudness=casting.loudness()))
    scene = casting.scene(performers, duration_s=SECONDS, fps=order.fps, size=order.size)
    start, end = max(seen[0], heard[0]), min(seen[1], heard[1])
    vid = f"ave_{order.name}"
    folder = order.root / "AVE_Dataset"
    studio.video(studio.stage(scene), folder / "AVE" / f"{vid}.mp4", folder / "audio_data" / f"{vid}.mp3")
    event = KINDS[performers[who].kind].names["ave"]
    said = event_said_aloud(rng, performers, who, seen, heard)
    if order.split == "train":
        label = folder / "converted_label" / f"{vid}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(f"{said}\n", encoding="utf-8")
    row = {"event": event, "vid": vid, "start_time": start, "end_time": end}
    return {"rows": [row], "truth": truth(scene, who=who, start=start, end=end)}


def event_said_aloud(
    rng: np.random.Generator, performers: Sequence[Performer], who: int, seen: Span, heard: Span
) -> str:
    """What leads to the one event that is seen and heard at once, and the event with its time."""
    kind = performers[who].kind
    start, end = max(seen[0], heard[0]), min(seen[1], heard[1])
    return " ".join(
        (
            phrases.seen(rng, [p.kind for p in performers if p.seen]),
            phrases.heard(rng, [p.kind for p in performers if p.heard]),
            phrases.say(rng, _AVE_LINK, noun=phrases.noun(kind)),
            phrases.say(rng, _AVE_TIMES, seen=phrases.times([seen]), heard=phrases.times([heard])),
            AVE_CLAUSE.format(event=KINDS[kind].names["ave"], range=f"<range> {start},{end} </range>"),
        )
    )


def overlapping(casting: Casting) -> tuple[Span, Span]:
    """When something is seen and when it is heard, at least two seconds of it together; either may be the longer."""
    while True:
        seen, heard = (casting.span(SECONDS, 3) if casting.chance(0.75) else (0, SECONDS) for _ in range(2))
        if min(seen[1], heard[1]) - max(seen[0], heard[0]) >= 2:
            return seen, heard


# ------------------------------------------------------------------------------------------------------------ AVVP

_AVVP_SEEN = ("{the} can be seen {times}.", "{the} is visible {times}.", "I see {the} {times}.")
_AVVP_HEARD = ("{sound} is heard {times}.", "I hear {sound} {times}.", "there is {sound} {times}.")


def llp(order: Order, studio: Studio) -> Entry:
    """One to three things; each is seen, heard, or both, at times of its own."""
    rng = order.rng()
    casting = Casting.of(rng, order.split)
    count = int(rng.choice((1, 2, 3), p=(0.25, 0.45, 0.30)))
    roles = rng.choice(("both", "seen", "heard"), count, p=(0.55, 0.20, 0.25)).tolist()
    if roles.count("heard") > 2:
        roles[0] = "both"
    seen_count = count - roles.count("heard")
    cast = casting.stand(names_in("avvp"), seen_count, count - seen_count)
    onstage = [role for role in roles if role != "heard"]
    performers = []
    for k, p in enumerate(cast):
        shown = casting.spans(SECONDS) if k < seen_count else ()
        if k < seen_count and onstage[k] == "seen":
            performers.append(timed(pretending(casting, p, SECONDS), seen=shown))
        else:
            performers.append(timed(sounding_then(casting, p, casting.spans(SECONDS), SECONDS), seen=shown))
    scene = casting.scene(performers, duration_s=SECONDS, fps=order.fps, size=order.size)
    vid = f"llp_{order.name}"
    folder = order.root / "avvp"
    studio.video(studio.stage(scene), folder / "llp_videos" / f"{vid}.mp4", folder / "audio_data" / f"{vid}.mp3")
    events = seen_and_heard(performers)
    row: Entry = {"filename": vid, "vid": vid, "event": " and ".join(_all_tags(events))}
    if order.split == "train":
        row["label"] = parsed_aloud(rng, performers)
    return {"rows": [row], "events": events, "truth": truth(scene)}


def seen_and_heard(performers: Sequence[Performer]) -> dict[str, list[tuple[str, list[Span]]]]:
    """Sense ("visual", "audio") → names of LLP with their times."""
    return {
        sense: [
            (KINDS[p.kind].names["avvp"], [(round(s), round(e)) for s, e in spans])
            for p in performers
            if (spans := p.seen if sense == "visual" else p.heard)
        ]
        for sense in ("visual", "audio")
    }


def _all_tags(events: dict[str, list[tuple[str, list[Span]]]]) -> list[str]:
    return [_tags(sense, found) for sense, found in events.items() if found]


def _tags(sense: str, found: list[tuple[str, list[Span]]]) -> str:
    bodies = (f"{name},{''.join(f'({start} {end})' for start, end in spans)}" for name, spans in found)
    return ", ".join(f"<{sense}>{body}</{sense}>" for body in bodies)


def parsed_aloud(rng: np.random.Generator, performers: Sequence[Performer]) -> str:
    """Who is seen when and who is heard when, in sentences and then in tags."""
    events = seen_and_heard(performers)
    senses = " and ".join(sense for sense, found in events.items() if found)
    tags = " and ".join(_all_tags(events))
    clause = f"Therefore, {senses} events are: {tags}" if tags else avvp.NO_EVENTS
    lines = [
        phrases.say(rng, _AVVP_SEEN, the=f"the {phrases.noun(p.kind)}", times=phrases.times(p.seen))
        for p in performers
        if p.seen
    ]
    lines += [
        phrases.say(rng, _AVVP_HEARD, sound=KINDS[p.kind].sound, times=phrases.times(p.heard))
        for p in performers
        if p.heard
    ]
    return " ".join((*lines, clause))


# ------------------------------------------------------------------------------------------------------- VALOR

_PLAYS = ("{a} {does}", "{a} {on} {does}", "{on} {a} {does}")
_MUTE = ("{a} stays silent", "{a} {on} makes no sound", "{on} {a} is silent")
_LATE = (" from the {ordinal} second on", " after {seconds} seconds", ", starting {seconds} seconds in")
_OFF = (
    "{sound} comes from somewhere else",
    "one hears {sound} without seeing where from",
    "off screen there is {sound}",
)


def valor(order: Order, studio: Studio) -> Entry:
    """One to three things, and a caption of who does what where, and of what is only heard."""
    rng = order.rng()
    casting = Casting.of(rng, order.split)
    seen_count = int(rng.choice((1, 2, 3), p=(0.35, 0.40, 0.25)))
    hidden = int(casting.chance(0.4))
    cast = casting.stand(names_in("avss"), seen_count, hidden)
    performers = []
    for k, p in enumerate(cast):
        if k < seen_count and casting.chance(0.4):
            performers.append(pretending(casting, p, SECONDS))
            continue
        start = int(rng.integers(3, 7)) if casting.chance(0.3) else 0
        performers.append(sounding_then(casting, p, ((start, SECONDS),), SECONDS))
    scene = casting.scene(performers, duration_s=SECONDS, fps=order.fps, size=order.size)
    video_id = f"valor_{order.name}"
    folder = order.root / "valor"
    studio.video(
        studio.stage(scene), folder / "video_data" / f"{video_id}.mp4", folder / "audio_data" / f"{video_id}.mp3"
    )
    row = {"video_id": video_id, "desc": caption(rng, scene)}
    return {"rows": [row], "truth": truth(scene, caption=row["desc"])}


def caption(rng, scene: Scene) -> str:
    """One sentence about a whole scene."""
    where = phrases.say(rng, phrases.SETTING[scene.setting])
    parts = []
    for p in scene.performers:
        slots = {"a": phrases.a(phrases.noun(p.kind)), "on": phrases.ON[side_of(p.place)], "does": KINDS[p.kind].does}
        if not p.seen:
            parts.append(phrases.one(rng, _OFF).format(sound=KINDS[p.kind].sound))
        elif not p.heard:
            parts.append(phrases.one(rng, _MUTE).format(**slots))
        else:
            part = phrases.one(rng, _PLAYS).format(**slots)
            if start := round(p.heard[0][0]):
                late = {"ordinal": _ORDINALS[start], "seconds": _WORDS[start]}
                part += phrases.one(rng, _LATE).format(**late)
            parts.append(part)
    return f"{where} {phrases.listing(parts)}."


_ORDINALS = dict(enumerate(("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")))
_WORDS = dict(enumerate(("zero", "one", "two", "three", "four", "five", "six", "seven")))
