"""The nine tasks, asked about media that are put together anew each time.

Wording of questions and answers, roles and times follow the rules of the training split of the generated world; who is
on the stage and who is heard comes from what was rendered once (`launch.language_media`).
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from crab_jax.tasks import TASKS
from crab_jax.tasks.base import Row
from data_pipelines.world import concerts, events, expressions
from data_pipelines.world.casting import Casting, names_in, reserved_pair, timed
from data_pipelines.world.expressions import NULL_SHARE, UNSEEN
from data_pipelines.world.kinds import KINDS
from data_pipelines.world.orders import Order
from data_pipelines.world.questions import MAKERS, Question, ask
from data_pipelines.world.stage import Performer, Scene
from launch.language_media import Pools, Seen, calendar
from launch.language_questions import Lesson
from launch.part_scenes import NAMES, SECONDS

LEAST_AREA = 0.004  # of the picture, that a sounding performer must show
AGAIN = 0.75  # of the concerts are played again: others of those on the stage play, at other times
ELSEWHERE = 0.5  # of these are played by those of a single picture
CLEARLY = 1.4  # so many times as loud as the next one is what "the loudest" needs
# Whether somebody is on a list; template → how often.
AMONG = {"sound_exists": 1, "is_seen": 1, "are_both_seen": 1}
# Two lists, places on one, or times; template → how often, because some are found later than others.
COMPARING = {
    "how_many_sounding": 1, "how_many_silent": 1, "voice_over": 1, "from_the_video": 1, "how_many_seen": 3,
    "how_many_of": 1, "louder": 8, "louder_side": 1, "longer": 3, "longer_side": 1, "where_first": 2,
    "where_loudest": 1, "first_from": 1, "beside": 2, "beside_the_first": 2, "who_starts": 2,
}  # fmt: skip
# Task → how often. Who of those in a picture makes a sound is learned soonest, what an expression refers to latest.
SHARES = {
    "avqa": 24, "ave": 3, "avvp": 3, "avcap": 1.5, "arig": 4, "s4": 0.5, "ms3": 1, "avss": 0.5, "ref-avs": 5,
}  # fmt: skip


def _row(q: Question) -> Row:
    said = f"{q.reasoning} {concerts.CLAUSE.format(answer=q.answer)}"
    return Row(question=q.text, answer=q.answer, label_text=said)


def conclusions(rng: np.random.Generator, among: float = 0.0, comparing: float = 0.0) -> Iterator[Lesson]:
    """Endless questions about concerts, with what was noticed in these in the answer: only to conclude is left.

    They are those of MUSIC-AVQA without their media, and about half as long. `among` and `comparing`: of such shares
    of the concerts only the questions of `AMONG` and of `COMPARING` are taken, which are learned late.
    """
    everything = sum(map(len, MAKERS.values()))
    spec, nothing = TASKS["avqa"], np.zeros((0, 0, 0), np.float16)
    nobody = np.zeros((0, len(NAMES)), bool)
    while True:
        order = Order(pathlib.Path(), "language conclusions", "train", 0, 0, (32, 32), 1)
        concert = concerts.concert(Casting(rng, False), order)
        chosen = (AMONG, COMPARING, None)[int(rng.choice(3, p=(among, comparing, max(1 - among - comparing, 0.0))))]
        if chosen:
            there = [q for q in ask(rng, concert, everything) if q.template in chosen]
            often = np.array([chosen[q.template] for q in there], float)
            some = rng.choice(len(there), min(len(there), 3), replace=False, p=often / often.sum()) if there else ()
            asked_for = [there[k] for k in some]
        else:
            asked_for = list(ask(rng, concert, 3))
        for q in asked_for:
            row = _row(q)
            asked = spec.prompt(row).rpartition(">\n")[2]  # without its media
            blind = (nothing, nothing, None, nobody, nobody, (), {})
            sort = f"conclusion {q.template}"
            yield Lesson(sort, asked, spec.target(row), *blind, given=q.noticed, concluded=q.concluded)


class Tasks:
    """Draws lessons of the nine tasks from pools of rendered media."""

    def __init__(self, rng: np.random.Generator, pools: Pools):
        self._rng, self._pools, self._casting = rng, pools, Casting(rng, False)
        self._names = {vocabulary: set(names_in(vocabulary)) for vocabulary in ("ave", "avvp", "avss", "avqa")}
        self._bands: dict[int, list[int]] = {}  # how many they are → where they are
        for k, who in enumerate(pools.stills.who):
            if {s.kind for s in who} <= self._names["avqa"]:
                self._bands.setdefault(len(who), []).append(k)

    def __iter__(self) -> Iterator[Lesson]:
        """Endless; what does not come together is drawn again."""
        shares = np.array([*SHARES.values()]) / sum(SHARES.values())
        makers: dict[str, Callable[[str], Lesson | None]] = {
            "avqa": self._avqa, "ave": self._ave, "avvp": self._avvp, "avcap": self._avcap, "ref-avs": self._ref_avs,
        }  # fmt: skip
        while True:
            task = str(self._rng.choice(list(SHARES), p=shares))
            if (lesson := makers.get(task, self._moment)(task)) is not None:
                yield lesson

    def _lesson(
        self, task: str, row: Row, seen: np.ndarray, heard: np.ndarray, performers: Sequence[Performer], step: int = 1,
        marked: tuple[str, ...] | None = None,
    ) -> Lesson:  # fmt: skip
        """`performers`: who is seen and heard when, in media whose items are `step` seconds apart."""
        spec = TASKS[task]
        there = []
        for sense, items in (("seen", seen), ("heard", heard)):
            spans: dict[str, tuple] = {}
            for p in performers:
                spans[p.kind] = (*spans.get(p.kind, ()), *getattr(p, sense))
            there.append(calendar(spans, len(items), step))
        placed = tuple(p.kind for p in performers if p.seen)
        loudness = {p.kind: p.loudness for p in performers if p.heard}
        return Lesson(task, spec.prompt(row), spec.target(row), seen, heard, marked, *there, placed, loudness)

    # ------------------------------------------------------------------------------------------ ten-second videos

    def _on_stage(self, vocabulary: str) -> tuple[int, list[Performer]] | None:
        """A video and those on its stage whom the vocabulary knows, from left to right."""
        k = self._pools.videos.draw(self._rng)
        cast = [s.performer for s in self._pools.videos.who[k] if s.kind in self._names[vocabulary]]
        return (k, cast) if cast else None

    def _off_stage(self, vocabulary: str, cast: Sequence[Performer], count: int) -> list[Performer] | None:
        """So many who are only heard; none whom training keeps apart from the others."""
        kinds = [p.kind for p in cast]
        for name in self._rng.permutation(sorted(self._names[vocabulary])).tolist():
            if len(kinds) == len(cast) + count:
                break
            if name not in kinds and not any(reserved_pair(name, k) for k in kinds):
                kinds.append(name)
        if len(kinds) < len(cast) + count:
            return None
        return [Performer(kind, 0.5, seen=()) for kind in kinds[len(cast) :]]

    def _with_sound(self, k: int, performers: list[Performer]) -> tuple[list[Performer], np.ndarray, np.ndarray] | None:
        """Performers with the loudness that they have in what is heard, pictures and windows."""
        rng, pools = self._rng, self._pools
        sound = pools.sounds.draw(rng, [p.kind for p in performers if p.heard])
        if sound is None:
            return None
        loudness = {h.kind: h.loudness for h in pools.sounds.who[sound]}
        performers = [timed(p, loudness=loudness[p.kind]) if p.heard else p for p in performers]
        seen = pools.videos.composed(rng, k, {p.kind: p.seen for p in performers}, SECONDS)
        heard = pools.sounds.composed(rng, sound, {p.kind: p.heard for p in performers}, SECONDS)
        return performers, seen, heard

    def _ave(self, task: str) -> Lesson | None:
        casting = self._casting
        if (found := self._on_stage("ave")) is None:
            return None
        k, cast = found
        off = self._off_stage("ave", cast, int(casting.chance((0.8, 0.6, 1.0)[len(cast) - 1])))
        if off is None:
            return None
        who = int(self._rng.integers(len(cast)))
        seen, heard = events.overlapping(casting)
        performers = [
            timed(p, seen=(seen if n == who else events.overlapping(casting)[0],), heard=(heard,) if n == who else ())
            for n, p in enumerate(cast)
        ]
        performers += [timed(p, heard=(events.overlapping(casting)[1],)) for p in off]
        if (together := self._with_sound(k, performers)) is None:
            return None
        performers, pictures, windows = together
        said = events.event_said_aloud(self._rng, performers, who, seen, heard)
        return self._lesson(task, Row(label_text=said), pictures, windows, performers)

    def _avvp(self, task: str) -> Lesson | None:
        casting = self._casting
        if (found := self._on_stage("avvp")) is None:
            return None
        k, cast = found
        cast = [cast[c] for c in sorted(self._rng.permutation(len(cast))[: int(self._rng.integers(0, 4))])]
        most = min(2, 3 - len(cast))
        off = self._off_stage("avvp", cast, int(self._rng.integers(0 if cast else 1, most + 1)))
        if off is None:
            return None
        performers = [
            timed(p, seen=casting.spans(SECONDS), heard=casting.spans(SECONDS) if casting.chance(0.73) else ())
            for p in cast
        ]
        performers += [timed(p, heard=casting.spans(SECONDS)) for p in off]
        if (together := self._with_sound(k, performers)) is None:
            return None
        performers, pictures, windows = together
        row = Row(label_text=events.parsed_aloud(self._rng, performers))
        return self._lesson(task, row, pictures, windows, performers)

    def _avcap(self, task: str) -> Lesson | None:
        casting = self._casting
        if (found := self._on_stage("avss")) is None:
            return None
        k, cast = found
        off = self._off_stage("avss", cast, int(casting.chance(0.4)))
        if off is None:
            return None
        performers = [timed(p, seen=((0, SECONDS),), heard=()) for p in cast] + off
        for n, p in enumerate(performers):
            if n >= len(cast) or not casting.chance(0.4):
                start = int(self._rng.integers(3, 7)) if casting.chance(0.3) else 0
                performers[n] = timed(p, heard=((start, SECONDS),))
        if (together := self._with_sound(k, performers)) is None:
            return None
        performers, pictures, windows = together
        scene = dataclasses.replace(self._pools.videos.scenes[k], performers=tuple(performers))
        return self._lesson(task, Row(caption=events.caption(self._rng, scene)), pictures, windows, performers)

    # ----------------------------------------------------------------------------------------------------- concerts

    def _avqa(self, task: str) -> Lesson | None:
        looks, tones = self._pools.looks, self._pools.tones
        k = looks.draw(self._rng)
        scene, pictures, windows = looks.scenes[k], looks.tokens[k], tones.tokens[k]
        if self._casting.chance(AGAIN):
            if self._bands and self._casting.chance(ELSEWHERE):
                scene, pictures = self._band()
            if (played := self._played_again(scene)) is None:
                return None
            scene, windows = played
        for q in ask(self._rng, scene, 1):
            lesson = self._lesson(task, _row(q), pictures, windows, scene.performers, concerts.STEP_S)
            return dataclasses.replace(lesson, noticed=q.noticed, concluded=q.concluded, outdoors=scene.outdoors)
        return None

    def _band(self) -> tuple[Scene, np.ndarray]:
        """Those in one picture of instruments alone, as the stage of a concert: it is shown at every step."""
        sizes = [*self._bands]
        shares = np.array([concerts.SEEN[size - 1] for size in sizes])
        band = self._bands[int(self._rng.choice(sizes, p=shares / shares.sum()))]
        k = band[int(self._rng.integers(len(band)))]
        stills, whole = self._pools.stills, ((0, concerts.SECONDS),)
        cast = tuple(timed(s.performer, seen=whole, heard=()) for s in stills.who[k])
        scene = dataclasses.replace(stills.scenes[k], performers=cast, duration_s=concerts.SECONDS)
        return scene, np.repeat(stills.tokens[k], concerts.STEPS, axis=0)

    def _played_again(self, scene: Scene) -> tuple[Scene, np.ndarray] | None:
        """The same on the stage, but others of them play, at other times and with others off the stage."""
        casting, music = self._casting, self._pools.music
        cast = [timed(p, heard=(), moves=None) for p in scene.performers if p.seen]
        off = self._off_stage("avqa", cast, int(self._rng.choice(3, p=concerts.HIDDEN)))
        if off is None:
            return None
        performers = concerts.playing_in_turns(casting, [*cast, *off])
        spans = {p.kind: p.heard for p in performers if p.heard}
        if (sound := music.draw(self._rng, list(spans))) is None:
            return None
        loudness = {h.kind: h.loudness for h in music.who[sound]}
        performers = [timed(p, loudness=loudness[p.kind]) if p.heard else p for p in performers]
        windows = music.composed(self._rng, sound, spans, concerts.STEPS, concerts.STEP_S)
        return dataclasses.replace(scene, performers=tuple(performers)), windows

    # ----------------------------------------------------------------------------------------------- single pictures

    def _moment(self, task: str) -> Lesson | None:
        """Somebody, or some, in a picture make the sound of a second."""
        rng, pools = self._rng, self._pools
        k = pools.stills.draw(rng)
        seen = pools.stills.who[k]
        count = 1 if task in ("arig", "s4") else int(rng.choice((1, 2, 3), p=(0.5, 0.35, 0.15)))
        if len(seen) < max(count, 2 if task == "arig" else 1):  # a single one is found without listening
            return None
        sounding = [seen[c] for c in sorted(rng.permutation(len(seen))[:count])]
        kinds = [s.kind for s in sounding]
        if min(s.area for s in sounding) < LEAST_AREA or (sound := pools.sounds.draw(rng, kinds)) is None:
            return None
        second = int(rng.integers(5))
        window = pools.sounds.composed(rng, sound, {kind: ((0, 1),) for kind in kinds}, 1)
        now = ((0, 1),)
        performers = [timed(s.performer, seen=now, heard=now if s in sounding else ()) for s in seen]
        media = pools.stills.tokens[k], window
        if task == "arig":
            row = Row(box=sounding[0].box, label=KINDS[kinds[0]].name, second=second)
            return self._lesson(task, row, *media, performers)
        return self._lesson(task, Row(label=", ".join(kinds), second=second), *media, performers, marked=tuple(kinds))

    def _ref_avs(self, task: str) -> Lesson | None:
        """An expression for one in a picture, told by what all of them sound like for ten seconds."""
        rng, pools, casting = self._rng, self._pools, self._casting
        k = pools.stills.draw(rng)
        seen: tuple[Seen, ...] = pools.stills.who[k]
        if not 2 <= len(seen) <= 4 or any(s.kind in UNSEEN for s in seen):
            return None
        sounding = [s.kind for s in seen if casting.chance(0.7)]
        while sounding and (sound := pools.sounds.draw(rng, sounding)) is None:
            sounding.pop(int(rng.integers(len(sounding))))
        if not sounding:
            sound = pools.sounds.draw(rng)
        heard = {h.kind: h for h in pools.sounds.who[sound]}
        starts = rng.permutation(np.arange(0, 7, 2))[: len(seen)].tolist()
        performers = []
        for s, start in zip(seen, starts):
            p = timed(s.performer, seen=((0, SECONDS),), heard=())
            if s.kind in sounding:
                end = SECONDS if casting.chance(0.6) else int(rng.integers(start + 3, SECONDS + 1))
                p = timed(p, heard=((start, end),), loudness=heard[s.kind].loudness)
            performers.append(p)
        scene = Scene(tuple(performers), duration_s=SECONDS)
        levels = sorted(p.loudness for p in performers if p.heard)
        clear = all(b >= CLEARLY * a for a, b in itertools.pairwise(levels))
        if casting.chance(NULL_SHARE):
            true = list(expressions.about_nobody(scene, rng, [name for name in NAMES if name not in UNSEEN]))
        else:
            true = [e for e in expressions.about_somebody(scene) if clear or not re.search("loud|soft", e.text)]
        (one,) = expressions.pick(rng, true, 1)
        windows = pools.sounds.composed(rng, sound, {p.kind: p.heard for p in performers}, SECONDS)
        marked = () if one.who is None else (performers[one.who].kind,)
        return self._lesson(task, Row(exp=one.text), pools.stills.tokens[k], windows, performers, marked=marked)


def tasks(rng: np.random.Generator, pools: Pools) -> Iterator[Lesson]:
    """Endless lessons of the nine tasks."""
    return iter(Tasks(rng, pools))
