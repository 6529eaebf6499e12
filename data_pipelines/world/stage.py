"""A lit stage with performers that are seen and heard, each in its own time: scenes, and what they look and sound like.

A `Scene` says who stands where and when; a `Stage` renders it. Seen and heard intervals are independent, so a performer
may be visible and silent, or audible and hidden. Masks, boxes and events come from the rendering itself and are exact.
The same scene gives the same pixels and samples every time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from data_pipelines.world import looks, sound
from data_pipelines.world.kinds import KINDS, Kind
from data_pipelines.world.paint import Canvas, length, mix, ramp

Intervals = tuple[tuple[float, float], ...]

HORIZON = 0.655  # where the wall meets the floor, as a share of the height
APPEAR_S, VANISH_S = 0.30, 0.18  # growing in and shrinking away, inside the seen interval


@dataclasses.dataclass(frozen=True)
class Performer:
    """Somebody or something on the stage.

    Attributes:
        kind: a name in `KINDS`.
        place: 0 stands at the left edge of the picture, 1 at the right.
        depth: 0 is at the back, 1 in front; nearer ones are larger and cover those behind.
        size: 1 is usual.
        seen, heard: intervals in seconds, sorted and apart.
        loudness: root mean square while heard.
    """

    kind: str
    place: float
    depth: float = 0.5
    size: float = 1.0
    seen: Intervals = ((0.0, math.inf),)
    heard: Intervals = ((0.0, math.inf),)
    loudness: float = 0.11


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that can be seen (`sense` "visual") or heard ("audio") for a while; `who` counts the performers."""

    who: int
    kind: str
    sense: str
    start_s: float
    end_s: float


@dataclasses.dataclass(frozen=True)
class Scene:
    """Who performs, where and when.

    Attributes:
        performers: at least none, at most as many as one likes; one to five look good.
        seed: decides music, colours and camera.
        width, height: pixels, both even, because H.264 wants them so.
        ambience: root mean square of the hall's own noise, in each channel.
    """

    performers: tuple[Performer, ...]
    seed: int = 0
    duration_s: float = 10.0
    fps: int = 10
    width: int = 320
    height: int = 240
    ambience: float = 0.0004

    def __post_init__(self):
        if self.duration_s <= 0 or self.fps < 1:
            raise ValueError(
                f"expected a duration above 0 s and at least 1 frame per second, got {self.duration_s} s at {self.fps}"
            )
        if self.width % 2 or self.height % 2 or min(self.width, self.height) < 32:
            raise ValueError(f"expected an even width and height of at least 32, got {self.width} x {self.height}")
        clipped = []
        for who in self.performers:
            if who.kind not in KINDS:
                raise ValueError(f"unknown kind {who.kind!r}; known are {', '.join(KINDS)}")
            if not (0 <= who.place <= 1 and 0 <= who.depth <= 1 and who.size > 0 and who.loudness >= 0):
                raise ValueError(f"expected place and depth in [0, 1], size above 0, loudness not below 0: {who}")
            within = {field: self._within(getattr(who, field), f"{who.kind}.{field}") for field in ("seen", "heard")}
            clipped.append(dataclasses.replace(who, **within))
        object.__setattr__(self, "performers", tuple(clipped))

    def _within(self, intervals: Intervals, name: str) -> Intervals:
        """Clips to the duration, so that `inf` means the end; anything out of order is an error."""
        result, last = [], 0.0
        for start_s, end_s in intervals:
            if not last <= start_s < end_s:
                raise ValueError(f"expected sorted, separate intervals of positive length in {name}, got {intervals}")
            last = end_s
            if start_s < self.duration_s:
                result.append((float(start_s), float(min(end_s, self.duration_s))))
        return tuple(result)

    @property
    def frame_count(self) -> int:
        return max(round(self.duration_s * self.fps), 1)

    def events(self) -> list[Event]:
        """Every interval in which a performer is on the stage or sounds, in order of time."""
        found = [
            Event(k, who.kind, sense, start_s, end_s)
            for k, who in enumerate(self.performers)
            for sense, intervals in (("visual", who.seen), ("audio", who.heard))
            for start_s, end_s in intervals
        ]
        return sorted(found, key=lambda e: (e.start_s, e.who, e.sense))


