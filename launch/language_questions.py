"""What a language model is asked that has to learn to look somebody up and to tell the time.

None of these questions is one of the nine tasks (`launch.task_questions`). They say more about less: who is where, who
is seen when, who is heard when and how loudly, who of all makes the sound, and where all of it takes place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from crab_jax.tasks.base import AUDIO, IMAGE, VIDEO
from crab_jax.tokens import MASK_RUN
from data_pipelines.world import concerts, phrases
from data_pipelines.world.casting import Casting, names_in, reserved_pair
from data_pipelines.world.kinds import KINDS
from data_pipelines.world.phrases import capital
from data_pipelines.world.reasoning import called
from data_pipelines.world.stage import Performer
from launch.language_media import Box, Heard, Pools, Seen, Spans, at, calendar
from launch.part_scenes import NAMES, SECONDS


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What is asked and answered, once.

    Attributes:
        sort: of question, for people.
        prompt: with the tags of its media, in their order.
        target: the answer, without what ends it.
        seen: what the projector says of the pictures, float16 [t Q D]; t may be 0.
        heard: of the windows, float16 [a Q D]; a may be 0.
        marked: kinds that the mask in the answer marks, perhaps none; None: no mask.
        in_sight: which kinds are in which picture, bool [t kinds].
        audible: which kinds are in which window, bool [a kinds].
        on_stage: kinds of those who are in some picture, from left to right.
        loudness: kind of those who are in some window → how loud.
        noticed: parts of the answer that tell what can only be seen or heard.
        given: such parts where there is nothing to see or hear; they are not to be learned.
        concluded: parts of the answer that follow from others.
        outdoors: whether it takes place there; None: it is not told.
    """

    sort: str
    prompt: str
    target: str
    seen: np.ndarray
    heard: np.ndarray
    marked: tuple[str, ...] | None
    in_sight: np.ndarray
    audible: np.ndarray
    on_stage: tuple[str, ...]
    loudness: Mapping[str, float]
    noticed: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    concluded: tuple[str, ...] = ()
    outdoors: bool | None = None


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question with its answer, and who is to be marked (None: the answer has no mask)."""

    question: str
    answer: str
    marked: tuple[str, ...] | None = None


def _n(kind: str) -> str:
    return phrases.noun(kind)


def _box(box: Box) -> str:
    x1, y1, x2, y2 = box
    return f"its coordinate of top left corner is ({x1},{y1}) and coordinate of bottom right corner is ({x2},{y2})"


def _absent(rng: np.random.Generator, there: Sequence[str]) -> str:
    return phrases.one(rng, [name for name in NAMES if name not in there])


def about_still(rng: np.random.Generator, seen: Sequence[Seen]) -> Asked:
    """Who stands where in a picture."""
    count, one = len(seen), seen[int(rng.integers(len(seen)))]
    at = seen.index(one)
    match int(rng.integers(7)):
        case 0:
            parts = [f"{phrases.a(_n(p.kind))} from ({p.box[0]},{p.box[1]}) to ({p.box[2]},{p.box[3]})" for p in seen]
            return Asked("Who stands where, from left to right?", capital(phrases.listing(parts)))
        case 1 | 2:
            return Asked(f"Where exactly is the {_n(one.kind)}?", capital(_box(one.box)))
        case 3:
            x1, y1, x2, y2 = one.box
            return Asked(f"What is between ({x1},{y1}) and ({x2},{y2})?", capital(phrases.a(_n(one.kind))))
        case 4 if count > 1:
            right = at + 1 < count and (at == 0 or rng.random() < 0.5)
            other = seen[at + 1 if right else at - 1]
            side = "right" if right else "left"
            return Asked(f"What stands next to the {_n(one.kind)}, to its {side}?", capital(phrases.a(_n(other.kind))))
        case 5:
            left = rng.random() < 0.5
            p = seen[0 if left else -1]
            side = "left" if left else "right"
            return Asked(f"Who is farthest to the {side}, and where exactly?", f"The {_n(p.kind)}: {_box(p.box)}")
        case _:
            if rng.random() < 0.5:
                return Asked("How many are there?", f"{capital(phrases.NUMBERS[count])}: {_list(seen)}")
            kind = one.kind if rng.random() < 0.5 else _absent(rng, [p.kind for p in seen])
            there = any(p.kind == kind for p in seen)
            return Asked(f"Is there {phrases.a(_n(kind))}?", "Yes" if there else "No")


def _list(some: Sequence[Any]) -> str:
    return phrases.things([p.kind for p in some])


def _in_order(heard: Sequence[Heard]) -> list[Heard]:
    return sorted(heard, key=lambda h: (h.spans[0][0], -h.loudness))


def about_sound(rng: np.random.Generator, heard: Sequence[Heard]) -> Asked:
    """Who is heard when, and how loudly."""
    one = heard[int(rng.integers(len(heard)))]
    length = lambda h: sum(b - a for a, b in h.spans)  # noqa: E731
    match int(rng.integers(8)):
        case 0 | 1:
            parts = [f"{KINDS[h.kind].sound} {phrases.times(h.spans)}" for h in _in_order(heard)]
            return Asked("What is heard, and when?", capital(phrases.listing(parts)))
        case 2:
            if rng.random() < 0.15:
                return Asked(f"When is the {_n(_absent(rng, [h.kind for h in heard]))} heard?", "Never")
            return Asked(f"When is the {_n(one.kind)} heard?", capital(phrases.times(one.spans)))
        case 3:
            second = int(rng.integers(SECONDS))
            now = [h for h in _in_order(heard) if at(h.spans, second)]
            return Asked(
                f"What is heard from {second} to {second + 1} seconds?",
                capital(_list(now)) if now else "Nothing",
            )
        case 4:
            loud = rng.random() < 0.5
            p = sorted(heard, key=lambda h: h.loudness)[-1 if loud else 0]
            return Asked(f"What is {'loudest' if loud else 'softest'}?", f"The {_n(p.kind)}")
        case 5 if len({h.spans[0][0] for h in heard}) == len(heard) > 1:
            first = rng.random() < 0.5
            p = _in_order(heard)[0 if first else -1]
            return Asked(
                f"What begins {'first' if first else 'last'}?", f"The {_n(p.kind)}, after {p.spans[0][0]} seconds"
            )
        case 6 if len(heard) > 1:
            two = [heard[k] for k in rng.permutation(len(heard))[:2]]
            same = length(two[0]) == length(two[1])
            longer = "none of them" if same else f"the {_n(max(two, key=length).kind)}"
            times = phrases.listing([f"the {_n(h.kind)} {phrases.times(h.spans)}" for h in two])
            names = " or the ".join(_n(h.kind) for h in two)
            return Asked(f"What sounds longer, the {names}?", f"{capital(times)}: {longer}")
        case _:
            if rng.random() < 0.5:
                return Asked(
                    "How many things are heard?",
                    f"{capital(phrases.NUMBERS[len(heard)])}: {_list(_in_order(heard))}",
                )
            kind = one.kind if rng.random() < 0.5 else _absent(rng, [h.kind for h in heard])
            there = any(h.kind == kind for h in heard)
            return Asked(f"Is {phrases.a(_n(kind))} heard?", "Yes" if there else "No")


def about_video(rng: np.random.Generator, seen: Sequence[Seen]) -> Asked:
    """Who is seen when."""
    one = seen[int(rng.integers(len(seen)))]
    match int(rng.integers(4)):
        case 0:
            parts = [f"{phrases.a(_n(p.kind))} {phrases.times(p.spans)}" for p in seen]
            return Asked("What is seen, and when?", capital(phrases.listing(parts)))
        case 1 | 2:
            if rng.random() < 0.15:
                return Asked(f"When is the {_n(_absent(rng, [p.kind for p in seen]))} seen?", "Never")
            return Asked(f"When is the {_n(one.kind)} seen?", capital(phrases.times(one.spans)))
        case _:
            second = int(rng.integers(SECONDS))
            now = [p for p in seen if at(p.spans, second)]
            return Asked(
                f"What is seen from {second} to {second + 1} seconds?", capital(_list(now)) if now else "Nobody"
            )


def about_concert(rng: np.random.Generator, heard: Sequence[Heard]) -> Asked:
    """When each of some instruments is heard, worded as answers about concerts tell it; now and then one never is."""
    some = [heard[k].kind for k in rng.permutation(len(heard))]
    others = [k for k in names_in("avqa") if k not in some]
    if rng.random() < 0.3:
        some[int(rng.integers(len(some)))] = phrases.one(rng, others)
    spans = {h.kind: h.spans for h in heard}
    told = []
    for kind in some:
        sentences = phrases.PLAYS if kind in spans else phrases.PLAYS_NEVER
        told.append(phrases.say(rng, sentences, name=called(kind), times=phrases.times(spans.get(kind, ()))))
    names = phrases.listing([f"the {called(kind)}" for kind in some])
    return Asked(f"When is each of them heard, {names}?", " ".join(told).removesuffix("."))


def about_setting(rng: np.random.Generator, setting: str) -> Asked:
    """Where all of it takes place, worded as answers about concerts tell it."""
    return Asked("Where does this take place?", phrases.say(rng, phrases.TAKES_PLACE[setting]).removesuffix("."))


def _together(one: Spans, other: Spans) -> Spans:
    both = [(max(a, c), min(b, d)) for a, b in one for c, d in other]
    return tuple(sorted((a, b) for a, b in both if a < b))


def about_both(rng: np.random.Generator, seen: Sequence[Seen], heard: Sequence[Heard]) -> Asked:
    """Who is seen when, who is heard when, and who is both."""
    by_kind = {h.kind: h for h in heard}
    match int(rng.integers(6)):
        case 0:
            looks = [f"the {_n(p.kind)} {phrases.times(p.spans)}" for p in seen]
            sounds = [f"the {_n(h.kind)} {phrases.times(h.spans)}" for h in _in_order(heard)]
            return Asked(
                "Who is seen when, and who is heard when?",
                f"Seen: {phrases.listing(looks)}. Heard: {phrases.listing(sounds)}",
            )
        case 1 | 2 | 3:
            parts = []
            for p in seen:
                if p.kind in by_kind and (both := _together(p.spans, by_kind[p.kind].spans)):
                    parts.append(
                        f"The {_n(p.kind)} is seen {phrases.times(p.spans)} and heard "
                        f"{phrases.times(by_kind[p.kind].spans)}: {phrases.times(both)}"
                    )
            return Asked("Who is seen and heard at the same time, and when?", ". ".join(parts) or "Nobody")
        case 4:
            off = [h for h in _in_order(heard) if all(p.kind != h.kind for p in seen)]
            return Asked("What is heard, but never seen?", capital(_list(off)) if off else "Nothing")
        case _:
            mute = [p for p in seen if p.kind not in by_kind]
            return Asked("Who is seen, but never heard?", capital(_list(mute)) if mute else "Nobody")


def _mark(rng: np.random.Generator, what: str, who: Sequence[str]) -> Asked:
    ask = phrases.one(rng, ("Please mark {x}.", "Mark {x}.", "Please mark {x} in the picture.", "Show me {x}."))
    reply = phrases.one(rng, ("{x} is {m}", "It is {m}", "{m}", "Here: {m}", "{x}: {m}"))
    said = capital(reply.format(x=what, m=MASK_RUN))
    return Asked(ask.format(x=what), said if rng.random() < 0.8 or not who else _named(who), tuple(who))


def _named(who: Sequence[str]) -> str:
    return f"{capital(phrases.the(who))}: {MASK_RUN}"


def marked_alone(rng: np.random.Generator, seen: Sequence[Seen]) -> Asked:
    """Marks somebody whom a picture alone tells."""
    at, count = int(rng.integers(len(seen))), len(seen)
    one = seen[at]
    match int(rng.integers(5)):
        case 0 if count > 1:
            return _mark(rng, "the leftmost one" if at == 0 else "the rightmost one", [seen[0 if at == 0 else -1].kind])
        case 1 if at + 1 < count:
            return _mark(rng, f"the one just left of the {_n(seen[at + 1].kind)}", [one.kind])
        case 2 if at:
            return _mark(rng, f"the one just right of the {_n(seen[at - 1].kind)}", [one.kind])
        case 3 if rng.random() < 0.4:
            return _mark(rng, f"the {_n(_absent(rng, [p.kind for p in seen]))}", [])
        case _:
            return _mark(rng, f"the {_n(one.kind)}", [one.kind])


def about_moment(rng: np.random.Generator, seen: Sequence[Seen], now: Sequence[Heard]) -> Asked:
    """Who in a picture makes the sound of one second."""
    sounding = [p for p in seen if any(h.kind == p.kind for h in now)]
    if rng.random() < 0.5:
        return _mark(
            rng, phrases.one(rng, ("what makes the sound", "who sounds", "all that sound")), [p.kind for p in sounding]
        )
    if rng.random() < 0.7:
        parts = [f"the {_n(p.kind)}: {_box(p.box)}" for p in sounding]
        return Asked("Who makes the sound, and where exactly?", capital(". ".join(parts)) if parts else "Nobody")
    mute = [p for p in seen if p not in sounding]
    return Asked("Who is silent?", capital(_list(mute)) if mute else "Nobody")


def about_track(rng: np.random.Generator, seen: Sequence[Seen], heard: Sequence[Heard]) -> Asked:
    """Who in a picture is the one that a longer sound tells: the loudest, the first, the one that never sounds."""
    by_kind = {h.kind: h for h in heard}
    sounding = [p for p in seen if p.kind in by_kind]
    mute = [p for p in seen if p.kind not in by_kind]
    options: list[tuple[str, Sequence[Seen]]] = []
    if len(mute) == 1:
        options += [("the one that never sounds", mute), ("the silent one", mute)]
    if len(sounding) == 1:
        options += [("the only one that sounds", sounding), ("what sounds", sounding)]
    if len(sounding) > 1:
        loud = sorted(sounding, key=lambda p: by_kind[p.kind].loudness)
        begin = sorted(sounding, key=lambda p: by_kind[p.kind].spans[0][0])
        options += [("the loudest", loud[-1:]), ("the softest of those that sound", loud[:1])]
        options += [("the sounding one farthest to the left", sounding[:1])]
        options += [("the sounding one farthest to the right", sounding[-1:])]
        if len({by_kind[p.kind].spans[0][0] for p in begin}) == len(begin):
            options += [("the first one that sounds", begin[:1]), ("the one that begins last", begin[-1:])]
    one, silent = seen[int(rng.integers(len(seen)))], bool(rng.random() < 0.5)
    true = silent == (one.kind not in by_kind)
    options += [(f"the {'silent' if silent else 'sounding'} {_n(one.kind)}", (one,) if true else ())]
    options += [("all that sound", sounding)]
    what, who = options[int(rng.integers(len(options)))]
    if rng.random() < 0.6:
        return _mark(rng, what, [p.kind for p in who])
    if not who:
        return Asked(f"Where is {what}?", "There is none")
    return Asked(f"Where is {what}?", capital(". ".join(f"the {_n(p.kind)}: {_box(p.box)}" for p in who)))


SHARES = {
    "still": 1, "mark": 1, "sound": 2, "video": 1, "both": 3, "moment": 2, "track": 2, "concert": 8, "setting": 3,
}  # sort → how often  # fmt: skip
OTHERS = 0.15  # of pictures are not chosen to go with their sound


def questions(rng: np.random.Generator, pools: Pools) -> Iterator[Lesson]:
    """Endless."""
    casting, nothing = Casting(rng, False), pools.stills.tokens[0, :0]
    shares = np.array([*SHARES.values()]) / sum(SHARES.values())

    def lesson(sort: str, asked: Asked, seen=(nothing, ()), heard=(nothing, ()), step: int = 1) -> Lesson:
        """Of media, each with who is in it; their items are `step` seconds apart."""
        (pictures, looks), (windows, sounds) = seen, heard
        media = (IMAGE if len(pictures) == 1 else VIDEO) * bool(len(pictures)) + AUDIO * bool(len(windows))
        target = asked.answer + ("" if asked.marked is not None else ".")
        spans = ({x.kind: x.spans or ((0, SECONDS),) for x in some} for some in (looks, sounds))
        there = (calendar(some, len(items), step) for some, items in zip(spans, (pictures, windows)))
        placed, loudness = tuple(x.kind for x in looks), {x.kind: x.loudness for x in sounds}
        return Lesson(sort, media + asked.question, target, pictures, windows, asked.marked, *there, placed, loudness)

    def sound() -> tuple[np.ndarray, tuple[Heard, ...]]:
        k = pools.sounds.draw(rng)
        who = pools.sounds.who[k]
        chosen = sorted(rng.permutation(len(who))[: int(rng.integers(1, 4))])
        heard = tuple(dataclasses.replace(who[c], spans=casting.spans(SECONDS)) for c in chosen)
        return pools.sounds.composed(rng, k, {h.kind: h.spans for h in heard}, SECONDS), heard

    def concert() -> tuple[np.ndarray, tuple[Heard, ...]]:
        k = pools.music.draw(rng)
        who = [Performer(h.kind, 0.5, seen=()) for h in pools.music.who[k]]
        some = [who[c] for c in sorted(rng.permutation(len(who))[: int(rng.integers(1, len(who) + 1))])]
        spans = {p.kind: p.heard for p in concerts.playing_in_turns(casting, some)}
        heard = tuple(dataclasses.replace(h, spans=spans[h.kind]) for h in pools.music.who[k] if h.kind in spans)
        return pools.music.composed(rng, k, spans, concerts.STEPS, concerts.STEP_S), heard

    def video(k: int) -> tuple[np.ndarray, tuple[Seen, ...]]:
        always = ((0, SECONDS),)
        seen = tuple(
            dataclasses.replace(s, spans=casting.spans(SECONDS) if casting.chance(0.7) else always)
            for s in pools.videos.who[k]
        )
        return pools.videos.composed(rng, k, {s.kind: s.spans for s in seen}, SECONDS), seen

    def shown_with(pool, heard: Sequence[Heard]) -> int | None:
        """A picture or video for a sound, mostly with somebody in it who sounds; never a pair kept for testing. None
        if there seems to be none, as in a small pool."""
        wanted = [heard[k].kind for k in rng.permutation(len(heard))[: int(rng.integers(1, 4))]]
        for _ in range(30):
            k = None if rng.random() < OTHERS else pool.draw(rng, wanted)
            if k is None:
                k = pool.draw(rng, wanted[:1] if rng.random() > OTHERS else ())
            if k is not None and not any(
                reserved_pair(p.kind, h.kind) for p in pool.who[k] for h in heard if p.kind != h.kind
            ):
                return k
        return None

    while True:
        sort = str(rng.choice(list(SHARES), p=shares))
        if sort in ("still", "mark"):
            k = pools.stills.draw(rng)
            asked = (about_still if sort == "still" else marked_alone)(rng, pools.stills.who[k])
            yield lesson(sort, asked, (pools.stills.tokens[k], pools.stills.who[k]))
            continue
        if sort == "video":
            tokens, seen = video(pools.videos.draw(rng))
            yield lesson(sort, about_video(rng, seen), (tokens, seen))
            continue
        if sort == "setting":
            k = pools.stills.draw(rng)
            scene, picture = pools.stills.scenes[k], (pools.stills.tokens[k], pools.stills.who[k])
            told = lesson(sort, about_setting(rng, scene.setting), picture)
            yield dataclasses.replace(told, outdoors=scene.outdoors)
            continue
        if sort == "concert":
            windows, heard = concert()
            yield lesson(sort, about_concert(rng, heard), heard=(windows, heard), step=concerts.STEP_S)
            continue
        windows, heard = sound()
        if sort == "sound":
            yield lesson(sort, about_sound(rng, heard), heard=(windows, heard))
            continue
        second = int(rng.integers(SECONDS))
        now = [h for h in heard if at(h.spans, second)]
        k = shown_with(pools.videos if sort == "both" else pools.stills, now if sort == "moment" else heard)
        if k is None:
            continue
        if sort == "both":
            tokens, seen = video(k)
            yield lesson(sort, about_both(rng, seen, heard), (tokens, seen), (windows, heard))
            continue
        tokens, seen = pools.stills.tokens[k], pools.stills.who[k]
        if sort == "moment":
            sounding = tuple(dataclasses.replace(h, spans=()) for h in now)
            yield lesson(sort, about_moment(rng, seen, now), (tokens, seen), (windows[second : second + 1], sounding))
        else:
            yield lesson(sort, about_track(rng, seen, heard), (tokens, seen), (windows, heard))
