"""Questions of the nine types of MUSIC-AVQA about a concert, and what leads to each answer."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np

from data_pipelines.world import phrases
from data_pipelines.world.reasoning import (
    Facts,
    among,
    asked_about,
    called,
    length,
    listen,
    look,
    next_to,
    on_stage,
    plays_longer,
    stands,
    the_one,
    together,
    when,
)
from data_pipelines.world.stage import Performer, Scene


@dataclasses.dataclass(frozen=True)
class Question:
    """A question with its answer.

    Attributes:
        type: as in the data set, for example `("Audio-Visual", "Counting")`.
        template: which of the makers below it comes from.
        slots: kinds that it names.
        reasoning: what leads to the answer.
        noticed: sentences of it that tell what can only be seen or heard.
        concluded: the others, which follow from these.
    """

    type: tuple[str, str]
    template: str
    text: str
    answer: str
    slots: tuple[str, ...]
    reasoning: str
    noticed: tuple[str, ...]
    concluded: tuple[str, ...]


Found = tuple[str, str, tuple[str, ...], str] | None  # question, answer, slots, reasoning


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _fair(f: Facts, wanted: list[str], other: list[str]) -> str | None:
    """A kind about which the other sense says nothing: it notices both choices or neither. None if there are not two.

    `wanted` are the kinds that the sense asked about notices, `other` those that the other one does.
    """
    both = [k for k in wanted if k in other]
    only_other = [k for k in other if k not in wanted]
    only_wanted = [k for k in wanted if k not in other]
    choices = [(yes, no) for yes, no in ((both, only_other), (only_wanted, f.absent)) if yes and no]
    if not choices:
        return None
    yes, no = f.one(choices)
    return f.one(yes if f.coin() else no)


def _sound_exists(f: Facts) -> Found:
    if (kind := _fair(f, f.heard_kinds, f.seen_kinds)) is None:
        return None
    text = phrases.say(f.rng, ("Is there a {x} sound?", "Can a {x} be heard?"), x=called(kind))
    return text, _yes(kind in f.heard_kinds), (kind,), f"{listen(f)} {among(kind, f.heard_kinds)}"


def _how_many_heard(f: Facts) -> Found:
    templates = (
        "How many types of musical instruments were heard throughout the video?",
        "How many kinds of instruments can be heard?",
    )
    return phrases.say(f.rng, templates), phrases.NUMBERS[len(f.heard_kinds)], (), listen(f)


def _pair(f: Facts, performers, key, least: float) -> tuple[Performer, Performer] | None:
    """Two of different kinds, in any order, whose ratio of values is clear."""
    options = [
        (p, q)
        for p in performers
        for q in performers
        if p.kind != q.kind and max(key(p), key(q)) >= least * min(key(p), key(q))
    ]
    return f.one(options)


def _louder(f: Facts) -> Found:
    if (pair := _pair(f, f.heard, lambda p: p.loudness, 1.5)) is None:
        return None
    p, q = pair
    loud, soft = (p, q) if p.loudness > q.loudness else (q, p)
    text = f"Is the {called(p.kind)} louder than the {called(q.kind)}?"
    # Down the list, until somebody is asked about.
    louder = f.loudest_first[: f.loudest_first.index(loud.kind)]
    steps = [f"The {phrases.noun(kind)} is not one of the two." for kind in louder]
    f.rng.integers(2)  # there were two wordings once; so seeds keep their questions
    last = f"The {called(loud.kind)} is louder than the {called(soft.kind)}."
    why = " ".join((*steps, f"The {phrases.noun(loud.kind)} is one of the two.", last, the_one(p.kind, loud.kind)))
    return text, _yes(loud is p), (p.kind, q.kind), f"{listen(f)} {why}"


def _longer(f: Facts) -> Found:
    if (pair := _pair(f, f.heard, length, 1.3)) is None:
        return None
    p, q = pair
    text = f"Is the {called(p.kind)} playing longer than the {called(q.kind)}?"
    why = f"{when(f, p, q)} {plays_longer(p, q)} {the_one(p.kind, max(p, q, key=length).kind)}"
    return text, _yes(length(p) > length(q)), (p.kind, q.kind), why


def _is_seen(f: Facts) -> Found:
    if (kind := _fair(f, f.seen_kinds, f.heard_kinds)) is None:
        return None
    text = phrases.say(
        f.rng, ("Is there a {x} in the entire video?", "Does a {x} appear in the video?"), x=called(kind)
    )
    return text, _yes(kind in f.seen_kinds), (kind,), f"{look(f)} {among(kind, f.seen_kinds)}"


def _are_both_seen(f: Facts) -> Found:
    if f.coin() and len(f.seen_kinds) >= 2:
        pair = f.rng.choice(f.seen_kinds, 2, replace=False).tolist()
    else:
        missing = [p.kind for p in f.hidden if p.kind not in f.seen_kinds] or f.absent
        pair = [f.one(f.seen_kinds), f.one(missing)]
    if None in pair or pair[0] == pair[1]:
        return None
    if f.coin():
        pair.reverse()
    text = f"Are there {called(pair[0])} and {called(pair[1])} instruments in the video?"
    missing = [kind for kind in pair if kind not in f.seen_kinds]
    why = " ".join(among(kind, f.seen_kinds) for kind in pair)
    return text, _yes(not missing), tuple(pair), f"{look(f)} {why}"


def _how_many_seen(f: Facts) -> Found:
    text = "How many types of musical instruments appeared in the entire video?"
    kinds = [p.kind for p in f.seen]
    steps = (f"The {phrases.noun(k)} is {'no' if k in kinds[:n] else 'a'} new kind." for n, k in enumerate(kinds))
    return text, phrases.NUMBERS[len(f.seen_kinds)], (), f"{look(f)} {' '.join(steps)}".strip()


def _how_many_of(f: Facts) -> Found:
    twice = [k for k in f.seen_kinds if sum(p.kind == k for p in f.seen) > 1]
    kind = f.one(twice) if twice and f.coin() else f.one((*f.seen_kinds, f.one(f.absent) or f.seen_kinds[0]))
    count = sum(p.kind == kind for p in f.seen)
    why = " ".join(f"The {phrases.noun(p.kind)} is {'one' if p.kind == kind else 'not one'}." for p in f.seen)
    text = f"How many {called(kind)}s are in the entire video?"
    return text, phrases.NUMBERS[count], (kind,), f"{look(f)} {why}".strip()


def _where_is_it(f: Facts) -> Found:
    indoor = f.setting == "hall"
    why = f.notice(phrases.TAKES_PLACE[f.setting])
    return "Where is the performance?", "indoor" if indoor else "outdoor", (), why


def _at_the_end(f: Facts) -> Found:
    if len(f.seen) < 2:
        return None
    left = f.coin()
    p = f.seen[0 if left else -1]
    text = f"What kind of instrument is the {'leftmost' if left else 'rightmost'} instrument?"
    return text, called(p.kind), (), look(f)


def _beside(f: Facts) -> Found:
    pairs = [(p, q) for p, q in zip(f.seen, f.seen[1:]) if p.kind != q.kind]
    options = [(p, q, "left") for p, q in pairs if q in f.single] + [(q, p, "right") for p, q in pairs if p in f.single]
    if (found := f.one(options)) is None:
        return None
    p, beside, side = found
    text = f"What is the {side} instrument of the {called(beside.kind)}?"
    return text, called(p.kind), (beside.kind,), f"{look(f)} {next_to(side, beside, p)}"


def _always(f: Facts) -> Found:
    want = f.coin()
    p = f.one(q for q in f.seen if (length(q) == f.seconds) == want)
    if p is None:
        return None
    why = when(f, p) if p.heard else f.notice(phrases.PLAYS_NEVER, name=called(p.kind))
    return f"Is the {called(p.kind)} in the video always playing?", _yes(length(p) == f.seconds), (p.kind,), why


def _from_the_video(f: Facts) -> Found:
    if len(f.heard_kinds) != 1:
        return None
    return "Is this sound from the instrument in the video?", _yes(not f.hidden), (), together(f)


def _voice_over(f: Facts) -> Found:
    text = phrases.say(
        f.rng, ("Is there an instrument that is heard but not seen?", "Does a sound come from outside of the picture?")
    )
    return text, _yes(bool(f.hidden)), (), together(f)


def _how_many_sounding(f: Facts) -> Found:
    playing = [p.kind for p in f.seen if p.heard]
    text = phrases.say(
        f.rng,
        ("How many instruments are sounding in the video?", "How many of the instruments in the video are sounding?"),
    )
    return text, phrases.NUMBERS[len(playing)], (), on_stage(f)


def _how_many_silent(f: Facts) -> Found:
    silent = [p.kind for p in f.seen if not p.heard]
    text = "How many instruments in the video did not sound from beginning to end?"
    return text, phrases.NUMBERS[len(silent)], (), on_stage(f)


def _first(f: Facts) -> Performer | None:
    """The one seen that clearly starts first, or None."""
    playing = sorted((p for p in f.single if p.heard), key=lambda p: p.heard[0][0])
    starts = sorted(p.heard[0][0] for p in f.heard)
    alone = len(starts) == 1 or (len(starts) > 1 and starts[0] < starts[1])
    return playing[0] if playing and alone and playing[0].heard[0][0] == starts[0] else None


def _where_first(f: Facts) -> Found:
    p = _first(f)
    if p is None or (side := f.side(p)) is None:
        return None
    return "Where is the first sounding instrument?", side, (), f"{when(f, p)} {look(f)} {stands(f, p)}"


def _where_loudest(f: Facts) -> Found:
    playing = sorted((p for p in f.single if p.heard), key=lambda p: -p.loudness)
    if len(f.heard) < 2 or not playing or playing[0].loudness < max(p.loudness for p in f.heard):
        return None
    if (side := f.side(playing[0])) is None:
        return None
    f.rng.integers(2)  # as in `_louder`
    why = f"The {called(playing[0].kind)} is the loudest."
    return "Where is the loudest instrument?", side, (), f"{listen(f)} {why} {look(f)} {stands(f, playing[0])}"


def _beside_the_first(f: Facts) -> Found:
    p = _first(f)
    if p is None or len(f.seen) < 2:
        return None
    rank = f.seen.index(p)
    options = [("left", rank - 1)] * (rank > 0) + [("right", rank + 1)] * (rank + 1 < len(f.seen))
    side, other = f.one(options)
    text = f"What is the {side} instrument of the first sounding instrument?"
    return text, called(f.seen[other].kind), (), f"{when(f, p)} {look(f)} {next_to(side, p, f.seen[other])}"


def _first_from(f: Facts) -> Found:
    p = _first(f)
    if p is None or len(f.seen) < 2:
        return None
    side = f.side(p)
    asked = side if f.coin() and side in ("left", "right") else "left" if side != "left" else "right"
    text = f"Is the first sound coming from the {asked} instrument?"
    return text, _yes(side == asked), (), f"{when(f, p)} {look(f)} {stands(f, p)} {asked_about(asked)}"


def _ends(f: Facts) -> tuple[Performer, Performer] | None:
    """The leftmost and the rightmost, if both sound and differ in kind; in any order."""
    if len(f.seen) < 2 or f.seen[0].kind == f.seen[-1].kind or not (f.seen[0].heard and f.seen[-1].heard):
        return None
    ends = f.seen[0], f.seen[-1]
    return ends if f.coin() else ends[::-1]


def _louder_side(f: Facts) -> Found:
    if (ends := _ends(f)) is None:
        return None
    (p, q), (here, there) = ends, [f.side(e) for e in ends]
    loud = p if p.loudness > q.loudness else q
    why = f.notice(("the {x} is the louder one.", "louder is the {x}."), x=called(loud.kind))
    text = f"Is the instrument on the {here} louder than the instrument on the {there}?"
    return text, _yes(loud is p), (), f"{look(f)} {why} {stands(f, loud)} {asked_about(here)}"


def _longer_side(f: Facts) -> Found:
    if (ends := _ends(f)) is None or _pair(f, ends, length, 1.3) is None:
        return None
    (p, q), (here, there) = ends, [f.side(e) for e in ends]
    text = f"Is the instrument on the {here} playing longer than the instrument on the {there}?"
    why = f"{plays_longer(p, q)} {stands(f, max(p, q, key=length))} {asked_about(here)}"
    return text, _yes(length(p) > length(q)), (), f"{look(f)} {when(f, p, q)} {why}"


def _who_starts(f: Facts) -> Found:
    if (ends := _ends(f)) is None:
        return None
    starts = [p.heard[0][0] for p in ends]
    first = ends[int(starts[1] < starts[0])]
    answer = "simultaneously" if starts[0] == starts[1] else f.side(first)
    why = f"The {called(first.kind)} starts first. {stands(f, first)}"
    if starts[0] == starts[1]:
        why = "Both start at the same time."
    text = f"Which instrument starts first, the {f.side(ends[0])} one or the {f.side(ends[1])} one?"
    return text, str(answer), (), f"{look(f)} {when(f, *ends)} {why}"


def _comes_in(f: Facts) -> Found:
    ordered = sorted({p.kind: p for p in f.heard}.values(), key=lambda p: p.heard[0][0])
    starts = [p.heard[0][0] for p in ordered]
    if len(ordered) < 2 or len(set(starts)) < len(starts):
        return None
    last = f.coin()
    p = ordered[-1 if last else 0]
    text = f"What is the {'last' if last else 'first'} instrument that comes in?"
    return text, called(p.kind), (), when(f, *ordered)


def _after(f: Facts) -> Found:
    ordered = sorted((p for p in f.single if p.heard), key=lambda p: p.heard[0][0])
    starts = [p.heard[0][0] for p in ordered]
    if len(ordered) < 2 or len(set(starts)) < len(starts):
        return None
    k = int(f.rng.integers(len(ordered) - 1))
    p, q = ordered[k : k + 2]
    if f.coin():
        p, q, word = q, p, "before"
    else:
        word = "after"
    text = f"Which instrument in the video starts to sound right {word} the {called(p.kind)}?"
    return text, called(q.kind), (p.kind,), f"{look(f)} {when(f, p, q)}"


MAKERS: dict[tuple[str, str], tuple[Callable[[Facts], Found], ...]] = {
    ("Audio", "Counting"): (_sound_exists, _how_many_heard),
    ("Audio", "Comparative"): (_louder, _longer),
    ("Visual", "Counting"): (_is_seen, _are_both_seen, _how_many_seen, _how_many_of),
    ("Visual", "Location"): (_where_is_it, _at_the_end, _beside),
    ("Audio-Visual", "Existential"): (_always, _from_the_video, _voice_over),
    ("Audio-Visual", "Counting"): (_how_many_sounding, _how_many_silent),
    ("Audio-Visual", "Location"): (_where_first, _where_loudest, _beside_the_first, _first_from),
    ("Audio-Visual", "Comparative"): (_louder_side, _longer_side),
    ("Audio-Visual", "Temporal"): (_who_starts, _comes_in, _after),
}


def ask(rng: np.random.Generator, scene: Scene, count: int) -> Iterator[Question]:
    """So many questions of different types, the types in random order; then more of the types there are."""
    facts, asked = Facts(rng, scene), 0
    pending = {kind: rng.permutation(len(makers)).tolist() for kind, makers in MAKERS.items()}
    order = list(MAKERS)
    while asked < count and any(pending.values()):
        for k in rng.permutation(len(order)).tolist():
            kind = order[k]
            found = None
            while pending[kind] and found is None:
                maker = MAKERS[kind][pending[kind].pop()]
                facts.noticed.clear()
                found = maker(facts)
            if found is not None and asked < count:
                text, answer, slots, reasoning = found
                asked += 1
                noticed, template = tuple(facts.noticed), maker.__name__.strip("_")
                rest = functools.reduce(lambda said, part: said.replace(part, "\n"), noticed, reasoning)
                concluded = tuple(filter(None, map(str.strip, rest.split("\n"))))
                yield Question(kind, template, text, answer, slots, reasoning, noticed, concluded)
