"""Pictures, videos, sounds and concerts that questions are about, rendered once, and put together anew each time.

A sound can be put together out of its windows: in some of them each choice of its sources is heard, so that any of them
can be heard at any time. The same holds for videos. That way a few thousand scenes become as many as one likes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data_pipelines.fbank import normalised_fbank
from data_pipelines.windows import log_mel_windows
from data_pipelines.world.casting import Casting, names_in, pretending, timed
from data_pipelines.world.concerts import SECONDS as CONCERT_SECONDS
from data_pipelines.world.concerts import STEP_S, STEPS, concert
from data_pipelines.world.orders import RATE_HZ, Order
from data_pipelines.world.pretraining import draw_scene
from data_pipelines.world.stage import Performer, Scene
from launch.part_scenes import NAMES, SECONDS, Job, shown, studio

WINDOWS = 16  # of a rendered sound: one for every choice of four sources
Spans = tuple[tuple[int, int], ...]
Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Seen:
    """Somebody in a picture (`box`, in the 224 grid, and `area`, its share of the picture) or on the stage of a video
    (`spans`, whole seconds, once the video is put together).

    `performer` says where it stands.
    """

    kind: str
    box: Box | None = None
    spans: Spans = ()
    area: float = 0.0
    performer: Performer | None = None


@dataclasses.dataclass(frozen=True)
class Heard:
    """Somebody in a sound; `spans` once the sound is put together."""

    kind: str
    spans: Spans
    loudness: float


@dataclasses.dataclass(frozen=True)
class Rendered:
    """What a scene gives.

    Attributes:
        media: pictures, uint8 [n S S 3], or windows of sound, float16 [n F 128].
        who: who is in some of them.
        there: who is in which of them, bool [n who]; None: all in all.
        scene: behind it.
    """

    media: np.ndarray
    who: tuple
    there: np.ndarray | None
    scene: Scene


def render_still(job: Job) -> list[Rendered]:
    """Two pictures, each with who is seen from left to right; every second scene has instruments alone."""
    order = job.order("language still", (160, 120))
    rng = order.rng()
    casting = Casting.of(rng, job.split)
    if job.index % 2:
        scene = draw_scene(casting, order, 5, (2, 2, 3, 3, 4, 5), "avqa")
    else:
        scene = draw_scene(casting, order, 5, (1, 2, 2, 3, 3, 4))
    stage, out = studio().stage(scene), []
    for moment in rng.uniform(0, 5, 2):
        shot = stage.shot(float(moment))
        seen = zip(scene.performers, shot.boxes(224), shot.masks, strict=True)
        who = tuple(Seen(p.kind, box, (), float(mask.mean()), p) for p, box, mask in seen if box)
        out.append(Rendered(shown(shot.frame, rng, job.image_size)[None], who, None, scene))
    return out


def render_video(job: Job) -> list[Rendered]:
    """Ten pictures of one scene with up to three performers, who all move as if they sounded."""
    order = job.order("language video", (160, 120))
    rng = order.rng()
    casting = Casting.of(rng, job.split)
    cast = casting.stand(names_in("avss"), int(rng.choice((1, 2, 3), p=(0.25, 0.4, 0.35))))
    there = turns(rng, len(cast), SECONDS)
    cast = [timed(pretending(casting, p, SECONDS), seen=_runs(there[:, k])) for k, p in enumerate(cast)]
    scene = casting.scene(cast, duration_s=SECONDS, fps=1, size=order.size)
    stage = studio().stage(scene)
    frames = [shown(stage.shot(float(second)).frame, rng, job.image_size) for second in range(SECONDS)]
    return [Rendered(np.stack(frames), tuple(Seen(p.kind, performer=p) for p in cast), there, scene)]


def render_sound(job: Job) -> list[Rendered]:
    """Windows of a second with up to four sources; in every second sound one is clearly louder than the next."""
    order = job.order("language sound", (32, 32))
    rng = order.rng()
    casting = Casting.of(rng, job.split)
    cast = casting.stand(names_in("avss"), 0, int(rng.choice((1, 2, 3, 4), p=(0.1, 0.2, 0.3, 0.4))))
    return _windows(casting, order, cast, clearly=casting.chance(0.5), length_s=1)


def render_music(job: Job) -> list[Rendered]:
    """Windows of two seconds, as concerts are heard, with up to four instruments, one clearly louder than the next."""
    order = job.order("language music", (32, 32))
    rng = order.rng()
    casting = Casting.of(rng, job.split)
    cast = casting.stand(names_in("avqa"), 0, int(rng.choice((1, 2, 3, 4), p=(0.1, 0.2, 0.3, 0.4))))
    return _windows(casting, order, cast, clearly=True, length_s=2)


def _windows(
    casting: Casting, order: Order, cast: Sequence[Performer], *, clearly: bool, length_s: int
) -> list[Rendered]:
    rng = casting.rng
    there = turns(rng, len(cast), WINDOWS)
    ladder = rng.permutation(0.22 / 1.9 ** np.arange(len(cast))).round(4).tolist()
    loudness = ladder if clearly else [casting.loudness() for _ in cast]
    spans = [tuple((a * length_s, b * length_s) for a, b in _runs(there[:, k])) for k in range(len(cast))]
    cast = [timed(p, heard=heard, loudness=level) for p, heard, level in zip(cast, spans, loudness, strict=True)]
    scene = casting.scene(cast, duration_s=WINDOWS * length_s, fps=1, size=order.size)
    wave = studio().stage(scene).sound(rate_hz=RATE_HZ).mean(1).astype(np.float32)
    windows = normalised_fbank(wave.reshape(WINDOWS, length_s * RATE_HZ)).astype(np.float16)
    return [Rendered(windows, tuple(Heard(p.kind, (), p.loudness) for p in cast), there, scene)]


def render_concert(job: Job) -> tuple[Rendered, Rendered]:
    """Ten pictures and ten windows of two seconds of a minute-long concert."""
    order = job.order("language concert", (160, 120))
    rng = order.rng()
    scene = concert(Casting.of(rng, job.split), order)
    stage = studio().stage(scene)
    frames = np.stack([shown(stage.shot(float(STEP_S * k)).frame, rng, job.image_size) for k in range(STEPS)])
    wave = stage.sound(rate_hz=RATE_HZ).mean(1).astype(np.float32)
    windows = log_mel_windows(wave, rule="six_second_grid", seconds=CONCERT_SECONDS).astype(np.float16)
    seen = tuple(Seen(p.kind, performer=p) for p in scene.performers if p.seen)
    heard = tuple(Heard(p.kind, (), p.loudness) for p in scene.performers if p.heard)
    return Rendered(frames, seen, None, scene), Rendered(windows, heard, None, scene)


def turns(rng: np.random.Generator, count: int, items: int) -> np.ndarray:
    """Who of some is there in which picture or window: bool [items count].

    Every choice of them occurs if there are enough of these, nobody too, and from one to the next as little changes as
    can be (a Gray code).
    """
    steps = np.arange(items) * 2**count // items
    there = (steps ^ (steps >> 1))[:, None] >> np.arange(count) & 1 == 1
    return np.roll(there[:, rng.permutation(count)], int(rng.integers(items)), axis=0)


def _runs(there: np.ndarray) -> Spans:
    """Intervals of the seconds that are true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]]).astype(int)))
    return tuple((int(a), int(b)) for a, b in edges.reshape(-1, 2))


