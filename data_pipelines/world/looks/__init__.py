"""What every kind of performer looks like, and how it moves while it sounds.

A look is a function of a canvas and a pose. Coordinates are the performer's own: feet at the origin, y upwards, about
one unit high and wide; `Kind.wide` and `Kind.tall` say how far each reaches.
"""

from data_pipelines.world.looks.animals import bird, cat, dog, hen
from data_pipelines.world.looks.machines import car, clock, frying_food, helicopter, motorcycle, train
from data_pipelines.world.looks.pose import Pose
from data_pipelines.world.looks.strings import cello, guitar, ukulele, violin
from data_pipelines.world.looks.struck import bell, drum, marimba, piano
from data_pipelines.world.looks.winds import accordion, flute, saxophone, trumpet

__all__ = [
    "Pose", "accordion", "bell", "bird", "car", "cat", "cello", "clock", "dog", "drum", "flute", "frying_food",
    "guitar", "helicopter", "hen", "marimba", "motorcycle", "piano", "saxophone", "train", "trumpet", "ukulele",
    "violin",
]  # fmt: skip