@dataclasses.dataclass(frozen=True)
class Shot:
    """One moment.

    Attributes:
        frame: uint8 [H W 3].
        masks: bool [K H W], the visible pixels of each performer; no pixel belongs to two.
    """

    frame: np.ndarray
    masks: np.ndarray

    def boxes(self, grid: int | None = None) -> list[tuple[int, int, int, int] | None]:
        """Tight boxes (x1, y1, x2, y2), corners included; None for whoever is hidden.

        Args:
            grid: side of a square grid, such as 224, that the picture is squashed to; None keeps pixels.
        """
        height, width = self.masks.shape[1:]
        scale_x, scale_y = (1, 1) if grid is None else (grid / width, grid / height)
        result = []
        for mask in self.masks:
            rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
            if not len(rows):
                result.append(None)
                continue
            low = int(columns[0] * scale_x), int(rows[0] * scale_y)
            high = int((columns[-1] + 1) * scale_x - 1e-6), int((rows[-1] + 1) * scale_y - 1e-6)
            result.append((*low, *high))
        return result


@dataclasses.dataclass(frozen=True)
class Clip:
    """A whole scene, rendered.

    Attributes:
        frames: uint8 [T H W 3].
        masks: bool [K T H W].
        wave: float32 [n 2] in [-1, 1].
    """

    scene: Scene
    frames: np.ndarray
    masks: np.ndarray
    wave: np.ndarray
    rate_hz: int


@dataclasses.dataclass(frozen=True)
class _Theme:
    """Colours of a hall, at the start and at the end of a scene."""

    wall: tuple[tuple[float, float, float], tuple[float, float, float]]
    glow: tuple[float, float, float]
    curtain: tuple[float, float, float]
    floor: tuple[float, float, float]
    beams: tuple[tuple[float, float, float], ...]


_THEMES = (
    _Theme(
        ((0.07, 0.09, 0.24), (0.20, 0.23, 0.46)),
        (0.36, 0.30, 0.52),
        (0.50, 0.07, 0.14),
        (0.50, 0.33, 0.23),
        ((1.0, 0.85, 0.60), (0.55, 0.75, 1.0), (1.0, 0.60, 0.75)),
    ),
    _Theme(
        ((0.03, 0.17, 0.22), (0.10, 0.36, 0.40)),
        (0.40, 0.48, 0.34),
        (0.10, 0.20, 0.42),
        (0.46, 0.36, 0.28),
        ((1.0, 0.90, 0.65), (0.50, 1.0, 0.85), (0.75, 0.80, 1.0)),
    ),
    _Theme(
        ((0.20, 0.07, 0.24), (0.44, 0.19, 0.38)),
        (0.58, 0.34, 0.30),
        (0.28, 0.08, 0.34),
        (0.44, 0.31, 0.27),
        ((1.0, 0.75, 0.50), (0.85, 0.65, 1.0), (0.55, 0.85, 1.0)),
    ),
    _Theme(
        ((0.16, 0.11, 0.09), (0.40, 0.28, 0.20)),
        (0.56, 0.42, 0.24),
        (0.08, 0.29, 0.23),
        (0.42, 0.27, 0.18),
        ((1.0, 0.90, 0.70), (1.0, 0.80, 0.50), (0.70, 0.85, 1.0)),
    ),
)