def at(spans: Spans, second: int) -> bool:
    """Whether a second lies in one of them."""
    return any(a <= second < b for a, b in spans)


def calendar(spans: Mapping[str, Spans], seconds: int, step: int = 1) -> np.ndarray:
    """Which kinds are there at each of so many moments, `step` seconds apart: bool [seconds kinds]."""
    there = np.zeros((seconds, len(NAMES)), bool)
    for kind, some in spans.items():
        there[:, NAMES.index(kind)] |= [at(some, step * second) for second in range(seconds)]
    return there


@dataclasses.dataclass(frozen=True)
class Pool:
    """Everything of one sort.

    Attributes:
        tokens: what a projector says, float16 [n, items, queries, width].
        who: of each, who is in it.
        there: of each, who is in which item, bool [items performers]; None: all are in all.
        scenes: behind each.
    """

    tokens: np.ndarray
    who: list[tuple]
    there: list[np.ndarray | None]
    scenes: list[Scene]

    @classmethod
    def made(cls, tokens: np.ndarray, found: Sequence[Rendered]) -> Pool:
        """Of what was rendered; scenes without anybody are left out."""
        kept = [k for k, r in enumerate(found) if r.who]
        return cls(tokens[kept], *([getattr(found[k], f) for k in kept] for f in ("who", "there", "scene")))

    @functools.cached_property
    def _of(self) -> dict[str, set[int]]:
        of: dict[str, set[int]] = {name: set() for name in NAMES}
        for k, some in enumerate(self.who):
            for one in some:
                of[one.kind].add(k)
        return of

    @functools.cached_property
    def _having(self) -> Callable[[frozenset[str]], tuple[int, ...]]:
        everything = set(range(len(self.who)))
        return functools.cache(lambda kinds: tuple(sorted(set.intersection(everything, *(self._of[k] for k in kinds)))))

    def draw(self, rng: np.random.Generator, wanted: Sequence[str] = ()) -> int | None:
        """One of them with all that are wanted; None: there is none."""
        options = self._having(frozenset(wanted))
        return int(options[rng.integers(len(options))]) if options else None

    def composed(
        self, rng: np.random.Generator, k: int, spans: Mapping[str, Spans], count: int, step: int = 1
    ) -> np.ndarray:
        """So many items put together out of number `k`, with each kind in its times and no others: [count Q D].

        They stand for moments that are `step` seconds apart.
        """
        there = self.there[k]
        assert there is not None
        items = []
        for number in range(count):
            wanted = [at(spans.get(x.kind, ()), step * number) for x in self.who[k]]
            fit = np.flatnonzero((there == wanted).all(axis=1))
            items.append(int(fit[rng.integers(len(fit))]))
        return self.tokens[k][items]


@dataclasses.dataclass(frozen=True)
class Pools:
    """All that questions are about.

    Windows of `sounds` last a second, those of `music` and `tones` two. `looks` and `tones` belong together: pictures
    and windows of the same concerts.
    """

    stills: Pool
    videos: Pool
    sounds: Pool
    music: Pool
    looks: Pool
    tones: Pool
