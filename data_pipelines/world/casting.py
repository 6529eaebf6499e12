"""Draws who is in a scene, where and when; some combinations are kept out of training.

A pair of kinds, or a kind at one side of the picture, may be reserved: no training clip has it, half of the clips of
every other split have at least one. What is reserved is decided by the names alone, so it is the same for every seed.
"""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipelines.world.kinds import KINDS
from data_pipelines.world.scenery import SCENERY
from data_pipelines.world.stage import Performer, Prop, Scene

SIDES = ("left", "middle", "right")
_GAPS = {1: 0.0, 2: 0.42, 3: 0.36, 4: 0.28, 5: 0.22}  # least distance of neighbours, as a share of the stage
_SIZES = {1: (0.90, 1.14), 2: (0.78, 1.00), 3: (0.66, 0.86), 4: (0.56, 0.72), 5: (0.50, 0.64)}
_TRIES = 1000
Spans = tuple[tuple[int, int], ...]


def names_in(vocabulary: str) -> list[str]:
    """Kinds that a vocabulary ("avqa", "ave", "avvp") knows; "avss" knows all."""
    return [k.name for k in KINDS.values() if vocabulary == "avss" or vocabulary in k.names]


def side_of(place: float) -> str:
    """The third of the stage."""
    return SIDES[min(int(place * 3), 2)]


def reserved_pair(one: str, other: str) -> bool:
    """Whether two kinds never share a training clip: about one pair in eight."""
    return zlib.crc32("|".join(sorted((one, other))).encode()) % 8 == 0


def reserved_side(kind: str, side: str) -> bool:
    """Whether a kind never stands at that side in training: one side for about half of the kinds."""
    return zlib.crc32(f"{kind} stands".encode()) % 6 == SIDES.index(side)


def reserved(performers: Iterable[Performer]) -> bool:
    """Whether performers hold a combination that training never shows; nobody's side counts while hidden."""
    performers = list(performers)
    pairs = itertools.combinations(sorted({p.kind for p in performers}), 2)
    return any(reserved_pair(*pair) for pair in pairs) or any(
        reserved_side(p.kind, side_of(p.place)) for p in performers if p.seen
    )


