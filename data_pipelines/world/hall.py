"""The hall behind the performers: wall, curtains, floor and lights, in one of a few colour schemes."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from PIL import Image

from data_pipelines.world.paint import length, mix, ramp

HORIZON = 0.655  # where the wall meets the floor, as a share of the height

Colour = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours of a hall: the wall at its top and bottom, the glow on it, cloth, wood, and three lamps."""

    wall: tuple[Colour, Colour]
    glow: Colour
    curtain: Colour
    floor: Colour
    lamps: tuple[Colour, Colour, Colour]


THEMES = (
    Theme(
        wall=((0.07, 0.09, 0.24), (0.20, 0.23, 0.46)),
        glow=(0.36, 0.30, 0.52),
        curtain=(0.50, 0.07, 0.14),
        floor=(0.50, 0.33, 0.23),
        lamps=((1.0, 0.85, 0.60), (0.55, 0.75, 1.0), (1.0, 0.60, 0.75)),
    ),
    Theme(
        wall=((0.03, 0.17, 0.22), (0.10, 0.36, 0.40)),
        glow=(0.40, 0.48, 0.34),
        curtain=(0.10, 0.20, 0.42),
        floor=(0.46, 0.36, 0.28),
        lamps=((1.0, 0.90, 0.65), (0.50, 1.0, 0.85), (0.75, 0.80, 1.0)),
    ),
    Theme(
        wall=((0.20, 0.07, 0.24), (0.44, 0.19, 0.38)),
        glow=(0.58, 0.34, 0.30),
        curtain=(0.28, 0.08, 0.34),
        floor=(0.44, 0.31, 0.27),
        lamps=((1.0, 0.75, 0.50), (0.85, 0.65, 1.0), (0.55, 0.85, 1.0)),
    ),
    Theme(
        wall=((0.16, 0.11, 0.09), (0.40, 0.28, 0.20)),
        glow=(0.56, 0.42, 0.24),
        curtain=(0.08, 0.29, 0.23),
        floor=(0.42, 0.27, 0.18),
        lamps=((1.0, 0.90, 0.70), (1.0, 0.80, 0.50), (0.70, 0.85, 1.0)),
    ),
)


