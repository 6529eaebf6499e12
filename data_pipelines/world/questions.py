"""Questions of the nine types of MUSIC-AVQA about a concert, and what leads to each answer."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from data_pipelines.world import phrases
from data_pipelines.world.casting import names_in
from data_pipelines.world.kinds import KINDS
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


class _Facts:
    """A concert as the questions see it."""

    def __init__(self, rng: np.random.Generator, scene: Scene):
        self.rng, self.setting, self.seconds = rng, scene.setting, scene.duration_s
        self.seen = [p for p in scene.performers if p.seen]  # from left to right
        self.hidden = [p for p in scene.performers if not p.seen]
        self.heard = [p for p in scene.performers if p.heard]
        self.heard_kinds = list(dict.fromkeys(p.kind for p in self.heard))
        loudness = {p.kind: p.loudness for p in self.heard}
        self.loudest_first = sorted(self.heard_kinds, key=lambda kind: -loudness[kind])
        self.seen_kinds = list(dict.fromkeys(p.kind for p in self.seen))
        present = {p.kind for p in scene.performers}
        self.absent = [name for name in names_in("avqa") if name not in present]
        self.single = [p for p in self.seen if sum(p.kind == q.kind for q in self.seen) == 1]
        self.noticed: list[str] = []

    def notice(self, templates: Sequence[str], **slots: object) -> str:
        """A sentence that nobody can know who has not looked or listened."""
        self.noticed.append(phrases.say(self.rng, templates, **slots))
        return self.noticed[-1]

    def one(self, options):
        """One of the options, or None if there are none."""
        options = list(options)
        return options[int(self.rng.integers(len(options)))] if options else None

    def coin(self) -> bool:
        return bool(self.rng.random() < 0.5)

    def side(self, p: Performer) -> str | None:
        """Where somebody stands among those seen; None between the middle and an end."""
        rank, count = self.seen.index(p), len(self.seen)
        if count == 1:
            return (
                "left" if p.place < 0.28 else "right" if p.place > 0.72 else "middle" if 0.4 < p.place < 0.6 else None
            )
        return {0: "left", count - 1: "right"}.get(rank, "middle" if 2 * rank == count - 1 else None)


Found = tuple[str, str, tuple[str, ...], str] | None  # question, answer, slots, reasoning


def _name(kind: str) -> str:
    return KINDS[kind].names["avqa"]


def _called(kinds) -> str:
    return phrases.listing([_name(kind) for kind in kinds])


def _row(kinds: Iterable[str]) -> str:
    """`a cat, a drum, a flute`."""
    return ", ".join(phrases.a(phrases.noun(kind)) for kind in kinds)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _listen(f: _Facts) -> str:
    """The loudest first: who is louder than whom follows from the order."""
    sounds = ", ".join(KINDS[kind].sound for kind in f.loudest_first)
    return f.notice(phrases.HEARD if sounds else phrases.HEARD_NOTHING, sounds=sounds)


def _look(f: _Facts) -> str:
    """Without an `and` before the last one: to know whether two more come is harder than whether one does."""
    templates = (
        "from left to right there are {all}.",
        "I can see {all}, from left to right.",
        "the video shows {all} from left to right.",
        "on the stage, left to right: {all}.",
    )
    return f.notice(templates if f.seen else ("I see nobody.",), all=_row(p.kind for p in f.seen))


def _when(f: _Facts, *performers: Performer) -> str:
    templates = ("the {name} sounds {times}.", "the {name} is heard {times}.", "I hear the {name} {times}.")
    return " ".join(
        f.notice(templates, name=_name(p.kind), times=phrases.times(p.heard)) for p in dict.fromkeys(performers)
    )


def _one_by_one(kinds: Sequence[str], others: Sequence[str], sense: str) -> str:
    """Of each of them whether it is among the others: this can be looked up, how many have nobody there cannot."""
    return " ".join(f"The {phrases.noun(k)} {'can' if k in others else 'cannot'} be {sense}." for k in kinds)


def _together(f: _Facts) -> str:
    """What is seen, what is heard, and which of the sounds come from somebody who is seen."""
    noticed = f"{_look(f)} {_listen(f)}"
    return f"{noticed} {_one_by_one(f.loudest_first, f.seen_kinds, 'seen')}".strip()


def _on_stage(f: _Facts) -> str:
    """What is seen, what is heard, and who of those on the stage is heard."""
    return f"{_look(f)} {_listen(f)} {_one_by_one([p.kind for p in f.seen], f.heard_kinds, 'heard')}".strip()


def _fair(f: _Facts, wanted: list[str], other: list[str]) -> str | None:
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


def _sound_exists(f: _Facts) -> Found:
    if (kind := _fair(f, f.heard_kinds, f.seen_kinds)) is None:
        return None
    text = phrases.say(f.rng, ("Is there a {x} sound?", "Can a {x} be heard?"), x=_name(kind))
    return text, _yes(kind in f.heard_kinds), (kind,), f"{_listen(f)} {_among(kind, f.heard_kinds)}"


def _how_many_heard(f: _Facts) -> Found:
    templates = (
        "How many types of musical instruments were heard throughout the video?",
        "How many kinds of instruments can be heard?",
    )
    return phrases.say(f.rng, templates), phrases.NUMBERS[len(f.heard_kinds)], (), _listen(f)


def _pair(f: _Facts, performers, key, least: float) -> tuple[Performer, Performer] | None:
    """Two of different kinds, in any order, whose ratio of values is clear."""
    options = [
        (p, q)
        for p in performers
        for q in performers
        if p.kind != q.kind and max(key(p), key(q)) >= least * min(key(p), key(q))
    ]
    return f.one(options)


def _length(p: Performer) -> float:
    return sum(end - start for start, end in p.heard)


def _among(kind: str, kinds: Sequence[str]) -> str:
    return f"The {phrases.noun(kind)} is {'' if kind in kinds else 'not '}among them."


def _stands(f: _Facts, p: Performer) -> str:
    side = f.side(p)
    return f"The {phrases.noun(p.kind)} is {phrases.ON[side] if side else 'in between'}."


def _asked(side: str) -> str:
    """What a side is compared with stands beside it."""
    return f"Asked about is the {side} one."


def _next_to(side: str, beside: Performer, p: Performer) -> str:
    return f"To the {side} of the {phrases.noun(beside.kind)} is the {phrases.noun(p.kind)}."


def _plays_longer(p: Performer, q: Performer) -> str:
    longer, other = sorted((p, q), key=_length, reverse=True)
    return f"The {_name(longer.kind)} plays longer than the {_name(other.kind)}."


def _the_one(kind: str, found: str) -> str:
    """The one that was asked about first is compared with the one that was found, which stands beside it."""
    return f"The {phrases.noun(kind)} is {'' if kind == found else 'not '}the one."


def _louder(f: _Facts) -> Found:
    if (pair := _pair(f, f.heard, lambda p: p.loudness, 1.5)) is None:
        return None
    p, q = pair
    loud, soft = (p, q) if p.loudness > q.loudness else (q, p)
    text = f"Is the {_name(p.kind)} louder than the {_name(q.kind)}?"
    # Down the list, until somebody is asked about.
    louder = f.loudest_first[: f.loudest_first.index(loud.kind)]
    steps = [f"The {phrases.noun(kind)} is not one of the two." for kind in louder]
    f.rng.integers(2)  # there were two wordings once; so seeds keep their questions
    last = f"The {_name(loud.kind)} is louder than the {_name(soft.kind)}."
    why = " ".join((*steps, f"The {phrases.noun(loud.kind)} is one of the two.", last, _the_one(p.kind, loud.kind)))
    return text, _yes(loud is p), (p.kind, q.kind), f"{_listen(f)} {why}"


def _longer(f: _Facts) -> Found:
    if (pair := _pair(f, f.heard, _length, 1.3)) is None:
        return None
    p, q = pair
    text = f"Is the {_name(p.kind)} playing longer than the {_name(q.kind)}?"
    why = f"{_when(f, p, q)} {_plays_longer(p, q)} {_the_one(p.kind, max(p, q, key=_length).kind)}"
    return text, _yes(_length(p) > _length(q)), (p.kind, q.kind), why


def _is_seen(f: _Facts) -> Found:
    if (kind := _fair(f, f.seen_kinds, f.heard_kinds)) is None:
        return None
    text = phrases.say(f.rng, ("Is there a {x} in the entire video?", "Does a {x} appear in the video?"), x=_name(kind))
    return text, _yes(kind in f.seen_kinds), (kind,), f"{_look(f)} {_among(kind, f.seen_kinds)}"


def _are_both_seen(f: _Facts) -> Found:
    if f.coin() and len(f.seen_kinds) >= 2:
        pair = f.rng.choice(f.seen_kinds, 2, replace=False).tolist()
    else:
        missing = [p.kind for p in f.hidden if p.kind not in f.seen_kinds] or f.absent
        pair = [f.one(f.seen_kinds), f.one(missing)]
    if None in pair or pair[0] == pair[1]:
        return None
    if f.coin():
        pair.reverse()
    text = f"Are there {_name(pair[0])} and {_name(pair[1])} instruments in the video?"
    missing = [kind for kind in pair if kind not in f.seen_kinds]
    why = " ".join(_among(kind, f.seen_kinds) for kind in pair)
    return text, _yes(not missing), tuple(pair), f"{_look(f)} {why}"


def _how_many_seen(f: _Facts) -> Found:
    text = "How many types of musical instruments appeared in the entire video?"
    kinds = [p.kind for p in f.seen]
    steps = (f"The {phrases.noun(k)} is {'no' if k in kinds[:n] else 'a'} new kind." for n, k in enumerate(kinds))
    return text, phrases.NUMBERS[len(f.seen_kinds)], (), f"{_look(f)} {' '.join(steps)}".strip()


def _how_many_of(f: _Facts) -> Found:
    twice = [k for k in f.seen_kinds if sum(p.kind == k for p in f.seen) > 1]
    kind = f.one(twice) if twice and f.coin() else f.one((*f.seen_kinds, f.one(f.absent) or f.seen_kinds[0]))
    count = sum(p.kind == kind for p in f.seen)
    why = " ".join(f"The {phrases.noun(p.kind)} is {'one' if p.kind == kind else 'not one'}." for p in f.seen)
    text = f"How many {_name(kind)}s are in the entire video?"
    return text, phrases.NUMBERS[count], (kind,), f"{_look(f)} {why}".strip()


def _where_is_it(f: _Facts) -> Found:
    indoor = f.setting == "hall"
    why = f.notice([f"the performance takes place {w}." for w in phrases.SETTING[f.setting]])
    return "Where is the performance?", "indoor" if indoor else "outdoor", (), why


def _at_the_end(f: _Facts) -> Found:
    if len(f.seen) < 2:
        return None
    left = f.coin()
    p = f.seen[0 if left else -1]
    text = f"What kind of instrument is the {'leftmost' if left else 'rightmost'} instrument?"
    return text, _name(p.kind), (), _look(f)


def _beside(f: _Facts) -> Found:
    pairs = [(p, q) for p, q in zip(f.seen, f.seen[1:]) if p.kind != q.kind]
    options = [(p, q, "left") for p, q in pairs if q in f.single] + [(q, p, "right") for p, q in pairs if p in f.single]
    if (found := f.one(options)) is None:
        return None
    p, beside, side = found
    text = f"What is the {side} instrument of the {_name(beside.kind)}?"
    return text, _name(p.kind), (beside.kind,), f"{_look(f)} {_next_to(side, beside, p)}"


def _always(f: _Facts) -> Found:
    want = f.coin()
    p = f.one(q for q in f.seen if (_length(q) == f.seconds) == want)
    if p is None:
        return None
    why = _when(f, p) if p.heard else f.notice(("the {x} makes no sound.", "I never hear the {x}."), x=_name(p.kind))
    return f"Is the {_name(p.kind)} in the video always playing?", _yes(_length(p) == f.seconds), (p.kind,), why


def _from_the_video(f: _Facts) -> Found:
    if len(f.heard_kinds) != 1:
        return None
    return "Is this sound from the instrument in the video?", _yes(not f.hidden), (), _together(f)


def _voice_over(f: _Facts) -> Found:
    text = phrases.say(
        f.rng, ("Is there an instrument that is heard but not seen?", "Does a sound come from outside of the picture?")
    )
    return text, _yes(bool(f.hidden)), (), _together(f)


def _how_many_sounding(f: _Facts) -> Found:
    playing = [p.kind for p in f.seen if p.heard]
    text = phrases.say(
        f.rng,
        ("How many instruments are sounding in the video?", "How many of the instruments in the video are sounding?"),
    )
    return text, phrases.NUMBERS[len(playing)], (), _on_stage(f)


def _how_many_silent(f: _Facts) -> Found:
    silent = [p.kind for p in f.seen if not p.heard]
    text = "How many instruments in the video did not sound from beginning to end?"
    return text, phrases.NUMBERS[len(silent)], (), _on_stage(f)


def _first(f: _Facts) -> Performer | None:
    """The one seen that clearly starts first, or None."""
    playing = sorted((p for p in f.single if p.heard), key=lambda p: p.heard[0][0])
    starts = sorted(p.heard[0][0] for p in f.heard)
    alone = len(starts) == 1 or (len(starts) > 1 and starts[0] < starts[1])
    return playing[0] if playing and alone and playing[0].heard[0][0] == starts[0] else None


def _where_first(f: _Facts) -> Found:
    p = _first(f)
    if p is None or (side := f.side(p)) is None:
        return None
    return "Where is the first sounding instrument?", side, (), f"{_when(f, p)} {_look(f)} {_stands(f, p)}"


def _where_loudest(f: _Facts) -> Found:
    playing = sorted((p for p in f.single if p.heard), key=lambda p: -p.loudness)
    if len(f.heard) < 2 or not playing or playing[0].loudness < max(p.loudness for p in f.heard):
        return None
    if (side := f.side(playing[0])) is None:
        return None
    f.rng.integers(2)  # as in `_louder`
    why = f"The {_name(playing[0].kind)} is the loudest."
    return "Where is the loudest instrument?", side, (), f"{_listen(f)} {why} {_look(f)} {_stands(f, playing[0])}"


def _beside_the_first(f: _Facts) -> Found:
    p = _first(f)
    if p is None or len(f.seen) < 2:
        return None
    rank = f.seen.index(p)
    options = [("left", rank - 1)] * (rank > 0) + [("right", rank + 1)] * (rank + 1 < len(f.seen))
    side, other = f.one(options)
    text = f"What is the {side} instrument of the first sounding instrument?"
    return text, _name(f.seen[other].kind), (), f"{_when(f, p)} {_look(f)} {_next_to(side, p, f.seen[other])}"


def _first_from(f: _Facts) -> Found:
    p = _first(f)
    if p is None or len(f.seen) < 2:
        return None
    side = f.side(p)
    asked = side if f.coin() and side in ("left", "right") else "left" if side != "left" else "right"
    text = f"Is the first sound coming from the {asked} instrument?"
    return text, _yes(side == asked), (), f"{_when(f, p)} {_look(f)} {_stands(f, p)} {_asked(asked)}"


def _ends(f: _Facts) -> tuple[Performer, Performer] | None:
    """The leftmost and the rightmost, if both sound and differ in kind; in any order."""
    if len(f.seen) < 2 or f.seen[0].kind == f.seen[-1].kind or not (f.seen[0].heard and f.seen[-1].heard):
        return None
    ends = f.seen[0], f.seen[-1]
    return ends if f.coin() else ends[::-1]


def _louder_side(f: _Facts) -> Found:
    if (ends := _ends(f)) is None:
        return None
    (p, q), (here, there) = ends, [f.side(e) for e in ends]
    loud = p if p.loudness > q.loudness else q
    why = f.notice(("the {x} is the louder one.", "louder is the {x}."), x=_name(loud.kind))
    text = f"Is the instrument on the {here} louder than the instrument on the {there}?"
    return text, _yes(loud is p), (), f"{_look(f)} {why} {_stands(f, loud)} {_asked(here)}"


def _longer_side(f: _Facts) -> Found:
    if (ends := _ends(f)) is None or _pair(f, ends, _length, 1.3) is None:
        return None
    (p, q), (here, there) = ends, [f.side(e) for e in ends]
    text = f"Is the instrument on the {here} playing longer than the instrument on the {there}?"
    why = f"{_plays_longer(p, q)} {_stands(f, max(p, q, key=_length))} {_asked(here)}"
    return text, _yes(_length(p) > _length(q)), (), f"{_look(f)} {_when(f, p, q)} {why}"


def _who_starts(f: _Facts) -> Found:
    if (ends := _ends(f)) is None:
        return None
    starts = [p.heard[0][0] for p in ends]
    first = ends[int(starts[1] < starts[0])]
    answer = "simultaneously" if starts[0] == starts[1] else f.side(first)
    why = f"The {_name(first.kind)} starts first. {_stands(f, first)}"
    if starts[0] == starts[1]:
        why = "Both start at the same time."
    text = f"Which instrument starts first, the {f.side(ends[0])} one or the {f.side(ends[1])} one?"
    return text, str(answer), (), f"{_look(f)} {_when(f, *ends)} {why}"


def _comes_in(f: _Facts) -> Found:
    ordered = sorted({p.kind: p for p in f.heard}.values(), key=lambda p: p.heard[0][0])
    starts = [p.heard[0][0] for p in ordered]
    if len(ordered) < 2 or len(set(starts)) < len(starts):
        return None
    last = f.coin()
    p = ordered[-1 if last else 0]
    text = f"What is the {'last' if last else 'first'} instrument that comes in?"
    return text, _name(p.kind), (), _when(f, *ordered)


def _after(f: _Facts) -> Found:
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
    text = f"Which instrument in the video starts to sound right {word} the {_name(p.kind)}?"
    return text, _name(q.kind), (p.kind,), f"{_look(f)} {_when(f, p, q)}"


MAKERS: dict[tuple[str, str], tuple[Callable[[_Facts], Found], ...]] = {
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
    facts, asked = _Facts(rng, scene), 0
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
