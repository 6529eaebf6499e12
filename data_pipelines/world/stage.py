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

from data_pipelines.world import looks, sound
from data_pipelines.world.hall import HORIZON, Hall
from data_pipelines.world.kinds import KINDS, Kind
from data_pipelines.world.paint import ramp
from data_pipelines.world.park import Park
from data_pipelines.world.scenery import SCENERY
from data_pipelines.world.sprites import Painted, Sprite, SpriteStore, painted

Intervals = tuple[tuple[float, float], ...]

SETTINGS = {"hall": Hall, "park": Park}
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
        moves: when it plays to the eye; None: exactly while it is heard. A silent one that moves only pretends.
        loudness: root mean square while heard.
    """

    kind: str
    place: float
    depth: float = 0.5
    size: float = 1.0
    seen: Intervals = ((0.0, math.inf),)
    heard: Intervals = ((0.0, math.inf),)
    moves: Intervals | None = None
    loudness: float = 0.11


@dataclasses.dataclass(frozen=True)
class Prop:
    """A piece of scenery: seen all the time, never heard, in nobody's vocabulary. `name` is one of `SCENERY`."""

    name: str
    place: float
    depth: float = 0.5
    size: float = 1.0


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
        ambience: root mean square of the place's own noise, in each channel.
        scenery: what else stands about; it may cover performers.
        setting: "hall" or "park", indoors or outdoors.
    """

    performers: tuple[Performer, ...]
    seed: int = 0
    duration_s: float = 10.0
    fps: int = 10
    width: int = 320
    height: int = 240
    ambience: float = 0.0004
    scenery: tuple[Prop, ...] = ()
    setting: str = "hall"

    def __post_init__(self):
        if self.duration_s <= 0 or self.fps < 1:
            raise ValueError(
                f"expected a duration above 0 s and at least 1 frame per second, got {self.duration_s} s at {self.fps}"
            )
        if self.width % 2 or self.height % 2 or min(self.width, self.height) < 32:
            raise ValueError(f"expected an even width and height of at least 32, got {self.width} x {self.height}")
        if self.setting not in SETTINGS:
            raise ValueError(f"unknown setting {self.setting!r}; known are {', '.join(SETTINGS)}")
        for prop in self.scenery:
            if prop.name not in SCENERY:
                raise ValueError(f"unknown scenery {prop.name!r}; known is {', '.join(SCENERY)}")
        clipped = []
        for who in self.performers:
            if who.kind not in KINDS:
                raise ValueError(f"unknown kind {who.kind!r}; known are {', '.join(KINDS)}")
            if not (0 <= who.place <= 1 and 0 <= who.depth <= 1 and who.size > 0 and who.loudness >= 0):
                raise ValueError(f"expected place and depth in [0, 1], size above 0, loudness not below 0: {who}")
            times = {f: v for f in ("seen", "heard", "moves") if (v := getattr(who, f)) is not None}
            within = {field: self._within(value, f"{who.kind}.{field}") for field, value in times.items()}
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
        """Pictures of the whole scene, one at least."""
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

    @property
    def outdoors(self) -> bool:
        """Whether it takes place in the open air."""
        return self.setting == "park"


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


class Stage:
    """Renders a scene: single moments, the sound, or all of it.

    Args:
        scene: what to render.
        sprites: takes performers from this store instead of painting each afresh: several times as fast, in fewer
            poses. The same scene looks the same with any store.
    """

    def __init__(self, scene: Scene, *, sprites: SpriteStore | None = None):
        self.scene = scene
        self.kinds: list[Kind] = [KINDS[who.kind] for who in scene.performers]
        self._paint = painted if sprites is None else sprites.take
        rng = np.random.default_rng([scene.seed, 1])
        self.music = sound.Music.drawn(rng)
        self.score = [self._notes(who.kind, who.heard, [2, k]) for k, who in enumerate(scene.performers)]
        self._onsets = []
        for k, who in enumerate(scene.performers):
            notes = self.score[k] if who.moves is None else self._notes(who.kind, who.moves, [6, k])
            self._onsets.append(np.array(sorted(note.start_s for note in notes)))
        look = np.random.default_rng([scene.seed, 3])
        self._drift = look.uniform(0, 2 * np.pi, 2), look.uniform(0.05, 0.09, 2)  # phases; turns per second
        self._backdrop = SETTINGS[scene.setting](look, width=scene.width, height=scene.height)

    def _notes(self, kind: str, intervals: Intervals, hand: list[int]) -> list[sound.Note]:
        rng = np.random.default_rng([self.scene.seed, *hand])
        return [note for span in intervals for note in KINDS[kind].style.notes(self.music, *span, rng)]

    def clip(self, *, rate_hz: int = 44100) -> Clip:
        """Every frame, every mask and the sound."""
        shots = [self.shot(k / self.scene.fps) for k in range(self.scene.frame_count)]
        frames, masks = np.stack([s.frame for s in shots]), np.stack([s.masks for s in shots], 1)
        return Clip(self.scene, frames, masks, self.sound(rate_hz=rate_hz), rate_hz)

    def sound(self, *, rate_hz: int = 44100) -> np.ndarray:
        """The mixed sound, float32 [n 2], peaks below 1."""
        scene, n = self.scene, round(self.scene.duration_s * rate_hz)
        rng = np.random.default_rng([scene.seed, 4])
        # Ten seconds of it, again and again: nobody hears the seam.
        low, high = self._backdrop.murmur
        once = [sound.band_noise(min(n, 10 * rate_hz), low, high, rate_hz=rate_hz, rng=rng) for _ in range(2)]
        wave = np.resize(np.stack(once, 1), (n, 2)) * np.float32(scene.ambience)
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
        picture = self._backdrop.picture(time_s, time_s / scene.duration_s, drift=(drift_x, drift_y))
        standing = [(p.depth, k, k) for k, p in enumerate(scene.performers)]
        standing += [(p.depth, len(standing) + k, None) for k, p in enumerate(scene.scenery)]
        sprites = []
        for _, place, who in sorted(standing):
            sprite = self._perform(place, time_s, drift_x, drift_y)
            if sprite is not None:
                sprites.append((who, sprite))
        for _, sprite in sprites:
            _ground(picture, sprite, glossy=self._backdrop.glossy)
        masks = np.zeros((len(scene.performers), scene.height, scene.width), bool)
        for who, sprite in sprites:
            rows, columns, part = _clip(sprite.alpha.shape, sprite.top, sprite.left, picture.shape)
            alpha = sprite.alpha[part]
            picture[rows, columns] = picture[rows, columns] * (1 - alpha[..., None]) + sprite.rgb[part]
            solid = alpha >= 0.5
            masks[:, rows, columns] &= ~solid
            if who is not None:
                masks[who, rows, columns] = solid
        frame = np.clip(picture + self._backdrop.dither, 0, 1) * 255 + 0.5
        return Shot(frame.astype(np.uint8), masks)

    def pose(self, who: int, time_s: float) -> looks.Pose:
        """How a performer holds itself: at rest while silent, unless it pretends."""
        performer = self.scene.performers[who]
        level = 0.0
        for start_s, end_s in performer.heard if performer.moves is None else performer.moves:
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

    def _perform(self, number: int, time_s: float, drift_x: float, drift_y: float) -> Sprite | None:
        """Paints one performer, or behind the last of them one piece of scenery; None while it is not to be seen."""
        scene = self.scene
        grow, pose = 1.0, looks.Pose()
        if number < len(scene.performers):
            thing: Performer | Prop = scene.performers[number]
            what: Painted = self.kinds[number]
            shown = [(a, b) for a, b in scene.performers[number].seen if a <= time_s < b]
            if not shown:
                return None
            start_s, end_s = shown[0]
            if start_s > 0:
                grow = _spring(min((time_s - start_s + 0.5 / scene.fps) / APPEAR_S, 1.0))
            if end_s < scene.duration_s:
                grow *= float(ramp((end_s - time_s) / VANISH_S, -0.2, 1.0))
            pose = self.pose(number, time_s)
        else:
            thing = scene.scenery[number - len(scene.performers)]
            what = SCENERY[thing.name]
        near = 0.75 + 0.5 * thing.depth
        whole = scene.height * (0.47 + 0.19 * thing.depth) * thing.size
        room = what.wide * whole / 2 + 0.03 * scene.width  # so that nobody at an end is cut off
        center_x = room + thing.place * (scene.width - 2 * room) + near * drift_x
        feet_y = (HORIZON + 0.045 + 0.235 * thing.depth) * scene.height + near * drift_y
        return self._paint(what, pose, unit=whole * grow, center_x=center_x, feet_y=feet_y)


def _ground(picture: np.ndarray, sprite: Sprite, *, glossy: float):
    """A soft shadow and, on a polished floor, a faint mirror image."""
    pixel = 1 / sprite.unit
    height_of_row = (sprite.feet - sprite.top - 0.5 - np.arange(len(sprite.alpha))) * pixel
    foot = sprite.alpha[height_of_row < 0.14]
    if not foot.size or not foot.max() > 0:
        return
    columns = np.nonzero(foot.max(0) > 0.5)[0]
    if len(columns):
        middle = sprite.left + columns.mean() + 0.5
        half = max(len(columns), np.ptp(columns)) / 2 + 0.05 * sprite.unit
        height = 0.28 * half
        rows = slice(*(min(max(int(sprite.feet + k * height), 0), picture.shape[0]) for k in (-2.6, 2.6)))
        span = slice(*(min(max(int(middle + k * half), 0), picture.shape[1]) for k in (-2.6, 2.6)))
        across = np.exp(-0.9 * ((np.arange(span.start, span.stop, dtype=np.float32) + 0.5 - middle) / half) ** 2)
        along = np.exp(-0.9 * ((np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5 - sprite.feet) / height) ** 2)
        picture[rows, span] *= (1 - 0.52 * along[:, None] * across)[..., None]
    if not glossy:
        return
    first = round(sprite.feet) - sprite.top
    mirror = slice(max(first - int(0.45 * sprite.unit), 0), max(first, 0))
    alpha, rgb = sprite.alpha[mirror][::-1], sprite.rgb[mirror][::-1]
    rows, columns, part = _clip(alpha.shape, round(sprite.feet), sprite.left, picture.shape)
    fade = (glossy * np.exp(-np.arange(alpha.shape[0], dtype=np.float32) * pixel / 0.17))[part[0], None, None]
    picture[rows, columns] += fade * (rgb[part] - picture[rows, columns] * alpha[part][..., None])


def _spring(u: float) -> float:
    """From 0 to 1 with a small overshoot."""
    return max(1 + 2.4 * (u - 1) ** 3 + 1.4 * (u - 1) ** 2, 0.02)


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