class Hall:
    """An empty stage of some size, painted once, in its first and its last light.

    Attributes:
        glossy: how strongly the floor mirrors.
        murmur: lowest and highest frequency of the place's own noise, in Hz.
        dither: float32 [H W 1], against bands in dark gradients.

    Coordinates: `v` is 0 at the top of the picture and 1 at the bottom; `u` is 0 in the middle, in units of the height.
    """

    glossy = 0.20
    murmur = 60.0, 900.0

    def __init__(self, rng: np.random.Generator, *, width: int, height: int):
        self.width, self.height = width, height
        self.theme = THEMES[rng.integers(len(THEMES))]
        self.margin = math.ceil(0.05 * height) + 2  # room for the camera to drift
        self._phases = rng.uniform(0, 2 * np.pi, 3)
        coarse = np.mgrid[: height // 4, : width // 4].astype(np.float32) + np.float32(0.5)
        self._v, self._u = coarse[0] / (height // 4), (coarse[1] / (width // 4) - 0.5) * (width / height)
        self._dusk, self._dawn = self._paint(rng)
        self.dither = (rng.random((height, width, 1), dtype=np.float32) - 0.5) / 255

    def picture(self, time_s: float, progress: float, *, drift: tuple[float, float]) -> np.ndarray:
        """The hall at one moment.

        Args:
            time_s: moves the lights.
            progress: 0 is the first light, 1 the last.
            drift: offset of the camera in pixels, to the right and down.

        Returns:
            float32 [H W 3].
        """
        blend = np.float32(0.5 - 0.5 * math.cos(math.pi * min(max(progress, 0), 1)))
        empty = self._shifted(self._dusk, drift) * (1 - blend) + self._shifted(self._dawn, drift) * blend
        return empty + self._lamps(time_s, drift[0])

    def _shifted(self, painted: np.ndarray, drift: tuple[float, float]) -> np.ndarray:
        """Cuts the picture out of the larger painting, moved by fractions of a pixel; it is far, so it moves less."""
        at_x, at_y = (self.margin - 0.75 * d for d in drift)
        row, column = math.floor(at_y), math.floor(at_x)
        down, right = np.float32(at_y - row), np.float32(at_x - column)
        part = painted[row : row + self.height + 1, column : column + self.width + 1]
        part = part[:-1] * (1 - down) + part[1:] * down
        return part[:, :-1] * (1 - right) + part[:, 1:] * right

    def _lamps(self, time_s: float, drift_x: float) -> np.ndarray:
        """Three swaying beams and their pools on the floor: drawn small and enlarged, because they have no edges."""
        v, u = self._v, self._u
        light = np.zeros((*v.shape, 3), np.float32)
        for k, colour in enumerate(self.theme.lamps):
            source = (k - 1) * 0.34 * self.width / self.height + drift_x / self.height
            tilt = 0.30 * math.sin(0.55 * time_s + self._phases[k]) - 0.22 * (k - 1)
            offset = (u - source - tilt * (v + 0.10)) / (0.03 + 0.13 * (v + 0.10))
            fade = (1.15 - 0.75 * v) * np.clip((HORIZON + 0.20 - v) / 0.30, 0, 1)
            pool = ((u - source - tilt * (HORIZON + 0.27)) / 0.27) ** 2 + ((v - HORIZON - 0.17) / 0.085) ** 2
            power = 0.15 * np.exp(-(offset**2)) * fade
            power += 0.17 * np.exp(-pool) * ramp(v, HORIZON - 0.01, HORIZON + 0.03)
            light += power[..., None] * np.array(colour, np.float32)
        size = self.width, self.height
        planes = [Image.fromarray(light[..., c]).resize(size, Image.Resampling.BILINEAR) for c in range(3)]
        return np.stack([np.asarray(plane) for plane in planes], -1)

    def _paint(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        m, half = self.margin, self.width / self.height / 2
        y, x = np.mgrid[-m : self.height + m, -m : self.width + m].astype(np.float32) + np.float32(0.5)
        v, u = y / self.height, (x - self.width / 2) / self.height
        sparks = rng.uniform((-half, 0.12, 0.012, 0.02), (half, 0.58, 0.040, 0.09), (14, 4))
        planks = rng.uniform(0.88, 1.10, 64).astype(np.float32)
        sill = int(np.searchsorted(v[:, 0], HORIZON))  # wall above, floor below
        vignette = 1 - 0.34 * np.clip((u / half) ** 2 * 0.75 + ((v - 0.52) / 0.5) ** 2 * 0.45, 0, 1.3) ** 1.4
        floor = self._floor(v[sill:], u[sill:], planks)
        halls = []
        for warmth in (0.0, 1.0):
            wall = self._wall(v[:sill], u[:sill], sparks, warmth)
            hall = self._curtains(np.concatenate([wall, floor]), v, u)
            tint = np.array([1 + 0.16 * warmth, 1.0, 1 + 0.12 * (1 - warmth)], np.float32)
            halls.append(hall * vignette[..., None] * tint)
        return halls[0], halls[1]

    def _wall(self, v, u, sparks, warmth: float) -> np.ndarray:
        """A gradient with a glow behind the performers, faint folds, discs of stray light, a dark skirting."""
        theme, soft = self.theme, 1.2 / self.height
        wall = mix(theme.wall[0], theme.wall[1], ramp(v, -0.05, HORIZON))
        glow = np.exp(-(((u - 0.25 * (warmth - 0.5)) / 0.62) ** 2) - ((v - 0.50) / 0.30) ** 2)
        wall += glow[..., None] * np.array(theme.glow, np.float32) * np.float32(0.62)
        wall *= (1 + 0.035 * np.sin(46 * u) * ramp(v, 0.1, 0.4))[..., None]
        for at_u, at_v, radius, power in sparks.tolist():
            reach = 1.2 * radius
            rows = slice(*np.searchsorted(v[:, 0], (at_v - reach, at_v + reach)))
            columns = slice(*np.searchsorted(u[0], (at_u - reach, at_u + reach)))
            far = length(u[rows, columns] - at_u, v[rows, columns] - at_v) / radius
            spot = power * (0.6 + 0.4 * ramp(far, 0.5, 1.0)) * (1 - ramp(far, 0.9, 1.1))
            wall[rows, columns] += spot[..., None] * np.array(theme.lamps[0], np.float32)
        return mix(wall, (0.05, 0.04, 0.05), ramp(v, HORIZON - 0.022 - soft, HORIZON - 0.022 + soft))

    def _floor(self, v, u, planks) -> np.ndarray:
        """Polished planks that run towards the viewer and mirror a little of the wall."""
        near = (v - HORIZON) / (1 - HORIZON)  # 0 at the wall, 1 at the front
        across = u / (near + 0.55) * 9
        board = planks[np.floor(across).astype(int) % len(planks)]
        seam = np.abs(across - np.rint(across)) * (near + 0.55) * (self.height / 9)
        fibre = 1 + 0.03 * np.sin(90 * across + 3 * np.sin(9 * near + 40 * board))
        tone = board * fibre * (0.50 + 0.52 * near) * (0.72 + 0.28 * ramp(seam, 0.0, 1.3))
        shine = 0.30 * np.exp(-((u / 0.75) ** 2) - (near / 0.55) ** 2)
        lustre = np.array(self.theme.glow, np.float32) + np.array(self.theme.wall[1], np.float32)
        return tone[..., None] * np.array(self.theme.floor, np.float32) + shine[..., None] * lustre

    def _curtains(self, hall, v, u) -> np.ndarray:
        """Folded cloth at both sides and a swagged, gilt-edged one along the top."""
        half, soft = self.width / self.height / 2, 1.2 / self.height
        cloth = np.array(self.theme.curtain, np.float32)
        dark = cloth * np.float32(0.22)
        inner = half * 0.875 + 0.035 * np.clip(v, 0, 1) ** 2 - 0.05 * np.exp(-(((v - 0.45) / 0.20) ** 2)) + 0.018
        hang = HORIZON + 0.055
        fold = 0.5 + 0.5 * np.sin(95 * (np.abs(u) - inner) + 2.2 * v + 0.6 * np.sin(7 * v))
        side = ramp(np.abs(u), inner - soft, inner + soft) * (1 - ramp(v, hang - soft, hang + soft + 0.01 * fold))
        hall = mix(hall, mix(dark, cloth, 0.15 + 0.85 * fold * (0.55 + 0.45 * ramp(-v, -0.8, 0.0))), side)
        turns = np.pi * (u / half + 1) * 2.5
        edge = 0.060 + 0.045 * np.abs(np.sin(turns))
        shade = mix(dark, cloth, 0.2 + 0.7 * (0.5 + 0.5 * np.sin(70 * u + 14 * v * np.cos(turns))))
        shade = mix(shade, (0.93, 0.74, 0.36), 0.8 * np.exp(-(((v - edge + 0.012) / 0.006) ** 2)))
        return mix(hall, shade, 1 - ramp(v, edge - soft, edge + soft))