class Stage:
    """Renders a scene: single moments, the sound, or all of it."""

    def __init__(self, scene: Scene):
        self.scene = scene
        self.kinds: list[Kind] = [KINDS[who.kind] for who in scene.performers]
        rng = np.random.default_rng([scene.seed, 1])
        self.music = sound.Music.drawn(rng)
        self.score = [
            [
                note
                for start_s, end_s in who.heard
                for note in kind.style.notes(self.music, start_s, end_s, np.random.default_rng([scene.seed, 2, k]))
            ]
            for k, (who, kind) in enumerate(zip(scene.performers, self.kinds))
        ]
        self._onsets = [np.array(sorted(note.start_s for note in notes)) for notes in self.score]
        look = np.random.default_rng([scene.seed, 3])
        self._theme = _THEMES[look.integers(len(_THEMES))]
        self._drift = look.uniform(0, 2 * np.pi, 4), look.uniform(0.05, 0.09, 2)  # phases; turns per second
        self._beams = look.uniform(0, 2 * np.pi, 3)
        self._margin = math.ceil(0.05 * scene.height) + 2
        self._hall = self._paint_hall(look)
        self._dither = (look.random((scene.height, scene.width, 1), dtype=np.float32) - 0.5) / 255
        coarse = np.mgrid[: scene.height // 4, : scene.width // 4].astype(np.float32) + np.float32(0.5)
        self._rows = coarse[0] / (scene.height // 4)
        self._columns = (coarse[1] / (scene.width // 4) - 0.5) * (scene.width / scene.height)

    def clip(self, *, rate_hz: int = 44100) -> Clip:
        """Every frame, every mask and the sound."""
        shots = [self.shot(k / self.scene.fps) for k in range(self.scene.frame_count)]
        frames, masks = np.stack([s.frame for s in shots]), np.stack([s.masks for s in shots], 1)
        return Clip(self.scene, frames, masks, self.sound(rate_hz=rate_hz), rate_hz)

    def sound(self, *, rate_hz: int = 44100) -> np.ndarray:
        """The mixed sound, float32 [n 2], peaks below 1."""
        scene, n = self.scene, round(self.scene.duration_s * rate_hz)
        rng = np.random.default_rng([scene.seed, 4])
        hall = [sound.band_noise(n, 60, 900, rate_hz=rate_hz, rng=rng) for _ in range(2)]
        wave = np.stack(hall, 1) * np.float32(scene.ambience)
        for k in range(len(scene.performers)):
            wave += self.part(k, rate_hz=rate_hz)
        return wave * np.float32(min(1.0, 0.97 / max(float(np.abs(wave).max(initial=0)), 1e-9)))

    def part(self, who: int, *, rate_hz: int = 44100) -> np.ndarray:
        """One performer alone, float32 [n 2], exactly zero outside its heard intervals."""
        performer = self.scene.performers[who]
        return sound.perform(
            self.kinds[who].timbre,
            self.score[who],
            heard=performer.heard,
            place=performer.place,
            loudness=performer.loudness,
            duration_s=self.scene.duration_s,
            rate_hz=rate_hz,
            rng=np.random.default_rng([self.scene.seed, 5, who]),
        )

    def shot(self, time_s: float) -> Shot:
        """What the camera sees at one moment."""
        scene = self.scene
        drift_x, drift_y = self._camera(time_s)
        picture = self._background(time_s, drift_x, drift_y)
        order = sorted(range(len(scene.performers)), key=lambda k: (scene.performers[k].depth, k))
        painted = [(k, p) for k in order if (p := self._perform(k, time_s, drift_x, drift_y)) is not None]
        for _, patch in painted:
            self._ground(picture, *patch)
        masks = np.zeros((len(scene.performers), scene.height, scene.width), bool)
        for k, (canvas, (top, left), _) in painted:
            rows, columns, part = _clip(canvas.alpha.shape, top, left, picture.shape)
            alpha = canvas.alpha[part]
            picture[rows, columns] = picture[rows, columns] * (1 - alpha[..., None]) + canvas.rgb[part]
            solid = alpha >= 0.5
            masks[:, rows, columns] &= ~solid
            masks[k, rows, columns] = solid
        frame = np.clip(picture + self._dither, 0, 1) * 255 + 0.5
        return Shot(frame.astype(np.uint8), masks)

    def pose(self, who: int, time_s: float) -> looks.Pose:
        """How a performer holds itself: at rest while silent."""
        level = 0.0
        for start_s, end_s in self.scene.performers[who].heard:
            if start_s <= time_s < end_s:
                level = min((time_s - start_s) / 0.15, (end_s - time_s) / 0.15, 1.0)
        if level <= 0:
            return looks.Pose()
        count = int(np.searchsorted(self._onsets[who], time_s + 1e-6))
        hit = math.exp(-(time_s - self._onsets[who][count - 1]) / 0.11) if count else 0.0
        return looks.Pose(level, hit * min(level * 3, 1), time_s / self.music.beat_s + 0.37 * who, count)

    def _camera(self, time_s: float) -> tuple[float, float]:
        """Offset of the view in pixels."""
        phases, speeds = self._drift
        reach = 0.018 * self.scene.height
        turn = 2 * np.pi * speeds * time_s
        return float(reach * np.sin(turn[0] + phases[0])), float(0.6 * reach * np.sin(turn[1] + phases[1]))

    def _perform(self, who: int, time_s: float, drift_x: float, drift_y: float):
        """Paints one performer.  → (canvas, (top, left), feet row), or None while it is not to be seen"""
        scene, performer = self.scene, self.scene.performers[who]
        shown = [(a, b) for a, b in performer.seen if a <= time_s < b]
        if not shown:
            return None
        start_s, end_s = shown[0]
        grow = 1.0
        if start_s > 0:
            grow = _spring(min((time_s - start_s + 0.5 / scene.fps) / APPEAR_S, 1.0))
        if end_s < scene.duration_s:
            grow *= float(ramp((end_s - time_s) / VANISH_S, -0.2, 1.0))
        whole = scene.height * (0.47 + 0.19 * performer.depth) * performer.size
        unit = whole * grow
        near = 0.75 + 0.5 * performer.depth
        room = self.kinds[who].wide * whole / 2 + 0.03 * scene.width  # so that nobody at an end is cut off
        center_x = room + performer.place * (scene.width - 2 * room) + near * drift_x
        feet_y = (HORIZON + 0.045 + 0.235 * performer.depth) * scene.height + near * drift_y
        left, right = math.floor(center_x - looks.REACH * unit) - 1, math.ceil(center_x + looks.REACH * unit) + 1
        top, bottom = math.floor(feet_y - looks.TOP * unit) - 1, math.ceil(feet_y + 0.06 * unit) + 1
        y, x = np.mgrid[top:bottom, left:right].astype(np.float32) + np.float32(0.5)
        canvas = Canvas((x - center_x) / unit, (feet_y - y) / unit, pixel=1 / unit)
        self.kinds[who].look(canvas, self.pose(who, time_s))
        return canvas, (top, left), feet_y

    def _ground(self, picture: np.ndarray, canvas: Canvas, corner: tuple[int, int], feet_y: float):
        """A soft shadow and a faint mirror image on the polished floor."""
        top, left = corner
        foot = canvas.alpha[canvas.y < 0.14].reshape(-1, canvas.alpha.shape[1])
        if not foot.size or not foot.max() > 0:
            return
        columns = np.nonzero(foot.max(0) > 0.5)[0]
        if len(columns):
            middle, half = left + columns.mean() + 0.5, max(len(columns), np.ptp(columns)) / 2 + 0.05 / canvas.pixel
            height = 0.28 * half
            rows = slice(max(int(feet_y - 3 * height), 0), max(min(int(feet_y + 3 * height), len(picture)), 0))
            y, x = np.mgrid[rows, : picture.shape[1]].astype(np.float32) + np.float32(0.5)
            dark = np.exp(-(((x - middle) / half) ** 2) * 0.9 - ((y - feet_y) / height) ** 2 * 0.9)
            picture[rows] *= 1 - 0.52 * dark[..., None]
        first = round(feet_y) - top
        mirror = slice(max(first - int(0.45 / canvas.pixel), 0), max(first, 0))
        alpha, rgb = canvas.alpha[mirror][::-1], canvas.rgb[mirror][::-1]
        rows, columns, part = _clip(alpha.shape, round(feet_y), left, picture.shape)
        fade = (0.20 * np.exp(-np.arange(alpha.shape[0], dtype=np.float32) * canvas.pixel / 0.17))[part[0], None, None]
        picture[rows, columns] += fade * (rgb[part] - picture[rows, columns] * alpha[part][..., None])

    def _background(self, time_s: float, drift_x: float, drift_y: float) -> np.ndarray:
        """The hall, shifted by the camera, under slowly swaying lights.  → float32 [H W 3]"""
        scene, (dusk, dawn) = self.scene, self._hall
        phase = 0.5 - 0.5 * math.cos(math.pi * time_s / max(scene.duration_s, 1e-6))
        picture = _shift(dusk, self._margin, drift_x, drift_y, scene) * np.float32(1 - phase)
        picture += _shift(dawn, self._margin, drift_x, drift_y, scene) * np.float32(phase)
        picture += self._beam_light(time_s, drift_x)
        return picture

    def _beam_light(self, time_s: float, drift_x: float) -> np.ndarray:
        """Three soft beams and their pools on the floor: drawn small and enlarged, because they have no edges."""
        scene, v, u = self.scene, self._rows, self._columns
        light = np.zeros((*v.shape, 3), np.float32)
        for k, colour in enumerate(self._theme.beams):
            source = (k - 1) * 0.34 * scene.width / scene.height
            tilt = 0.30 * math.sin(0.55 * time_s + self._beams[k]) - 0.22 * (k - 1)
            offset = (u - drift_x / scene.height - source - tilt * (v + 0.10)) / (0.03 + 0.13 * (v + 0.10))
            fade = (1.15 - 0.75 * v) * np.clip((HORIZON + 0.20 - v) / 0.30, 0, 1)
            pool = ((u - source - tilt * (HORIZON + 0.27)) / 0.27) ** 2 + ((v - HORIZON - 0.17) / 0.085) ** 2
            power = 0.15 * np.exp(-(offset**2)) * fade + 0.17 * np.exp(-pool) * ramp(v, HORIZON - 0.01, HORIZON + 0.03)
            light += power[..., None] * np.array(colour, np.float32)
        planes = [
            Image.fromarray(light[..., c]).resize((scene.width, scene.height), Image.Resampling.BILINEAR)
            for c in range(3)
        ]
        return np.stack([np.asarray(plane) for plane in planes], -1)

    def _paint_hall(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Wall, curtains and floor, a little larger than the picture; the first and the last light."""
        scene, theme, m = self.scene, self._theme, self._margin
        y, x = np.mgrid[-m : scene.height + m, -m : scene.width + m].astype(np.float32) + np.float32(0.5)
        v, u = y / scene.height, (x - scene.width / 2) / scene.height
        half = scene.width / scene.height / 2
        sparks = rng.uniform(
            (-half, 0.12, 0.012, 0.02), (half, 0.58, 0.040, 0.09), (14, 4)
        ).tolist()  # x, y, radius, power
        planks = rng.uniform(0.88, 1.10, 64).astype(np.float32)
        sill = np.searchsorted(v[:, 0], HORIZON)  # wall above, floor below
        soft, halls = 1.2 / scene.height, []
        for warmth in (0.0, 1.0):
            up, uw = v[:sill], u[:sill]
            wall = mix(theme.wall[0], theme.wall[1], ramp(up, -0.05, HORIZON))
            glow = np.exp(-(((uw - 0.25 * (warmth - 0.5)) / 0.62) ** 2) - ((up - 0.50) / 0.30) ** 2)
            wall += glow[..., None] * np.array(theme.glow, np.float32) * np.float32(0.62)
            wall *= (1 + 0.035 * np.sin(46 * uw) * ramp(up, 0.1, 0.4))[..., None]
            for at_x, at_y, radius, power in sparks:
                middle, reach = (
                    np.array([at_y * scene.height + m, (at_x + half) * scene.height + m]),
                    1.2 * radius * scene.height,
                )
                (top, left), (bottom, right) = (
                    np.maximum(middle - reach, 0).astype(int),
                    (middle + reach + 1).astype(int),
                )
                near = np.s_[top:bottom, left:right]
                spot = length(uw[near] - at_x, up[near] - at_y) / radius
                disc = power * (0.6 + 0.4 * ramp(spot, 0.5, 1.0)) * (1 - ramp(spot, 0.9, 1.1))
                wall[near] += disc[..., None] * np.array(theme.beams[0], np.float32)
            wall = mix(wall, (0.05, 0.04, 0.05), ramp(up, HORIZON - 0.022 - soft, HORIZON - 0.022 + soft))
            near, across = (v[sill:] - HORIZON) / (1 - HORIZON), u[sill:]
            across = across / (near + 0.55) * 9
            board = planks[np.floor(across).astype(int) % len(planks)]
            seam = np.abs(across - np.rint(across)) * (near + 0.55) * (scene.height / 9)
            fibre = 1 + 0.03 * np.sin(90 * across + 3 * np.sin(9 * near + 40 * board))
            tone = board * fibre * (0.50 + 0.52 * near) * (0.72 + 0.28 * ramp(seam, 0.0, 1.3))
            shine = 0.30 * np.exp(-((u[sill:] / 0.75) ** 2) - (near / 0.55) ** 2)
            lustre = np.array(theme.glow, np.float32) + np.array(theme.wall[1], np.float32)
            floor = tone[..., None] * np.array(theme.floor, np.float32) + shine[..., None] * lustre
            hall = self._curtains(np.concatenate([wall, floor]), u, v, half, soft)
            vignette = 1 - 0.34 * np.clip((u / half) ** 2 * 0.75 + ((v - 0.52) / 0.5) ** 2 * 0.45, 0, 1.3) ** 1.4
            tint = np.array([1 + 0.16 * warmth, 1.0, 1 + 0.12 * (1 - warmth)], np.float32)
            halls.append(hall * vignette[..., None] * tint)
        return halls[0], halls[1]

    def _curtains(self, hall, u, v, half, soft):
        cloth, dark = np.array(self._theme.curtain, np.float32), np.array(self._theme.curtain, np.float32) * 0.22
        inner = half * 0.875 + 0.035 * np.clip(v, 0, 1) ** 2 - 0.05 * np.exp(-(((v - 0.45) / 0.20) ** 2)) + 0.018
        hang = HORIZON + 0.055
        fold = 0.5 + 0.5 * np.sin(95 * (np.abs(u) - inner) + 2.2 * v + 0.6 * np.sin(7 * v))
        side = ramp(np.abs(u), inner - soft, inner + soft) * (1 - ramp(v, hang - soft, hang + soft + 0.01 * fold))
        shade = mix(dark, cloth, 0.15 + 0.85 * fold * (0.55 + 0.45 * ramp(-v, -0.8, 0.0)))
        hall = hall * (1 - side)[..., None] + shade * side[..., None]
        swag = np.abs(np.sin(np.pi * (u / half + 1) * 2.5))
        edge = 0.060 + 0.045 * swag
        top = 1 - ramp(v, edge - soft, edge + soft)
        fold = 0.5 + 0.5 * np.sin(70 * u + 14 * v * np.cos(np.pi * (u / half + 1) * 2.5))
        shade = mix(dark, cloth, 0.2 + 0.7 * fold)
        trim = np.exp(-(((v - edge + 0.012) / 0.006) ** 2))
        shade = mix(shade, (0.93, 0.74, 0.36), 0.8 * trim)
        return hall * (1 - top)[..., None] + shade * top[..., None]


def _spring(u: float) -> float:
    """From 0 to 1 with a small overshoot."""
    return max(1 + 2.4 * (u - 1) ** 3 + 1.4 * (u - 1) ** 2, 0.02)


def _shift(hall: np.ndarray, margin: int, drift_x: float, drift_y: float, scene: Scene) -> np.ndarray:
    """Cuts the picture out of the larger hall, moved by fractions of a pixel."""
    at_y, at_x = margin - 0.75 * drift_y, margin - 0.75 * drift_x
    row, column = math.floor(at_y), math.floor(at_x)
    down, right = np.float32(at_y - row), np.float32(at_x - column)
    part = hall[row : row + scene.height + 1, column : column + scene.width + 1]
    part = part[:-1] * (1 - down) + part[1:] * down
    return part[:, :-1] * (1 - right) + part[:, 1:] * right


def _clip(size: tuple[int, int], top: int, left: int, picture: Sequence[int]):
    """Where a patch lands in the picture, and which part of the patch does."""
    height, width = size
    rows = slice(max(top, 0), max(min(top + height, picture[0]), 0))
    columns = slice(max(left, 0), max(min(left + width, picture[1]), 0))
    part = (
        slice(rows.start - top, max(rows.stop - top, rows.start - top)),
        slice(columns.start - left, max(columns.stop - left, columns.start - left)),
    )
    rows = slice(rows.start, rows.start + part[0].stop - part[0].start)
    columns = slice(columns.start, columns.start + part[1].stop - part[1].start)
    return rows, columns, part
