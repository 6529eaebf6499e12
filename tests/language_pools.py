"""Pools of media that nobody rendered: what every item says is its own number, so that it can be found again."""

import numpy as np

from configs import mini
from crab_jax.config import build
from crab_jax.model import CrabConfig
from crab_jax.tokens import Tokenizer
from data_pipelines.world.casting import Casting, names_in, reserved_pair
from data_pipelines.world.concerts import concert
from data_pipelines.world.stage import Performer, Scene
from launch import language_media as lm
from launch import language_rows as lr
from launch.language_media import Heard, Pool, Pools, Rendered, Seen
from launch.part_scenes import NAMES, Job

CONFIG = build(CrabConfig, mini.get_config().model.to_dict())
CAT, DRUM, CELLO = (next(k for k in NAMES if k.startswith(word)) for word in ("cat", "drum", "cello"))


def pool(who, items, first=0, queries=4, width=160, there=None, scenes=None):
    """What every item says is its own number, so that it can be found again."""
    tokens = first + np.arange(len(who) * items).reshape(len(who), items, 1, 1)
    there, scenes = there or [None] * len(who), scenes or [Scene(())] * len(who)
    found = [Rendered(np.zeros((items, 1)), w, t, s) for w, t, s in zip(who, there, scenes, strict=True)]
    return Pool.made(np.broadcast_to(tokens, (len(who), items, queries, width)).astype(np.float32), found)


def stage(rng, seconds, most, names=NAMES):
    """A few of the kinds, none kept apart from another, and who of them is there when."""
    kinds: list[str] = []
    for name in rng.permutation(names).tolist():
        if len(kinds) < most and not any(reserved_pair(name, kind) for kind in kinds):
            kinds.append(name)
    return kinds, lm.turns(rng, len(kinds), seconds)


def pools():
    """Of every sort some, with all kinds."""
    rng = np.random.default_rng(5)

    def seen(kind, place):
        left = int(200 * place)
        return Seen(kind, (left, 10, left + 20, 90), (), 0.02, Performer(kind, place, heard=()))

    videos = [stage(rng, 10, int(rng.integers(1, 4))) for _ in range(60)]
    sounds = [stage(rng, lm.WINDOWS, 4) for _ in range(400)]
    music = [stage(rng, lm.WINDOWS, 4, names_in("avqa")) for _ in range(400)]
    stills = [stage(rng, 1, int(rng.integers(1, 5)))[0] for _ in range(200)]
    orders = [Job("train", k, 9, 32, 0).order("language concert", (32, 32)) for k in range(20)]
    played = [concert(Casting(order.rng(), False), order) for order in orders]
    spread = lambda kinds: tuple(seen(kind, (k + 0.5) / len(kinds)) for k, kind in enumerate(kinds))  # noqa: E731
    return Pools(
        stills=pool(
            [spread(kinds) for kinds in stills], 1, 1,
            scenes=[Scene((), setting=("hall", "park")[k % 2]) for k in range(len(stills))],
        ),
        videos=pool(
            [spread(kinds) for kinds, _ in videos], 10, 1000, there=[there for _, there in videos],
            scenes=[Scene(tuple(s.performer for s in spread(kinds))) for kinds, _ in videos],
        ),
        sounds=pool(
            [tuple(Heard(kind, (), 0.05 * 1.9**k) for k, kind in enumerate(kinds)) for kinds, _ in sounds],
            lm.WINDOWS, 10000, there=[there for _, there in sounds],
        ),
        music=pool(
            [tuple(Heard(kind, (), 0.05 * 1.9**k) for k, kind in enumerate(kinds)) for kinds, _ in music],
            lm.WINDOWS, 20000, there=[there for _, there in music],
        ),
        looks=pool([tuple(Seen(p.kind) for p in s.performers if p.seen) for s in played], 10, 100000, scenes=played),
        tones=pool([tuple(Heard(p.kind, (), 0.1) for p in s.performers) for s in played], 10, 200000, scenes=played),
    )  # fmt: skip


POOLS = pools()


def shown(tokens, sort):
    """Item by item who is there: what the numbers in the tokens stand for."""
    where, items = (POOLS.videos, 10) if sort == "videos" else (getattr(POOLS, sort), lm.WINDOWS)
    numbers = tokens[:, 0, 0].astype(int) - int(where.tokens[0, 0, 0, 0])
    return [
        {x.kind for x, here in zip(where.who[n // items], where.there[n // items][n % items]) if here} for n in numbers
    ]


def drawn(seed, *, rows, tasks, words=0.0):
    some = lr.lessons(np.random.default_rng(seed), POOLS, of_tasks=tasks, of_words=words)
    return lr.Rows(some, tokenizer=Tokenizer.tiny(), rows=rows, queries=4, width=160)
