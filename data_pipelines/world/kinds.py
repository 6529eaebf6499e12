"""The kinds of performers: each a look, a timbre, a way of playing, and its name in every vocabulary that has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from crab_jax.tasks.vocabulary import AVSS_CLASSES
from data_pipelines.world import looks
from data_pipelines.world.paint import Canvas
from data_pipelines.world.sound import Style, Timbre
from data_pipelines.world.voices import VOICES


@dataclasses.dataclass(frozen=True)
class Kind:
    """A class of performers.

    Attributes:
        name: its name among the 71 classes of AVSS; every kind has one.
        names: its name in the other vocabularies ("avqa", "ave", "avvp"), where there is one.
        look: paints it in a pose.
        wide: twice its largest reach to a side in any pose, in its own units.
        tall: how high it reaches in any pose.
        noun: what people call it.
        does: what it does while it sounds, in one verb.
        sound: its sound, as a phrase.
        about: what it is, as in a dictionary.
    """

    name: str
    names: Mapping[str, str]
    look: Callable[[Canvas, looks.Pose], None]
    wide: float
    tall: float
    noun: str
    does: str
    sound: str
    about: str

    @property
    def timbre(self) -> Timbre:
        """How its notes sound."""
        return VOICES[self.name][0]

    @property
    def style(self) -> Style:
        """What it plays."""
        return VOICES[self.name][1]

    @property
    def label(self) -> int:
        """Its class in a semantic mask."""
        return AVSS_CLASSES.index(self.name)

    def called(self, task: str) -> str:
        """The name a task uses, or the plain one where its vocabulary has none."""
        return self.names.get(task, self.name)


_TABLE = (
    Kind(
        "accordion",
        {"avqa": "accordion", "ave": "Accordion", "avvp": "Accordion"},
        looks.accordion,
        0.9,
        0.72,
        "accordion",
        "plays",
        "an accordion",
        "a bellows instrument with keys on one side and buttons on the other",
    ),
    Kind(
        "bell",
        {"ave": "Church bell"},
        looks.bell,
        1.02,
        0.97,
        "bell",
        "rings",
        "the ringing of a bell",
        "a bronze bell that swings in a wooden frame",
    ),
    Kind("bird", {}, looks.bird, 0.86, 1.02, "bird", "sings", "birdsong", "a small feathered animal that sings"),
    Kind(
        "car",
        {"avvp": "Car"},
        looks.car,
        1.3,
        0.62,
        "car",
        "honks",
        "the honking of a car",
        "a road vehicle with four wheels",
    ),
    Kind(
        "cat",
        {"ave": "Cat", "avvp": "Cat"},
        looks.cat,
        1.12,
        0.98,
        "cat",
        "mews",
        "the mewing of a cat",
        "a domestic animal with whiskers that mews",
    ),
    Kind(
        "cello",
        {"avqa": "cello", "avvp": "Cello"},
        looks.cello,
        1.3,
        1.14,
        "cello",
        "plays",
        "a cello",
        "a large bowed instrument that stands on a pin",
    ),
    Kind(
        "clock",
        {"ave": "Clock"},
        looks.clock,
        0.86,
        0.98,
        "clock",
        "ticks",
        "the ticking of a clock",
        "a device with hands and a dial that shows the time",
    ),
    Kind(
        "dog",
        {"ave": "Bark", "avvp": "Dog"},
        looks.dog,
        1.2,
        1.04,
        "dog",
        "barks",
        "the barking of a dog",
        "a domestic animal that barks",
    ),
    Kind(
        "drum",
        {"avqa": "drum"},
        looks.drum,
        0.95,
        0.93,
        "drum",
        "beats",
        "the beat of a drum",
        "a round instrument whose skin is struck with sticks",
    ),
    Kind(
        "flute",
        {"avqa": "flute", "ave": "Flute"},
        looks.flute,
        1.04,
        0.87,
        "flute",
        "plays",
        "a flute",
        "a slender silver wind instrument",
    ),
    Kind(
        "frying-food",
        {"ave": "Frying (food)", "avvp": "Frying_(food)"},
        looks.frying_food,
        1.24,
        0.78,
        "frying pan",
        "sizzles",
        "the sizzling of a frying pan",
        "a pan in which food is fried",
    ),
    Kind(
        "guitar",
        {"avqa": "acoustic_guitar", "ave": "Acoustic guitar", "avvp": "Acoustic_guitar"},
        looks.guitar,
        0.62,
        1.06,
        "guitar",
        "plays",
        "a guitar",
        "a wooden instrument with six strings that are plucked",
    ),
    Kind(
        "helicopter",
        {"ave": "Helicopter", "avvp": "Helicopter"},
        looks.helicopter,
        1.36,
        0.8,
        "helicopter",
        "roars",
        "the chopping of a helicopter",
        "an aircraft that is lifted by a rotor",
    ),
    Kind(
        "hen",
        {"avvp": "Chicken_rooster"},
        looks.hen,
        1.06,
        0.98,
        "hen",
        "clucks",
        "the clucking of a hen",
        "a domestic bird with a red comb",
    ),
    Kind(
        "marimba",
        {"avqa": "xylophone"},
        looks.marimba,
        0.96,
        0.98,
        "xylophone",
        "plays",
        "a xylophone",
        "a row of coloured bars that are struck with mallets",
    ),
    Kind(
        "motorcycle",
        {"ave": "Motorcycle", "avvp": "Motorcycle"},
        looks.motorcycle,
        1.26,
        0.7,
        "motorcycle",
        "rumbles",
        "the rumble of a motorcycle",
        "a motor vehicle with two wheels",
    ),
    Kind(
        "piano",
        {"avqa": "piano"},
        looks.piano,
        1.0,
        1.04,
        "piano",
        "plays",
        "a piano",
        "a large instrument with black and white keys",
    ),
    Kind(
        "saxophone",
        {"avqa": "saxophone"},
        looks.saxophone,
        1.1,
        1.06,
        "saxophone",
        "plays",
        "a saxophone",
        "a curved metal wind instrument with a reed",
    ),
    Kind(
        "train",
        {"ave": "Train horn"},
        looks.train,
        1.42,
        1.08,
        "train",
        "whistles",
        "the horn of a train",
        "a steam engine on wheels",
    ),
    Kind(
        "trumpet",
        {"avqa": "trumpet"},
        looks.trumpet,
        1.12,
        0.87,
        "trumpet",
        "plays",
        "a trumpet",
        "a brass wind instrument with three valves",
    ),
    Kind(
        "ukulele",
        {"avqa": "ukulele", "ave": "Ukulele"},
        looks.ukulele,
        0.86,
        1.04,
        "ukulele",
        "plays",
        "a ukulele",
        "a small guitar with four strings",
    ),
    Kind(
        "violin",
        {"avqa": "violin", "ave": "Violin, fiddle", "avvp": "Violin_fiddle"},
        looks.violin,
        1.0,
        1.06,
        "violin",
        "plays",
        "a violin",
        "a small bowed instrument with four strings",
    ),
)

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _TABLE}
