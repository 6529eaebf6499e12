"""Minute-long concerts, and questions about them: MUSIC-AVQA.

Ten pictures and ten two-second windows are looked at, at 0, 6, … 54 s. Everything here begins and ends half-way between
two of these moments, so each of them shows clearly what is so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.world.casting import Casting, names_in, playing, timed
from data_pipelines.world.orders import Order, Studio, truth
from data_pipelines.world.questions import ask
from data_pipelines.world.stage import Performer, Scene

SECONDS, STEPS = 60, 10
STEP_S = SECONDS // STEPS
PER_CLIP = 6
SEEN = (0.08, 0.22, 0.34, 0.24, 0.12)  # how often one, two, … are seen
HIDDEN = (0.60, 0.32, 0.08)  # how often nobody, one, two are heard only
LOUDEST, SOFTER = 0.24, 1.8  # root mean square of the loudest; each next one is so many times as soft
CLAUSE = "So the answer is <answer> {answer} </answer>."


def music_avqa(order: Order, studio: Studio) -> dict[str, Any]:
    """One concert and six questions about it, of different templates."""
    rng = order.rng()
    casting = Casting.of(rng, order.split)
    scene = concert(casting, order)
    video_id = f"music_{order.name}"
    folder = order.root / "music-avqa"
    video, audio = folder / "video" / f"{video_id}.mp4", folder / "audio" / f"{video_id}.mp3"
    audio = studio.video(studio.stage(scene), video, audio)
    rows, items = [], []
    for number, q in enumerate(ask(rng, scene, PER_CLIP)):
        question_id = f"{video_id}_{number}"
        rows.append(
            {
                "video_id": video_id,
                "question_id": question_id,
                "type": list(q.type),
                "video_path": video.relative_to(order.root).as_posix(),
                "audio_path": audio.relative_to(order.root).as_posix(),
                "question": q.text,
                "answer": q.answer,
            }
        )
        items.append(
            {
                "id": question_id,
                "type": list(q.type),
                "template": q.template,
                "slots": list(q.slots),
                "answer": q.answer,
            }
        )
        if order.split == "train":
            label = folder / "converted_label" / f"{question_id}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(f"{q.reasoning} {CLAUSE.format(answer=q.answer)}\n", encoding="utf-8")
    return {"rows": rows, "truth": truth(scene, items=items)}


def concert(casting: Casting, order: Order) -> Scene:
    """One to five performers that are seen and some that are only heard, each playing in a time of its own."""
    rng, pool = casting.rng, names_in("avqa")
    seen = int(rng.choice((1, 2, 3, 4, 5), p=SEEN))
    hidden = int(rng.choice(3, p=HIDDEN))
    doubled = seen >= 2 and casting.chance(0.25)
    performers = playing_in_turns(casting, casting.stand(pool, seen, hidden, doubled=doubled))
    return casting.scene(performers, duration_s=SECONDS, fps=max(order.fps // 4, 1), size=order.size)


def playing_in_turns(casting: Casting, cast: Sequence[Performer]) -> list[Performer]:
    """Who of a cast plays, when and how loudly; those who are only heard come last, and all of them play."""
    rng, seen = casting.rng, sum(bool(p.seen) for p in cast)
    hidden, doubled = len(cast) - seen, len({p.kind for p in cast}) < len(cast)
    least = 0 if hidden else 1
    sounding = least if casting.chance(0.1) else int(rng.integers(least, seen + 1))
    order_seen = rng.permutation(seen)
    if doubled and not hidden:
        order_seen = np.roll(order_seen, -int(np.flatnonzero(order_seen == 0)[0]))  # both of the pair, or somebody
    players = set(order_seen[:sounding].tolist()) | set(range(seen, seen + hidden))
    levels = iter(rng.permutation(LOUDEST / SOFTER ** np.arange(len(cast))).tolist())
    together = casting.chance(0.2)  # the first two begin at once
    starts = rng.permutation(np.arange(0, 8))[: len(cast)].tolist()
    if together and len(players) >= 2:
        one, other = sorted(players)[:2]
        starts[other] = starts[one]
    performers = []
    for k, p in enumerate(cast):
        if k not in players:
            # To the eye they play as well: which one is silent has to be heard.
            performers.append(timed(p, moves=_seconds(playing(casting, casting.spans(STEPS), STEPS))))
            continue
        whole = casting.chance(0.35)
        first = 0 if whole else starts[k]
        last = STEPS if whole or casting.chance(0.4) else int(rng.integers(first + 2, STEPS + 1))
        heard = ((first, last),)
        moves = _seconds(playing(casting, heard, STEPS))
        performers.append(timed(p, heard=_seconds(heard), moves=moves, loudness=round(next(levels), 4)))
    return _alike(performers)


def _alike(performers: list[Performer]) -> list[Performer]:
    """Two of a kind play together or not at all, because no ear could tell which of them it hears."""
    first: dict[str, Performer] = {}
    for p in performers:
        first.setdefault(p.kind, p)
    shared = ("heard", "moves", "loudness")
    return [dataclasses.replace(p, **{f: getattr(first[p.kind], f) for f in shared}) for p in performers]


def _seconds(spans) -> tuple[tuple[int, int], ...]:
    """Steps of six seconds → seconds, moved by half a step."""
    return tuple((max(6 * a - 3, 0), SECONDS if b == STEPS else 6 * b - 3) for a, b in spans)
