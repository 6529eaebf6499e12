"""How a performer holds itself, and what several looks share."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from data_pipelines.world.paint import Canvas, rod


@dataclasses.dataclass(frozen=True)
class Pose:
    """One moment of a performer.

    Attributes:
        level: 0 while silent, 1 while it sounds, with short ramps between them.
        hit: 1 at the start of a note, fading within a fifth of a second.
        beats: musical time, counted in beats.
        count: how many notes have started, so that left and right hands can take turns.
    """

    level: float = 0.0
    hit: float = 0.0
    beats: float = 0.0
    count: int = 0

    def sway(self, per_beat: float = 0.5) -> float:
        """A smooth swing between -1 and 1 in time with the music; at rest while silent."""
        return self.level * math.sin(2 * math.pi * per_beat * self.beats)


INK = (0.10, 0.08, 0.09)
STEEL = (0.80, 0.83, 0.88)


def stand(canvas: Canvas, height: float, *, colour=(0.20, 0.21, 0.25)):
    """A slim stand on three feet."""
    x, y = canvas.x, canvas.y
    canvas.paint(rod(np.abs(x), y, (0, 0.14), (0.15, 0.012), 0.012), colour, round=0.012, shine=0.3)
    canvas.paint(rod(x, y, (0, 0.012), (0, height), 0.013), colour, round=0.013, shine=0.4)