@dataclasses.dataclass(frozen=True)
class Casting:
    """The rules of one clip.

    Attributes:
        rng: everything is drawn from it.
        novel: whether to show a reserved combination; None: does not matter.
    """

    rng: np.random.Generator
    novel: bool | None

    @classmethod
    def of(cls, rng: np.random.Generator, split: str) -> Casting:
        """Training shows no reserved combination, every second clip of another split does."""
        return cls(rng, False if split == "train" else bool(rng.random() < 0.5))

    def stand(self, pool: Sequence[str], seen: int, unseen: int = 0, *, doubled: bool = False) -> list[Performer]:
        """Performers of different kinds, silent so far.

        Args:
            pool: kinds to choose from.
            seen: how many stand on the stage; they come first, from left to right.
            unseen: how many are off the stage.
            doubled: the last of those seen is of the kind of the first.
        """
        rng = self.rng
        for _ in range(_TRIES):
            kinds = [pool[k] for k in rng.permutation(len(pool))[: seen + unseen - doubled]]
            if doubled:
                kinds.insert(seen - 1, kinds[0])
            order = [*rng.permutation(seen).tolist(), *range(seen, seen + unseen)]
            places = self._places(seen)
            low, high = _SIZES[max(seen, 1)]
            performers = [
                Performer(
                    kinds[who],
                    places[k] if k < seen else 0.5,
                    depth=round(float(rng.uniform(0.08, 0.92)), 3),
                    size=round(float(rng.uniform(low, high)), 3),
                    seen=((0.0, float("inf")),) if k < seen else (),
                    heard=(),
                )
                for k, who in enumerate(order)
            ]
            if self.novel is None or reserved(performers) == self.novel:
                return performers
        if self.novel and not reserved(performers):
            return performers  # one that is only heard has neither a neighbour nor a side
        raise RuntimeError(f"every cast of {seen} + {unseen} out of {', '.join(pool)} has a reserved combination")

    def _places(self, count: int) -> list[float]:
        gap = _GAPS[max(count, 1)]
        slack = np.sort(self.rng.uniform(0, 1 - gap * (count - 1), count)) if count else np.zeros(0)
        return [round(float(s + gap * k), 3) for k, s in enumerate(slack)]

    def scene(self, performers: Sequence[Performer], *, duration_s: float, fps: int, size: tuple[int, int]) -> Scene:
        """A scene around performers: hall or park, scenery, noise, a camera that drifts."""
        rng = self.rng
        scenery = []
        for name in rng.choice(list(SCENERY), int(rng.choice(3, p=(0.35, 0.4, 0.25))), replace=False):
            front = rng.random() < 0.25
            depth = rng.uniform(0.9, 1.0) if front else rng.uniform(0.0, 0.25)
            width = rng.uniform(0.30, 0.45) if front else rng.uniform(0.55, 0.85)
            scenery.append(Prop(str(name), *(round(float(v), 3) for v in (rng.random(), depth, width))))
        return Scene(
            tuple(performers),
            seed=int(rng.integers(1 << 31)),
            duration_s=float(duration_s),
            fps=fps,
            width=size[0],
            height=size[1],
            ambience=round(float(np.exp(rng.uniform(np.log(0.0004), np.log(0.006)))), 5),
            scenery=tuple(scenery),
            setting="hall" if rng.random() < 0.6 else "park",
        )

    # ------------------------------------------------------------------------------------------------------- time

    def span(self, total: int, shortest: int, longest: int | None = None) -> tuple[int, int]:
        """An interval of whole steps inside `[0, total]`."""
        length = int(self.rng.integers(shortest, min(longest or total, total) + 1))
        start = int(self.rng.integers(0, total - length + 1))
        return start, start + length

    def spans(self, total: int, *, shortest: int = 2) -> tuple[tuple[int, int], ...]:
        """Everything, one interval, or two with a gap."""
        kind = self.rng.choice(3, p=(0.25, 0.5, 0.25))
        if kind == 0:
            return ((0, total),)
        first = self.span(total, shortest, total - 1)
        if kind == 1 or first[1] - first[0] < 2 * shortest + 1:
            return (first,)
        gap = int(self.rng.integers(first[0] + shortest, first[1] - shortest))
        return ((first[0], gap), (gap + 1, first[1]))

    def loudness(self) -> float:
        """Root mean square of a part, from soft to loud."""
        return round(float(np.exp(self.rng.uniform(np.log(0.05), np.log(0.2)))), 4)

    def chance(self, share: float) -> bool:
        """True that often."""
        return bool(self.rng.random() < share)


def timed(performer: Performer, **changes) -> Performer:
    """A performer with other times or loudness; whole steps become seconds."""
    for field in ("seen", "heard", "moves"):
        if changes.get(field) is not None:
            changes[field] = tuple((float(a), float(b)) for a, b in changes[field])
    return dataclasses.replace(performer, **changes)


def playing(casting: Casting, heard: Spans, total: int) -> Spans:
    """When one that is heard then is seen to play: all the time, or from somewhat before to somewhat after.

    It moves whenever it sounds, but not only then; so the picture alone does not tell when it sounds.
    """
    if casting.chance(0.5):
        return ((0, total),)
    before, after = casting.rng.integers(0, 1 + max(total // 3, 1), 2).tolist()
    return ((max(heard[0][0] - before, 0), min(heard[-1][1] + after, total)),)


def pretending(casting: Casting, performer: Performer, total: int) -> Performer:
    """A silent performer that moves as if it sounded: the picture alone does not tell who does."""
    return timed(performer, heard=(), moves=playing(casting, casting.spans(total), total))


def sounding_then(casting: Casting, performer: Performer, heard: Spans, total: int) -> Performer:
    """A performer that is heard then, at some loudness, and seen to play at least then."""
    return timed(performer, heard=heard, moves=playing(casting, heard, total), loudness=casting.loudness())
