"""A park behind the performers: sky, clouds, hills, trees and grass, at some time of the day."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from data_pipelines.world.hall import HORIZON, Colour
from data_pipelines.world.paint import mix, ramp


@dataclasses.dataclass(frozen=True)
class Daylight:
    """Colours of the sky at its top and bottom, of far and near hills, of grass, and of the sun."""

    sky: tuple[Colour, Colour]
    far: Colour
    near: Colour
    grass: Colour
    sun: Colour


HOURS = (
    Daylight(
        ((0.30, 0.55, 0.86), (0.76, 0.88, 0.96)),
        (0.48, 0.62, 0.66),
        (0.26, 0.48, 0.34),
        (0.34, 0.58, 0.24),
        (1.0, 0.97, 0.82),
    ),
    Daylight(
        ((0.42, 0.40, 0.66), (0.99, 0.74, 0.52)),
        (0.58, 0.44, 0.52),
        (0.34, 0.36, 0.32),
        (0.46, 0.48, 0.22),
        (1.0, 0.86, 0.56),
    ),
    Daylight(
        ((0.62, 0.70, 0.78), (0.86, 0.88, 0.90)),
        (0.58, 0.66, 0.68),
        (0.36, 0.48, 0.42),
        (0.38, 0.52, 0.32),
        (0.95, 0.95, 0.92),
    ),
)


class Park:
    """An empty meadow of some size, painted once; only the camera and the shadows of clouds move.

    Attributes: as those of `Hall`.
    """

    glossy = 0.0
    murmur = 200.0, 3000.0

    def __init__(self, rng: np.random.Generator, *, width: int, height: int):
        self.width, self.height = width, height
        self.hour = HOURS[rng.integers(len(HOURS))]
        self.margin = math.ceil(0.05 * height) + 2
        self._phase = float(rng.uniform(0, 2 * np.pi))
        self._meadow = self._paint(rng)
        self.dither = (rng.random((height, width, 1), dtype=np.float32) - 0.5) / 255

    def picture(self, time_s: float, progress: float, *, drift: tuple[float, float]) -> np.ndarray:
        """The park at one moment; arguments and result as of `Hall.picture`."""
        at_x, at_y = (self.margin - 0.75 * d for d in drift)
        row, column = math.floor(at_y), math.floor(at_x)
        down, right = np.float32(at_y - row), np.float32(at_x - column)
        part = self._meadow[row : row + self.height + 1, column : column + self.width + 1]
        part = part[:-1] + (part[1:] - part[:-1]) * down
        picture = part[:, :-1] + (part[:, 1:] - part[:, :-1]) * right
        first = int(HORIZON * self.height)
        u = np.arange(self.width, dtype=np.float32) / self.height
        shade = 0.05 * np.sin(2.2 * u - 0.5 * time_s + self._phase) ** 2
        picture[first:] *= (1 - shade)[None, :, None]
        return picture

    def _paint(self, rng: np.random.Generator) -> np.ndarray:
        m, hour, half = self.margin, self.hour, self.width / self.height / 2
        y, x = np.mgrid[-m : self.height + m, -m : self.width + m].astype(np.float32) + np.float32(0.5)
        v, u = y / self.height, (x - self.width / 2) / self.height
        soft = 1.2 / self.height
        picture = mix(hour.sky[0], hour.sky[1], ramp(v, -0.05, HORIZON))
        sun_u, sun_v = float(rng.uniform(-0.8, 0.8)) * half, float(rng.uniform(0.10, 0.26))
        away = (u - sun_u) ** 2 + (v - sun_v) ** 2
        picture += (0.45 * np.exp(-away / 0.05))[..., None] * np.array(hour.sun, np.float32)
        picture = mix(picture, hour.sun, 1 - ramp(np.sqrt(away), 0.040 - soft, 0.040 + soft))
        for _ in range(int(rng.integers(3, 6))):
            at_u, at_v, size = rng.uniform((-half, 0.06, 0.10), (half, 0.30, 0.22)).tolist()
            for k in range(4):
                puff_u, puff_v = at_u + (k - 1.5) * 0.5 * size, at_v - 0.12 * size * math.sin(k * 1.1 + 0.4)
                puff = ((u - puff_u) / (0.45 * size)) ** 2 + ((v - puff_v) / (0.20 * size)) ** 2
                picture = mix(picture, (0.99, 0.98, 0.97), 0.55 * (1 - ramp(puff, 0.45, 1.1)))
        for colour, base, reach, waves in ((hour.far, 0.50, 0.055, 2.2), (hour.near, 0.585, 0.040, 3.7)):
            phases = rng.uniform(0, 2 * np.pi, 2)
            line = base - reach * np.sin(waves * u + phases[0]) - 0.4 * reach * np.sin(2.6 * waves * u + phases[1])
            tone = mix(colour, np.array(colour) * 0.72, ramp(v - line, 0, 0.16))
            picture = mix(picture, tone, ramp(v, line - soft, line + soft))
        for at in np.sort(rng.uniform(-1.05 * half, 1.05 * half, 7)).tolist():
            picture = self._tree(picture, u - at, v, float(rng.uniform(0.055, 0.10)), soft)
        return self._grass(picture, u, v, soft, rng)

    def _tree(self, picture, u, v, size: float, soft: float):
        base = HORIZON - 0.005
        trunk = (np.abs(u) < 0.09 * size) & (v > base - 1.1 * size) & (v < base)
        picture = mix(picture, (0.28, 0.20, 0.15), trunk.astype(np.float32))
        crown = np.sqrt((u / (0.62 * size)) ** 2 + ((v - base + 1.55 * size) / (0.95 * size)) ** 2)
        green = np.array(self.hour.near, np.float32)
        tone = mix(green * 0.95, green * 0.55, ramp(u / size + (v - base) / size + 1.55, -0.5, 0.9))
        return mix(picture, tone, 1 - ramp(crown, 1 - 2 * soft / size, 1 + 2 * soft / size))

    def _grass(self, picture, u, v, soft: float, rng: np.random.Generator):
        """Mown stripes that run towards the viewer, blades, and a few small flowers."""
        near = np.clip((v - HORIZON) / (1 - HORIZON), 0, 1.2)
        across = u / (near + 0.35)
        stripes = 0.90 + 0.10 * np.sign(np.sin(5.2 * across + 0.4))
        blades = 1 + (0.05 * rng.standard_normal(u.shape, dtype=np.float32)) * (0.4 + near)
        tone = (stripes * blades * (0.78 + 0.30 * near))[..., None] * np.array(self.hour.grass, np.float32)
        picture = mix(picture, tone, ramp(v, HORIZON - soft, HORIZON + soft))
        rows, columns = np.nonzero(v[:, :1].ravel() > HORIZON + 0.03)[0], np.arange(u.shape[1])
        for _ in range(26):
            row, column = int(rng.choice(rows)), int(rng.choice(columns))
            picture[row : row + 2, column : column + 2] = (
                (0.96, 0.94, 0.80) if rng.random() < 0.6 else (0.86, 0.70, 0.86)
            )
        return picture
