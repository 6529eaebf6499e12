"""Things that stand about, are never heard and belong to no vocabulary: they distract and cover."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from data_pipelines.world.looks import Pose
from data_pipelines.world.paint import Canvas, box, disc, ellipse, grain, mix, ramp, ring, rod, turn


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of scenery; attributes as in `Kind`."""

    name: str
    look: Callable[[Canvas, Pose], None]
    wide: float
    tall: float


def _plant(canvas: Canvas, pose: Pose):
    """A palm in a clay pot."""
    x, y = canvas.x, canvas.y
    for k, lean in enumerate((-62, 58, -34, 36, -12, 14)):
        lx, ly = turn(x, y, -lean, about=(0, 0.26))
        leaf = np.maximum(ellipse(lx - 0.10, ly - 0.45, 0.15, 0.25), ellipse(lx + 0.10, ly - 0.45, 0.15, 0.25))
        green = mix((0.10, 0.34 + 0.05 * k, 0.16), (0.28, 0.58, 0.26), ramp(np.sin(55 * (ly + 0.5 * np.abs(lx))), 0, 1))
        canvas.paint(leaf, green, round=0.03, shine=0.1)
    pot = np.maximum(np.abs(x) - 0.10 - 0.14 * y, np.abs(y - 0.14) - 0.14)
    canvas.paint(pot, mix((0.66, 0.33, 0.22), (0.40, 0.18, 0.12), ramp(np.abs(x + 0.05), 0.02, 0.16)))
    canvas.paint(box(x, y - 0.275, 0.155, 0.024, 0.01), (0.72, 0.38, 0.26), round=0.02)


def _stool(canvas: Canvas, pose: Pose):
    """A three-legged stool."""
    x, y = canvas.x, canvas.y
    for lean in (-0.17, 0.02, 0.17):
        canvas.paint(rod(x, y, (lean, 0.01), (0.6 * lean, 0.37), 0.020), (0.40, 0.27, 0.17), round=0.02, shine=0.2)
    canvas.paint(rod(x, y, (-0.12, 0.15), (0.12, 0.15), 0.012), (0.36, 0.24, 0.15), round=0.012)
    wood = mix((0.62, 0.44, 0.27), (0.50, 0.33, 0.19), grain(y * 3, x, lines=40))
    canvas.paint(ellipse(x, y - 0.385, 0.19, 0.050), wood, round=0.03, shine=0.3)


def _crates(canvas: Canvas, pose: Pose):
    """Two wooden crates, one upon the other."""
    for at, turned, half in (((0.0, 0.155), 0, 0.155), ((0.03, 0.415), 5, 0.115)):
        x, y = turn(canvas.x - at[0], canvas.y - at[1], turned)
        wood = mix((0.58, 0.46, 0.32), (0.46, 0.35, 0.23), grain(y, x, lines=46))
        canvas.paint(box(x, y, half, half, 0.008), wood)
        slats = np.minimum(np.abs(np.abs(y) - half / 2.6) - 0.004, np.abs(np.abs(x) - half) - 0.020)
        canvas.paint(np.maximum(np.minimum(slats, ring(box(x, y, half, half), 0.040)), box(x, y, half, half)),
                     (0.36, 0.26, 0.17))  # fmt: skip
        canvas.paint(
            np.maximum(rod(x, y, (-half, -half), (half, half), 0.016), box(x, y, half, half)), (0.50, 0.39, 0.26)
        )


def _balloons(canvas: Canvas, pose: Pose):
    """Three balloons on strings, tied to a weight."""
    x, y = canvas.x, canvas.y
    canvas.paint(box(x, y - 0.035, 0.045, 0.035, 0.012), (0.30, 0.30, 0.36), round=0.03)
    spots = ((-0.12, 0.62, (0.86, 0.70, 0.26)), (0.13, 0.66, (0.42, 0.62, 0.50)), (0.0, 0.80, (0.66, 0.44, 0.62)))
    for at_x, at_y, _ in spots:
        canvas.paint(rod(x, y, (0, 0.06), (at_x, at_y - 0.11), 0.004), (0.82, 0.82, 0.84))
    for at_x, at_y, colour in spots:
        canvas.paint(ellipse(x - at_x, y - at_y, 0.105, 0.125), colour, round=0.10, shine=0.6)


def _lamp(canvas: Canvas, pose: Pose):
    """A floor lamp with a cloth shade."""
    x, y = canvas.x, canvas.y
    canvas.paint(ellipse(x, y - 0.02, 0.11, 0.025), (0.26, 0.24, 0.22), round=0.02, shine=0.3)
    canvas.paint(rod(x, y, (0, 0.03), (0, 0.70), 0.012), (0.42, 0.36, 0.26), round=0.012, shine=0.4)
    shade = np.maximum(np.abs(x) - 0.20 + 0.45 * (y - 0.66), np.abs(y - 0.78) - 0.12)
    canvas.paint(shade, mix((1.0, 0.93, 0.74), (0.84, 0.66, 0.42), ramp(np.abs(x), 0.0, 0.19)))
    canvas.paint(np.maximum(ring(np.abs(y - 0.78) - 0.12, 0.014), shade), (0.62, 0.44, 0.28))


def _screen(canvas: Canvas, pose: Pose):
    """A folding screen with painted discs."""
    x, y = canvas.x, canvas.y
    for k in (-1, 0, 1):
        panel = box(x - 0.235 * k, y - 0.37 - 0.012 * (k % 2), 0.112, 0.335, 0.01)
        tone = (0.72, 0.69, 0.62) if k % 2 else (0.80, 0.77, 0.70)
        canvas.paint(panel, tone, round=0.012)
        canvas.paint(ring(panel + 0.012, 0.012), (0.34, 0.26, 0.20))
        for j, at in enumerate((0.22, 0.40, 0.57)):
            radius = 0.030 + 0.018 * math.sin(2.0 * j + k)
            canvas.paint(disc(x - 0.235 * k - 0.02, y - at, radius), (0.50, 0.52, 0.54), opacity=0.8)


SCENERY: Mapping[str, Piece] = {
    piece.name: piece
    for piece in (
        Piece("plant", _plant, 0.96, 0.74),
        Piece("stool", _stool, 0.42, 0.46),
        Piece("crates", _crates, 0.36, 0.58),
        Piece("balloons", _balloons, 0.50, 0.95),
        Piece("lamp", _lamp, 0.56, 0.92),
        Piece("screen", _screen, 0.74, 0.76),
    )
}
