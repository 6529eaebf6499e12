"""Performers as painted patches: exactly where they stand, or, for speed, from a store of a few poses and sizes."""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Protocol

import numpy as np

from data_pipelines.world.looks import Pose
from data_pipelines.world.paint import Canvas

_RATIO = 1.06  # of neighbouring sizes in the store


class Painted(Protocol):
    """What can be painted: a kind of performer or a piece of scenery."""

    name: str
    wide: float
    tall: float

    def look(self, canvas: Canvas, pose: Pose) -> None:
        """Paints it once."""


@dataclasses.dataclass(frozen=True)
class Sprite:
    """A patch of a picture.

    Attributes:
        rgb: float32 [h w 3], already multiplied by alpha.
        alpha: float32 [h w].
        top, left: where it lies in the picture, in pixels; parts may lie outside.
        unit: pixels per unit of the look.
        feet: the row on which it stands.
    """

    rgb: np.ndarray
    alpha: np.ndarray
    top: int
    left: int
    unit: float
    feet: float


def painted(what: Painted, pose: Pose, *, unit: float, center_x: float, feet_y: float) -> Sprite:
    """Paints it afresh, exact to fractions of a pixel."""
    left, right = math.floor(center_x - what.wide / 2 * unit) - 1, math.ceil(center_x + what.wide / 2 * unit) + 1
    top, bottom = math.floor(feet_y - what.tall * unit) - 1, math.ceil(feet_y + 0.06 * unit) + 1
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32) + np.float32(0.5)
    canvas = Canvas((x - center_x) / unit, (feet_y - y) / unit, pixel=1 / unit)
    what.look(canvas, pose)
    return Sprite(canvas.rgb, canvas.alpha, top, left, unit, feet_y)


class SpriteStore:
    """Keeps what was painted. Sizes are rounded to 3 %, places to a pixel, movement to eight poses in two beats.

    What it gives does not depend on what it gave before: any order and any number of processes make the same pictures.

    Args:
        most: sprites kept; the one that was not used for longest goes first. One takes some 30 KB at 224 x 168.
    """

    def __init__(self, most: int = 4000):
        self.most = most
        self._kept: collections.OrderedDict[tuple, tuple[np.ndarray, np.ndarray, int, int]] = collections.OrderedDict()

    def take(self, what: Painted, pose: Pose, *, unit: float, center_x: float, feet_y: float) -> Sprite:
        """As `painted`, with everything rounded."""
        size, pose = round(math.log(unit) / math.log(_RATIO)), _rounded(pose)
        unit, key = _RATIO**size, (what.name, size, pose)
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            new = painted(what, pose, unit=unit, center_x=0.0, feet_y=0.0)
            self._kept[key] = _bytes(new.rgb), _bytes(new.alpha), new.top, new.left
            if len(self._kept) > self.most:
                self._kept.popitem(last=False)
        rgb, alpha, top, left = self._kept[key]
        row, column = round(feet_y), round(center_x)
        scale = np.float32(1 / 255)
        return Sprite(rgb * scale, alpha * scale, top + row, left + column, unit, float(row))


def _rounded(pose: Pose) -> Pose:
    if pose.level < 0.3:
        return Pose()
    phase = math.floor(4 * pose.beats + 1e-6) % 8
    return Pose(1.0, 0.85 if pose.hit > 0.35 else 0.08, phase / 4, phase)


def _bytes(values: np.ndarray) -> np.ndarray:
    return (values * 255 + 0.5).astype(np.uint8)
