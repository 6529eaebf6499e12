"""The kinds of performers: each a look, a timbre, a way of playing, and its name in every vocabulary that has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from crab_jax.tasks.vocabulary import AVSS_CLASSES
from data_pipelines.world import looks
from data_pipelines.world.paint import Canvas
from data_pipelines.world.sound import Style, Timbre, harmonics


@dataclasses.dataclass(frozen=True)
class Kind:
    """A class of performers.

    Attributes:
        name: its name among the 71 classes of AVSS; every kind has one.
        names: its name in the other vocabularies ("avqa", "ave", "avvp"), where there is one.
        look: paints it in a pose.
        wide: twice its largest reach to a side in any pose, in its own units.
        tall: how high it reaches in any pose.
    """

    name: str
    names: Mapping[str, str]
    look: Callable[[Canvas, looks.Pose], None]
    timbre: Timbre
    style: Style
    wide: float
    tall: float

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
        Timbre(
            harmonics(1.0, 0.62, 0.48, 0.34, 0.22, 0.18, 0.12, 0.10, 0.06),
            attack_s=0.045,
            release_s=0.05,
            tremolo=(5.2, 0.14),
            noise=(0.02, 900, 4500, 9.0),
            spread=0.09,
        ),
        Style(-8, 8, (0.5, 0.5, 1.0), hold=0.80, voices=3),
        wide=0.90,
        tall=0.72,
    ),
    Kind(
        "bell",
        {"ave": "Church bell"},
        looks.bell,
        Timbre(
            (
                (0.5, 0.42),
                (1.0, 1.0),
                (1.19, 0.42),
                (1.5, 0.26),
                (2.0, 0.62),
                (2.66, 0.26),
                (3.01, 0.22),
                (4.1, 0.16),
                (5.4, 0.08),
            ),
            attack_s=0.003,
            decay_s=1.5,
            release_s=0.5,
            damping=0.55,
            noise=(0.25, 2500, 7500, 0.02),
        ),
        Style(2, 13, (1.0, 2.0, 1.0), hold=1.6),
        wide=1.02,
        tall=0.97,
    ),
    Kind(
        "bird",
        {},
        looks.bird,
        Timbre(
            harmonics(1.0, 0.10, 0.03),
            attack_s=0.012,
            decay_s=0.16,
            release_s=0.03,
            vibrato=(21.0, 0.9),
            glide=(-5.0, 0.05),
            noise=(0.015, 3000, 7000, 0.1),
        ),
        Style(30, 41, (0.25, 0.25, 0.5, 0.25, 0.75), hold=0.7),
        wide=0.86,
        tall=1.02,
    ),
    Kind(
        "drum",
        {"avqa": "drum"},
        looks.drum,
        Timbre(
            ((1.0, 1.0), (1.59, 0.45), (2.14, 0.28), (2.65, 0.16)),
            attack_s=0.002,
            decay_s=0.13,
            release_s=0.05,
            damping=0.6,
            glide=(9.0, 0.028),
            noise=(0.55, 900, 6500, 0.075),
        ),
        Style(-17, -9, (0.5, 0.5, 0.25, 1.0), hold=0.7),
        wide=0.95,
        tall=0.93,
    ),
    Kind(
        "flute",
        {"avqa": "flute", "ave": "Flute"},
        looks.flute,
        Timbre(
            harmonics(1.0, 0.30, 0.09, 0.03),
            attack_s=0.05,
            release_s=0.05,
            vibrato=(5.0, 0.16),
            tremolo=(5.0, 0.16),
            noise=(0.055, 1400, 5200, 3.0),
        ),
        Style(10, 26, (0.5, 0.5, 1.0, 1.5), hold=0.96),
        wide=1.04,
        tall=0.87,
    ),
    Kind(
        "guitar",
        {"avqa": "acoustic_guitar", "ave": "Acoustic guitar", "avvp": "Acoustic_guitar"},
        looks.guitar,
        Timbre(
            harmonics(1.0, 0.72, 0.50, 0.30, 0.24, 0.16, 0.10, 0.08, 0.05, 0.04),
            attack_s=0.003,
            decay_s=0.75,
            release_s=0.09,
            damping=0.32,
            noise=(0.12, 1500, 5000, 0.012),
        ),
        Style(-12, 12, (0.5,), hold=1.5, arpeggio=True),
        wide=0.62,
        tall=1.06,
    ),
    Kind(
        "trumpet",
        {"avqa": "trumpet"},
        looks.trumpet,
        Timbre(
            harmonics(0.85, 1.0, 0.95, 0.72, 0.55, 0.40, 0.28, 0.20, 0.13, 0.08, 0.05),
            attack_s=0.035,
            release_s=0.04,
            vibrato=(5.6, 0.13),
            glide=(-0.7, 0.03),
            noise=(0.02, 1200, 4000, 0.08),
        ),
        Style(2, 15, (0.5, 1.0, 0.5, 1.5), hold=0.86),
        wide=1.12,
        tall=0.87,
    ),
    Kind(
        "violin",
        {"avqa": "violin", "ave": "Violin, fiddle", "avvp": "Violin_fiddle"},
        looks.violin,
        Timbre(
            harmonics(1.0, 0.70, 0.58, 0.40, 0.42, 0.24, 0.17, 0.15, 0.10, 0.08, 0.05),
            attack_s=0.09,
            release_s=0.08,
            vibrato=(5.8, 0.24),
            noise=(0.025, 1800, 6000, 9.0),
        ),
        Style(3, 17, (1.0, 2.0, 1.0, 1.5), hold=1.02),
        wide=1.00,
        tall=1.06,
    ),
)

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _TABLE}
