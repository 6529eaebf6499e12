"""Sentences about scenes, worded in many ways."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipelines.world.kinds import KINDS

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def say(rng: np.random.Generator, templates: Sequence[str], **slots: object) -> str:
    """One of the templates, filled; it begins with a capital letter."""
    return capital(one(rng, templates).format(**slots))


def capital(text: str) -> str:
    """The text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def one(rng: np.random.Generator, templates: Sequence[str]) -> str:
    """One of the templates."""
    return templates[int(rng.integers(len(templates)))]


def a(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def noun(kind: str) -> str:
    """What people call a kind."""
    return KINDS[kind].noun


def listing(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    parts = list(parts)
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 2 else parts)


def things(kinds: Sequence[str]) -> str:
    """`a cat and a drum`."""
    return listing([a(noun(kind)) for kind in kinds])


def the(kinds: Sequence[str]) -> str:
    """`the cat and the drum`."""
    return listing([f"the {noun(kind)}" for kind in kinds])


def sounds(kinds: Sequence[str]) -> str:
    """`meowing and the beat of a drum`."""
    return listing([KINDS[kind].sound for kind in kinds])


def times(spans: Sequence[Sequence[float]]) -> str:
    """`from 2 to 5 and from 7 to 10 seconds`."""
    return listing([f"from {round(start)} to {round(end)}" for start, end in spans]) + " seconds"


ON = {"left": "on the left", "middle": "in the middle", "right": "on the right"}  # side → where
SETTING = {
    "hall": ("on a stage", "in a hall", "on a lit stage", "indoors", "in a concert hall"),
    "park": ("in a park", "on a meadow", "outdoors", "on the grass", "in the open air"),
}
TAKES_PLACE = {
    setting: [f"the performance takes place {where}." for where in some] for setting, some in SETTING.items()
}

SEEN = (
    "I can see {things}.",
    "the video shows {things}.",
    "{things} can be seen.",
    "in the picture there is {things}.",
    "visible: {things}.",
    "the frames show {things}.",
)
SEEN_NOTHING = ("nothing that could sound can be seen.", "the stage stays empty.", "I see nobody.")
HEARD = (
    "I hear {sounds}.",
    "the sound is {sounds}.",
    "{sounds} can be heard.",
    "in the audio there is {sounds}.",
    "audible: {sounds}.",
    "the audio contains {sounds}.",
)
HEARD_NOTHING = ("nothing is heard.", "the audio is silent.", "I hear nothing.")
PLAYS = ("the {name} sounds {times}.", "the {name} is heard {times}.", "I hear the {name} {times}.")
PLAYS_NEVER = ("the {name} makes no sound.", "I never hear the {name}.")


def seen(rng: np.random.Generator, kinds: Sequence[str]) -> str:
    """A sentence about who is on the stage."""
    return say(rng, SEEN, things=things(kinds)) if kinds else say(rng, SEEN_NOTHING)


def heard(rng: np.random.Generator, kinds: Sequence[str]) -> str:
    """A sentence about what is heard."""
    return say(rng, HEARD, sounds=sounds(kinds)) if kinds else say(rng, HEARD_NOTHING)
