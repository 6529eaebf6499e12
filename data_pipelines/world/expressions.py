"""Expressions that refer to one performer by what it is, where it stands and how it sounds, or to none: Ref-AVS."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipelines.world import files, phrases
from data_pipelines.world.casting import Casting, names_in, timed
from data_pipelines.world.orders import Order, Studio, binary, truth
from data_pipelines.world.stage import Scene
from data_pipelines.world.stills import areas

SECONDS = 10
UNSEEN = ("cat", "piano", "helicopter", "saxophone")  # objects of `test_u`; on no stage of the other splits
PER_CLIP = 3
NULL_SHARE = 0.1  # of training expressions, so that "nothing" can be learnt


@dataclasses.dataclass(frozen=True)
class Expression:
    """Text and the performer it means, None for nobody; `sense` is what one has to know: "visual" or "both"."""

    text: str
    who: int | None
    sense: str


def ref_avs(order: Order, studio: Studio) -> dict[str, Any]:
    """Two to four performers that are seen all the time, and three expressions about them."""
    rng = order.rng()
    casting = Casting.of(rng, order.split)
    scene, found = _scene_with_expressions(casting, order)
    video = f"ref_{order.name}"
    folder = order.root / "ref-avs" / "REFAVS"
    stage = studio.stage(scene)
    shots = [stage.shot(second + 0.5) for second in range(SECONDS)]
    studio.stills(stage, folder / "media" / video, shots)
    rows, items = [], []
    for number, expression in enumerate(found):
        who = expression.who
        fid = 0 if who is None else who + 1
        word = "null" if who is None else scene.performers[who].kind
        masks = folder / "gt_mask" / video / f"fid_{fid}"
        masks.mkdir(parents=True, exist_ok=True)
        for second, shot in enumerate(shots):
            files.write_png(masks / f"0000{second}.png", binary(shot, [] if who is None else [who]))
        rows.append([video, f"{video}_{word}_{number}", order.split, str(fid), expression.text])
        items.append({"who": who, "sense": expression.sense, "exp": expression.text})
    return {"rows": rows, "truth": truth(scene, items=items, areas=areas(shots))}


def _scene_with_expressions(casting: Casting, order: Order) -> tuple[Scene, list[Expression]]:
    rng, familiar = casting.rng, [name for name in names_in("avss") if name not in UNSEEN]
    while True:
        count = int(rng.choice((2, 3, 4), p=(0.35, 0.45, 0.20)))
        cast = casting.stand(names_in("avss") if order.split == "test_u" else familiar, count)
        loudness = 0.22 / 1.9 ** np.arange(count)  # steps that one hears
        starts = rng.permutation(np.arange(0, 7, 2))[:count].tolist()
        performers = []
        for k, p in enumerate(cast):
            moves = ((0, SECONDS),)  # to the eye everybody plays; who sounds has to be heard
            if casting.chance(0.3):
                performers.append(timed(p, moves=moves))
                continue
            end = SECONDS if casting.chance(0.6) else int(rng.integers(starts[k] + 3, SECONDS + 1))
            performers.append(timed(p, heard=((starts[k], end),), moves=moves))
        order_of_loudness = rng.permutation(count).tolist()
        performers = [
            timed(p, loudness=round(float(loudness[order_of_loudness[k]]), 4)) for k, p in enumerate(performers)
        ]
        if not any(p.heard for p in performers):
            continue
        scene = casting.scene(performers, duration_s=SECONDS, fps=order.fps, size=order.size)
        some, none = list(about_somebody(scene)), list(about_nobody(scene, rng, familiar))
        if order.split == "test_u":
            some = [e for e in some if scene.performers[e.who].kind in UNSEEN]
        if order.split == "test_n":
            return scene, pick(rng, none, PER_CLIP)
        if len(some) < PER_CLIP:
            continue
        found = pick(rng, some, PER_CLIP)
        if order.split == "train":
            found = [pick(rng, none, 1)[0] if casting.chance(NULL_SHARE) else e for e in found]
        return scene, found


def pick(rng: np.random.Generator, expressions: list[Expression], count: int) -> list[Expression]:
    """Some of them, rather those that need both senses."""
    weights = np.array([{"both": 5.0, "visual": 1.0}[e.sense] for e in expressions])
    chosen = rng.choice(len(expressions), min(count, len(expressions)), replace=False, p=weights / weights.sum())
    return [expressions[k] for k in sorted(chosen.tolist())]


def about_somebody(scene: Scene) -> Iterator[Expression]:
    """Everything that can be said about exactly one performer of the scene."""
    cast, count = scene.performers, len(scene.performers)
    heard = [k for k, p in enumerate(cast) if p.heard]
    silent = [k for k, p in enumerate(cast) if not p.heard]
    nouns = [phrases.noun(p.kind) for p in cast]
    for k in range(count):
        yield Expression(f"The {nouns[k]}", k, "visual")
        if k + 1 < count:
            yield Expression(f"The one just left of the {nouns[k + 1]}", k, "visual")
            yield Expression(f"The one just right of the {nouns[k]}", k + 1, "visual")
    yield Expression("The leftmost one" if count > 2 else "The one on the left", 0, "visual")
    yield Expression("The rightmost one" if count > 2 else "The one on the right", count - 1, "visual")
    if count == 3:
        yield Expression("The one in the middle", 1, "visual")
    if len(heard) == 1:
        yield Expression("The only one that makes a sound", heard[0], "both")
        yield Expression("What sounds in this video", heard[0], "both")
    if len(silent) == 1:
        yield Expression("The one that never makes a sound", silent[0], "both")
        yield Expression("The silent one", silent[0], "both")
    if len(heard) >= 2:
        by_loudness = sorted(heard, key=lambda k: cast[k].loudness)
        yield Expression("Making the loudest sound", by_loudness[-1], "both")
        yield Expression("The loudest of all", by_loudness[-1], "both")
        yield Expression("Making the softest sound", by_loudness[0], "both")
        by_start = sorted(heard, key=lambda k: cast[k].heard[0][0])
        yield Expression("The first one to make a sound", by_start[0], "both")
        yield Expression("Starting to sound last", by_start[-1], "both")
        lengths = sorted((cast[k].heard[0][1] - cast[k].heard[0][0], k) for k in heard)
        if lengths[-1][0] >= lengths[-2][0] + 2:
            yield Expression("The one that sounds the longest", lengths[-1][1], "both")
        yield Expression("The sounding one farthest to the left", heard[0], "both")
        yield Expression("The sounding one farthest to the right", heard[-1], "both")
        for one, after in itertools.pairwise(by_start):
            yield Expression(f"The one that starts to sound right after the {nouns[one]}", after, "both")
    for k in heard:
        if sum(other < k for other in heard) == 0 and k + 1 < count:
            yield Expression(f"The sounding one to the left of the {nouns[k + 1]}", k, "both")


def about_nobody(scene: Scene, rng: np.random.Generator, pool: list[str]) -> Iterator[Expression]:
    """Things to say that are true of no performer of the scene."""
    cast = scene.performers
    absent = [name for name in pool if name not in {p.kind for p in cast}]
    for kind in rng.choice(absent, 3, replace=False).tolist():
        noun = phrases.noun(kind)
        yield Expression(f"The {noun}", None, "visual")
        yield Expression(f"The {noun} that makes a sound", None, "visual")
    for p in cast:
        noun = phrases.noun(p.kind)
        yield Expression(f"The silent {noun}" if p.heard else f"The {noun} that makes a sound", None, "both")
    yield Expression(f"The one to the left of the {phrases.noun(cast[0].kind)}", None, "visual")
    yield Expression(f"The one to the right of the {phrases.noun(cast[-1].kind)}", None, "visual")
    if all(p.heard for p in cast):
        yield Expression("The one that never makes a sound", None, "both")
