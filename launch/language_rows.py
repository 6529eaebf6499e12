"""Rows of lessons, with all that a language model is taught about them (`launch.pretrain_language`).

A lesson has a text to say. Besides, it is known who is in which of its pictures and windows, where, since when, how
loudly, and what of its answer matters: `Given`.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from crab_jax.batch import Batch, Example, FeatureSizes, pack
from crab_jax.layout import Layout
from crab_jax.tasks.answers import BOX_GRID
from crab_jax.tokens import IMAGE, VIDEO, TargetSuffix, Tokenizer, build_prompt
from data_pipelines.examples import assemble
from data_pipelines.world import concerts, phrases
from data_pipelines.world.kinds import KINDS
from launch.language_media import Pools
from launch.language_questions import Lesson, questions
from launch.part_scenes import BINS, NAMES, PLACES, SECONDS
from launch.task_questions import conclusions, tasks

MISFITS = 4
FACTS = 3  # about every kind at every moment, see `_facts`
STORIES = 5  # about every kind, of all moments up to one, see `_stories`
CAST = 2 * len(NAMES) + 1  # about all that a question is about
# What an answer gives in numbers: a box in the 224 grid, told to 1/28 of it, and an interval of whole seconds; besides,
# the first interval of every sentence that tells one, as those about concerts do, up to there.
NUMBERS = (
    (re.compile(r"\((\d+),(\d+)\) and coordinate of bottom right corner is \((\d+),(\d+)\)"), BOX_GRID // BINS, BINS),
    (re.compile(r"<range> (\d+),(\d+) </range>"), 1, SECONDS + 1),
)
TIMES = re.compile(r"(?:^|(?<=\.))[^.\d]*\bfrom (\d+) to (\d+) seconds")
# What an answer turns on counts more than how it is worded, which is often left to chance. The largest that fits holds.
CALLED = {name for kind in KINDS.values() for name in (kind.name, *kind.names.values(), phrases.noun(kind.name))}
WEIGHTS = (
    (re.compile(r"\b\d+\b"), 2.0),
    (re.compile(rf"\b({'|'.join(map(re.escape, sorted(CALLED, key=len, reverse=True)))})(?!\w)"), 2.0),
    (re.compile(r"(?<=from )\d+ to \d+(?= seconds)"), 5.0),
    (re.compile(r"(?<=performance takes place ).*?(?=\.)"), 8.0),  # few words of few answers
    (re.compile(r"(?<=<answer> ).*?(?= </answer>)"), 8.0),
)
NOTICED = 3.0  # what only the media tell counts so much, with where a list ends
STEPS_OF = tuple(count for pattern, _, count in NUMBERS for _ in range(pattern.groups)) + (concerts.SECONDS + 1,) * 2
LAYOUT = Layout(tokens=400, frames=22, windows=22, patch_rows=1, masks=5)


def lessons(
    rng: np.random.Generator, pools: Pools | None, *, of_tasks: float, of_words: float, among: float = 0.0,
    comparing: float = 0.0,
) -> Iterator[Lesson]:  # fmt: skip
    """Endless; such a share of them are `conclusions`, and of those about media such a share are of the nine tasks.

    Without pools all of them are conclusions. `among` and `comparing` are theirs.
    """
    words = conclusions(rng, among, comparing)
    if pools is None:
        yield from words
        return
    about_tasks, others = tasks(rng, pools), questions(rng, pools)
    while True:
        yield next(words if rng.random() < of_words else about_tasks if rng.random() < of_tasks else others)


class Given(NamedTuple):
    """What a batch of packed lessons has besides its tokens. N pictures and windows, M masks.

    Attributes:
        seen, heard: what the projectors say, float32 [B T·Q D] and [B A·Q D].
        marked: float32 [B M kinds], 0 or 1: who is to be marked.
        last: int32 [B N], where the last token of every picture and window is.
        moment: int32 [B N], its number in its video or sound; -1: there is none.
        facts: float32 [B N FACTS·kinds], 0 or 1: who is in it, begins with it, has ended before it.
        stories: float32 [B N STORIES·kinds], 0 or 1: who has been in one of them so far, began first, began last, was
            in most of them, is the loudest of those.
        places: int32 [B N PLACES], at a picture: 1 + kind of those in it from left to right, then 0; -1 at a window.
        numbers: int32 [B L 8], at every place that predicts something of an answer with just one box, or one interval:
            its steps, see `NUMBERS`; in a sentence that has `TIMES`, up to these: the two seconds; -1: there is none.
        weights: float32 [B L], of what is predicted at every place; 0: nothing is, or it is not to be learned.
        cast: float32 [B L CAST], 0 or 1: at every place that predicts something of an answer, who is seen at all in
            what was asked about, who is heard at all, and whether that is outdoors (of concerts, and where the
            setting is asked for); -1: it is not told, and who has only words cannot know.
    """

    seen: np.ndarray
    heard: np.ndarray
    marked: np.ndarray
    last: np.ndarray
    moment: np.ndarray
    facts: np.ndarray
    stories: np.ndarray
    places: np.ndarray
    numbers: np.ndarray
    weights: np.ndarray
    cast: np.ndarray


class Rows:
    """Packs lessons into rows of `LAYOUT`, with what the projectors say instead of pictures and sounds."""

    def __init__(self, drawn: Iterator[Lesson], *, tokenizer: Tokenizer, rows: int, queries: int, width: int):
        """`queries` tokens of `width` stand for each picture and window."""
        self._tokenizer, self._rows, self._lessons = tokenizer, rows, drawn
        self._waiting: list[tuple] = []
        self._queries, self._width = queries, width
        self._sizes = FeatureSizes(image_size=1, frame_tokens=self._queries, window_tokens=self._queries, patch=1)

    def _example(self) -> tuple[Example, Lesson]:
        lesson = next(self._lessons)
        pictures = np.zeros((len(lesson.seen), 1, 1, 3), np.uint8)
        example = assemble(
            name=lesson.sort,
            prompt=build_prompt(self._tokenizer, lesson.prompt),
            target=self._tokenizer.encode_target(lesson.target),
            image=pictures if IMAGE in lesson.prompt else None,
            video=pictures if VIDEO in lesson.prompt else None,
            fbank=np.zeros((len(lesson.heard), 1, 128), np.float32) if len(lesson.heard) else None,
            mask=None if lesson.marked is None else np.zeros((1, 1), np.uint8),
            ids=self._tokenizer.token_ids,
            sizes=self._sizes,
        )
        return example, lesson

    def __iter__(self) -> Iterator[tuple[Batch, Given]]:
        for batch, given, _ in self.packed():
            yield batch, given

    def packed(self) -> Iterator[tuple[Batch, Given, list[list[tuple[Example, Lesson]]]]]:
        """Batches, what belongs to them, and what they were packed from, row by row."""
        ids, sizes = self._tokenizer.token_ids, dataclasses.asdict(self._sizes)
        while True:
            rows = [list(self._row()) for _ in range(self._rows)]
            batch = pack([[example for example, _ in row] for row in rows], layout=LAYOUT, ids=ids, **sizes)
            yield batch, self.given(batch, rows), rows

    def given(self, batch: Batch, rows: Sequence[Sequence[tuple[Example, Lesson]]]) -> Given:
        """What belongs to a batch of packed lessons."""
        answers = [[*answers_of(row)] for row in rows]
        rows = [[lesson for _, lesson in row] for row in rows]
        ids, items = self._tokenizer.token_ids, LAYOUT.frames + LAYOUT.windows
        given = Given(
            seen=np.stack([self._joined([x.seen for x in row], LAYOUT.frames) for row in rows]),
            heard=np.stack([self._joined([x.heard for x in row], LAYOUT.windows) for row in rows]),
            marked=np.zeros((len(rows), LAYOUT.masks, len(NAMES)), np.float32),
            last=np.zeros((len(rows), items), np.int32),
            moment=np.full((len(rows), items), -1, np.int32),
            facts=np.zeros((len(rows), items, FACTS * len(NAMES)), np.float32),
            stories=np.zeros((len(rows), items, STORIES * len(NAMES)), np.float32),
            places=np.full((len(rows), items, PLACES), -1, np.int32),
            numbers=np.full((*batch.tokens.shape, len(STEPS_OF)), -1, np.int32),
            weights=np.zeros(batch.tokens.shape, np.float32),
            cast=np.zeros((*batch.tokens.shape, CAST), np.float32),
        )
        for r, row in enumerate(rows):
            for place, who in enumerate(x.marked for x in row if x.marked is not None):
                given.marked[r, place, [NAMES.index(kind) for kind in who]] = 1
            filled = 0
            for slots, sense in ((ids.visual, "in_sight"), ((ids.audio,), "audible")):
                at = np.flatnonzero(np.isin(batch.tokens[r], slots))[self._queries - 1 :: self._queries]
                there = [getattr(x, sense) for x in row]
                here = slice(filled, filled + len(at))
                given.last[r, here] = at
                given.moment[r, here] = np.concatenate([np.arange(len(x)) for x in there])
                given.facts[r, here] = np.concatenate([_facts(x) for x in there])
                loud = [x.loudness if sense == "audible" else {} for x in row]
                given.stories[r, here] = np.concatenate([_stories(*x) for x in zip(there, loud, strict=True)])
                if sense == "in_sight":
                    placed = [_places(x.on_stage, shown) for x in row for shown in x.in_sight]
                    given.places[r, here] = np.reshape(placed, (-1, PLACES))
                filled += len(at)
            for said, lesson in answers[r]:
                given.numbers[r, said] = _numbers(self._tokenizer, lesson)
                given.weights[r, said] = _weights(self._tokenizer, lesson)
                place = -1 if lesson.outdoors is None else lesson.outdoors
                there = np.concatenate([lesson.in_sight.any(0), lesson.audible.any(0), [place]])
                given.cast[r, said] = there if len(lesson.seen) or len(lesson.heard) else -1
        return given

    def _row(self) -> Iterator[tuple[Example, Lesson]]:
        """Those that did not fit elsewhere, as far as they fit here, then new ones until `MISFITS` did not."""
        room = np.array([LAYOUT.tokens, LAYOUT.frames, LAYOUT.windows, LAYOUT.masks])
        waiting, self._waiting = self._waiting, []
        while len(self._waiting) < MISFITS:
            example, lesson = waiting.pop(0) if waiting else self._example()
            text, masks = len(example.prompt) + len(example.target), int(lesson.marked is not None)
            size = (text, len(lesson.seen), len(lesson.heard), masks)
            if (room < size).any():
                self._waiting.append((example, lesson))
                continue
            room = room - size
            yield example, lesson
        self._waiting += waiting

    def _joined(self, some: list[np.ndarray], items: int) -> np.ndarray:
        out = np.zeros((items, self._queries, self._width), np.float32)
        if some := [x for x in some if len(x)]:
            joined = np.concatenate(some)
            out[: len(joined)] = joined
        return out.reshape(-1, self._width)


def answers_of(row: Sequence[tuple[Example, Lesson]]) -> Iterator[tuple[slice, Lesson]]:
    """The places of a row that predict the answer of each of its lessons, and its end."""
    start = 0
    for example, lesson in row:
        first = start + len(example.prompt)
        start = first + len(example.target)
        yield slice(first - 1, start - 1), lesson


def _facts(there: np.ndarray) -> np.ndarray:
    """Who is there, who begins to be, who has just ceased to be: bool [n kinds] → bool [n FACTS·kinds]."""
    before = np.concatenate([np.zeros_like(there[:1]), there[:-1]])
    return np.concatenate([there, there & ~before, before & ~there], axis=1)


def _stories(there: np.ndarray, loudness: Mapping[str, float]) -> np.ndarray:
    """What all up to one say of every kind, see `Given`: bool [n kinds] → bool [n STORIES·kinds]."""
    number = np.arange(len(there))[:, None]
    ever = np.maximum.accumulate(there, axis=0)
    begun = len(there) - ever.sum(0)  # [kinds]
    first = ever & (begun == begun.min(initial=len(there)))
    last = ever & (begun == np.where(begun <= number, begun, -1).max(1, keepdims=True))
    count = np.cumsum(there, axis=0)
    longest = ever & (count == count.max(1, keepdims=True))
    level = ever * np.array([loudness.get(name, 0.0) for name in NAMES])
    loudest = (level > 0) & (level == level.max(1, keepdims=True))
    return np.concatenate([ever, first, last, longest, loudest], axis=1)


def _places(on_stage: Sequence[str], shown: np.ndarray) -> list[int]:
    """Classes of those of them who are in a picture, in their order; 0 where nobody is left."""
    here = [1 + k for k in map(NAMES.index, on_stage) if shown[k]][:PLACES]
    return here + [0] * (PLACES - len(here))


def _ends(tokenizer: Tokenizer, answer: str) -> tuple[np.ndarray, int]:
    """Where each token of an answer and of its end ends, in characters, and how many of these come before the answer.

    A word begins with a mark, unless it is a tag.
    """
    whole = answer + TargetSuffix.FINETUNE.value
    ends = np.cumsum([len(piece) for piece in tokenizer.tokenize(whole)])
    return ends, int(ends[-1]) - len(whole)


def _weights(tokenizer: Tokenizer, lesson: Lesson) -> list[float]:
    """How much each token of an answer and of its end counts, see `WEIGHTS`.

    What is concluded counts as much as the answer, and all of it: were it only the `not` in `is not among them`, to say
    it would cost nothing. What is noticed counts `NOTICED` at least, what is given nothing.
    """
    answer, most = lesson.target, WEIGHTS[-1][1]
    ends, shift = _ends(tokenizer, answer)
    weight = np.ones(ends[-1])
    for part in lesson.noticed:
        at = answer.index(part) + shift
        weight[at : at + len(part)] = NOTICED
    for pattern, value in WEIGHTS:
        for found in pattern.finditer(answer):
            place = slice(found.start() + shift, found.end() + shift)
            weight[place] = np.maximum(weight[place], value)
    for part in lesson.concluded:
        at = answer.index(part) + shift
        weight[at : at + len(part)] = most
    for part in lesson.given:
        at = answer.index(part) + shift
        weight[max(at - 1, 0) : at + len(part)] = 0.0  # with the mark in front of its first word
    return [float(weight[start:end].max()) for start, end in itertools.pairwise([0, *ends])]


def _numbers(tokenizer: Tokenizer, lesson: Lesson) -> np.ndarray:
    """Steps of the one box and of the one interval in an answer, seconds of each sentence with `TIMES`: int [places 8].

    -1 where there is none, or more than one of those of the whole answer. What is given is not to be learned.
    """
    answer, alone = lesson.target, []
    for pattern, step, count in NUMBERS:
        found = pattern.findall(answer)
        once = found[0] if len(found) == 1 else ["-1"] * pattern.groups
        alone += [min(int(x) // step, count - 1) for x in once]
    ends, shift = _ends(tokenizer, answer)
    numbers = np.full((len(ends), len(STEPS_OF)), -1)
    numbers[:, : len(alone)] = alone
    for found in () if lesson.given else TIMES.finditer(answer):
        within = (ends > found.start() + shift) & (ends <= found.end() + shift)
        numbers[within, len(alone) :] = [min(int(x), STEPS_OF[-1] - 1) for x in found.groups()]
    return numbers
