"""Scenes of their own for parts of small models: drawn by the rules of the training split, from seeds of their own.

No clip of any task is among them, and no combination that is kept for testing.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import multiprocessing
import pathlib
import time
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from data_pipelines.fbank import normalised_fbank
from data_pipelines.world.casting import Casting, names_in, timed
from data_pipelines.world.concerts import LOUDEST, SOFTER
from data_pipelines.world.kinds import KINDS
from data_pipelines.world.orders import RATE_HZ, Order, Studio
from data_pipelines.world.pretraining import draw_scene
from data_pipelines.world.stage import Performer

SHOTS = 2  # pictures of one scene
SECONDS = 10  # of one sound
TURNS, TURN_S = 5, 3  # of one concert: nobody begins or ends within a turn
PLACES, BINS = 5, 28  # performers of a picture at most; steps of a coordinate
NAMES = list(KINDS)


@functools.cache
def studio() -> Studio:
    """One per process, because it keeps sprites."""
    return Studio()


@dataclasses.dataclass(frozen=True)
class Job:
    """What a rendering process needs to know about one scene."""

    split: str
    index: int
    seed: int
    image_size: int
    grid: int

    def order(self, task: str, size: tuple[int, int]) -> Order:
        return Order(pathlib.Path(), task, self.split, self.index, self.seed, size, 1)


def shown(frame: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """A picture as a data set has it: packed with some loss, then resized; uint8 [S S 3]."""
    packed = io.BytesIO()
    Image.fromarray(frame).save(packed, "JPEG", quality=int(rng.integers(50, 96)))
    return np.asarray(Image.open(packed).resize((size, size), Image.Resampling.BICUBIC))


def render_pictures(job: Job) -> list[tuple[np.ndarray, ...]]:
    """Pictures of one scene, each with who is where.

    Returns:
        A picture, uint8 [S S 3]; the class of every cell, uint8 [G G], 0 is nobody; from left to right the class and
        the box x1, y1, x2, y2 of every performer that is seen, int32 [PLACES 5], the box in steps of 1/BINS; whether
        it is taken outdoors, bool [].
    """
    order = job.order("eye", (160, 120))
    rng = order.rng()
    scene = draw_scene(Casting.of(rng, job.split), order, 5, (1, 2, 3, 4, 5))
    stage, out = studio().stage(scene), []
    for moment in rng.uniform(0, 5, SHOTS):
        shot = stage.shot(float(moment))
        classes = np.zeros(shot.masks.shape[1:], np.uint8)
        boxes = []
        for performer, mask, box in zip(scene.performers, shot.masks, shot.boxes(BINS)):
            classes[mask] = 1 + NAMES.index(performer.kind)
            if box:
                boxes.append((1 + NAMES.index(performer.kind), *box))
        placed = np.zeros((PLACES, 5), np.int32)
        placed[: len(boxes)] = np.reshape(sorted(boxes, key=lambda b: b[1] + b[3]), (-1, 5))
        picture = shown(shot.frame, rng, job.image_size)
        cells = Image.fromarray(classes).resize((job.grid, job.grid), Image.Resampling.NEAREST)
        out.append((picture, np.asarray(cells), placed, np.asarray(scene.outdoors)))
    return out


def render_windows(job: Job) -> list[tuple[np.ndarray, np.ndarray]]:
    """Windows of one sound, float16 [F 128], each with how loud every kind is, float32 [K]; 0 is silent."""
    order = job.order("ear", (32, 32))
    rng = order.rng()
    casting = Casting.of(rng, job.split)
    # Two seconds of music, as questions about concerts hear them, in every second sound; single seconds otherwise.
    length, cast = (2, _concert(casting)) if job.index % 2 else (1, _sounds(casting))
    seconds = TURNS * TURN_S if length == 2 else SECONDS
    scene = casting.scene(cast, duration_s=seconds, fps=1, size=order.size)
    wave = studio().stage(scene).sound(rate_hz=RATE_HZ).mean(1)
    starts = within_turns(rng) if length == 2 else np.arange(SECONDS)
    out = []
    for start in starts:
        loud = np.zeros(len(NAMES), np.float32)
        for performer in cast:
            heard = sum(max(0.0, min(b, start + length) - max(a, start)) for a, b in performer.heard)
            if heard >= 0.5:
                loud[NAMES.index(performer.kind)] = performer.loudness
        part = wave[round(start * RATE_HZ) : round((start + length) * RATE_HZ)]
        out.append((normalised_fbank(part.astype(np.float32)).astype(np.float16), loud))
    return out


def within_turns(rng: np.random.Generator) -> np.ndarray:
    """Where windows of two seconds start, one in every turn of a concert: seconds, float64 [TURNS]."""
    return TURN_S * np.arange(TURNS) + rng.uniform(0, TURN_S - 2, TURNS)


def _sounds(casting: Casting) -> list[Performer]:
    """One to four of all kinds, each as loud as it happens to be."""
    cast = casting.stand(names_in("avss"), 0, int(casting.rng.choice((1, 2, 3, 4), p=(0.3, 0.4, 0.2, 0.1))))
    return [timed(p, heard=casting.spans(SECONDS), loudness=casting.loudness()) for p in cast]


def _concert(casting: Casting) -> list[Performer]:
    """One to six instruments, each `SOFTER` times as soft as the next, as in a concert; more of them at once."""
    count = int(casting.rng.choice((1, 2, 3, 4, 5, 6), p=(0.1, 0.2, 0.25, 0.25, 0.15, 0.05)))
    levels = casting.rng.permutation(LOUDEST / SOFTER ** np.arange(count)).tolist()
    cast = casting.stand(names_in("avqa"), 0, count)
    spans = [[(TURN_S * a, TURN_S * b) for a, b in casting.spans(TURNS, shortest=1)] for _ in cast]
    return [timed(p, heard=heard, loudness=round(level, 4)) for p, heard, level in zip(cast, spans, levels)]


def rendered(render: Callable[[Job], list], jobs: list[Job], processes: int) -> list:
    """All examples of all jobs, in order, whatever the number of processes."""
    started, out = time.monotonic(), []
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for done, some in enumerate(pool.imap(render, jobs, chunksize=8), 1):
            out += some
            if done % 500 == 0 or done == len(jobs):
                print(f"rendered {done}/{len(jobs)} scenes in {time.monotonic() - started:.0f} s", flush=True)
    return out


def batches(groups: list[list[np.ndarray]], rows: int, seed: int) -> Iterator[list[np.ndarray]]:
    """Endless batches, each out of one group (arrays of one length), groups in turn, shuffled anew every time."""

    def of(group: list[np.ndarray], rng: np.random.Generator) -> Iterator[list[np.ndarray]]:
        while True:
            order = rng.permutation(len(group[0]))
            for at in range(0, len(order) - rows + 1, rows):
                chosen = order[at : at + rows]
                yield [array[chosen] for array in group]

    turns = [of(group, np.random.default_rng([seed, k])) for k, group in enumerate(groups)]
    while True:
        for turn in turns:
            yield next(turn)
