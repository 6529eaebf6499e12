"""What a concert tells, and sentences about it, each of which follows from few others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from data_pipelines.world import phrases
from data_pipelines.world.casting import names_in
from data_pipelines.world.kinds import KINDS
from data_pipelines.world.stage import Performer, Scene


class Facts:
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


def called(kind: str) -> str:
    """What MUSIC-AVQA calls a kind."""
    return KINDS[kind].names["avqa"]


def row(kinds: Iterable[str]) -> str:
    """`a cat, a drum, a flute`."""
    return ", ".join(phrases.a(phrases.noun(kind)) for kind in kinds)


def listen(f: Facts) -> str:
    """The loudest first: who is louder than whom follows from the order."""
    sounds = ", ".join(KINDS[kind].sound for kind in f.loudest_first)
    return f.notice(phrases.HEARD if sounds else phrases.HEARD_NOTHING, sounds=sounds)


def look(f: Facts) -> str:
    """Without an `and` before the last one: to know whether two more come is harder than whether one does."""
    templates = (
        "from left to right there are {all}.",
        "I can see {all}, from left to right.",
        "the video shows {all} from left to right.",
        "on the stage, left to right: {all}.",
    )
    return f.notice(templates if f.seen else ("I see nobody.",), all=row(p.kind for p in f.seen))


def when(f: Facts, *performers: Performer) -> str:
    """One sentence for each of them, with the seconds from and to which it is heard."""
    return " ".join(
        f.notice(phrases.PLAYS, name=called(p.kind), times=phrases.times(p.heard)) for p in dict.fromkeys(performers)
    )


def one_by_one(kinds: Sequence[str], others: Sequence[str], sense: str) -> str:
    """Of each of them whether it is among the others: this can be looked up, how many have nobody there cannot."""
    return " ".join(f"The {phrases.noun(k)} {'can' if k in others else 'cannot'} be {sense}." for k in kinds)


def together(f: Facts) -> str:
    """What is seen, what is heard, and which of the sounds come from somebody who is seen."""
    noticed = f"{look(f)} {listen(f)}"
    return f"{noticed} {one_by_one(f.loudest_first, f.seen_kinds, 'seen')}".strip()


def on_stage(f: Facts) -> str:
    """What is seen, what is heard, and who of those on the stage is heard."""
    return f"{look(f)} {listen(f)} {one_by_one([p.kind for p in f.seen], f.heard_kinds, 'heard')}".strip()


def length(p: Performer) -> float:
    """Seconds that somebody is heard, altogether."""
    return sum(end - start for start, end in p.heard)


def among(kind: str, kinds: Sequence[str]) -> str:
    """Whether somebody is on the list that was just told."""
    return f"The {phrases.noun(kind)} is {'' if kind in kinds else 'not '}among them."


def stands(f: Facts, p: Performer) -> str:
    """At which side somebody stands."""
    side = f.side(p)
    return f"The {phrases.noun(p.kind)} is {phrases.ON[side] if side else 'in between'}."


def asked_about(side: str) -> str:
    """What a side is compared with stands beside it."""
    return f"Asked about is the {side} one."


def next_to(side: str, beside: Performer, p: Performer) -> str:
    """Who stands beside somebody."""
    return f"To the {side} of the {phrases.noun(beside.kind)} is the {phrases.noun(p.kind)}."


def plays_longer(p: Performer, q: Performer) -> str:
    """Which of two is heard longer."""
    longer, other = sorted((p, q), key=length, reverse=True)
    return f"The {called(longer.kind)} plays longer than the {called(other.kind)}."


def the_one(kind: str, found: str) -> str:
    """The one that was asked about first is compared with the one that was found, which stands beside it."""
    return f"The {phrases.noun(kind)} is {'' if kind == found else 'not '}the one."
