"""A language model for small models, which have no published one: it can speak, look somebody up, and tell the time.

    python -m launch.pretrain_language --parts runs/mini --out runs/mini/language.safetensors

The published system starts from a LLaMA that can read. This one learns on questions about pictures, videos and sounds
of the generated world (`launch.language_questions`): who is where (as a box), who is seen and heard when, who is
louder, first, left of somebody, and who of all these makes the sound; and on the nine tasks themselves
(`launch.task_questions`), about other scenes than their clips. Eye, ear and projectors are as `launch.pretrain_parts`
has left them, so what they say of a picture or of a second of sound is worked out once; and a step costs no more than
the language model itself. Scenes are drawn by the rules of the training split, from seeds of their own.

Asked to mark somebody, it learns to say the code that the mask decoder draws (`launch.pretrain_parts.codes`): the
states that predict the mask tokens come to be this code. The words that an answer turns on count more than the others
(`WEIGHTS`), and linear maps that are thrown away afterwards read off the inner states who is where and when (`losses`).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import pathlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs import mini
from crab_jax.backbones.llama import Llama
from crab_jax.batch import Batch, Example, FeatureSizes, TokenIds, pack
from crab_jax.config import build
from crab_jax.groups import CheckpointError
from crab_jax.layout import Layout
from crab_jax.model import Crab, CrabConfig, mask_states
from crab_jax.nn.fused_attention import Segments
from crab_jax.params import flatten, nest
from crab_jax.starting import handed_on, newest_checkpoint
from crab_jax.tasks.answers import BOX_GRID
from crab_jax.tokens import IMAGE, VIDEO, TargetSuffix, Tokenizer, build_prompt
from data_pipelines.examples import assemble
from data_pipelines.world import phrases
from data_pipelines.world.kinds import KINDS
from launch.language_media import (
    Pool,
    Pools,
    Rendered,
    render_concert,
    render_music,
    render_sound,
    render_still,
    render_video,
)  # fmt: skip
from launch.language_questions import Lesson, questions
from launch.part_optimizer import optimizer_of
from launch.part_scenes import BINS, NAMES, PLACES, SECONDS, Job, rendered
from launch.pretrain_parts import code_of, codes, nobody, write
from launch.task_questions import tasks

MISFITS = 4
FACTS = 3  # about every kind at every moment, see `_facts`
STORIES = 5  # about every kind, of all moments up to one, see `_stories`
RARE = 3.0  # most facts are not so
EARLY = 1  # the layer whose states tell facts and places; the others have the rest of the work to do
LATER = 2  # the layer whose states tell stories, and at every place of an answer its numbers and the whole cast
# What an answer gives in numbers: a box in the 224 grid, told to 1/28 of it, and an interval of whole seconds.
NUMBERS = (
    (re.compile(r"\((\d+),(\d+)\) and coordinate of bottom right corner is \((\d+),(\d+)\)"), BOX_GRID // BINS, BINS),
    (re.compile(r"<range> (\d+),(\d+) </range>"), 1, SECONDS + 1),
)
# What an answer turns on counts more than how it is worded, which is often left to chance. The last that fits holds.
CALLED = {name for kind in KINDS.values() for name in (kind.name, *kind.names.values(), phrases.noun(kind.name))}
WEIGHTS = (
    (re.compile(r"\b\d+\b"), 2.0),
    (re.compile(rf"\b({'|'.join(map(re.escape, sorted(CALLED, key=len, reverse=True)))})(?!\w)"), 2.0),
    (re.compile(r"(?<=<answer> ).*?(?= </answer>)"), 8.0),
)
STEPS_OF = tuple(count for pattern, _, count in NUMBERS for _ in range(pattern.groups))  # of each number
LAYOUT = Layout(tokens=400, frames=22, windows=22, patch_rows=1, masks=5)


def lessons(rng: np.random.Generator, pools: Pools, share: float) -> Iterator[Lesson]:
    """Endless; such a share of them are of the nine tasks."""
    of_tasks, others = tasks(rng, pools), questions(rng, pools)
    while True:
        yield next(of_tasks if rng.random() < share else others)


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
        numbers: int32 [B L 6], at every place that predicts something of an answer with just one box, or one interval:
            its steps, see `NUMBERS`; -1: there is none.
        weights: float32 [B L], of what is predicted at every place; 0: nothing is.
        cast: float32 [B L 2·kinds], 0 or 1: at every place that predicts something of an answer, who is seen at all in
            what was asked about, and who is heard at all.
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

    def __init__(self, pools: Pools, *, tokenizer: Tokenizer, seed: Sequence[int], rows: int, tasks: float):
        self._tokenizer, self._rows = tokenizer, rows
        self._lessons = lessons(np.random.default_rng(seed), pools, tasks)
        self._waiting: list[tuple] = []
        self._queries, self._width = pools.stills.tokens.shape[2:]
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
        ids, sizes = self._tokenizer.token_ids, dataclasses.asdict(self._sizes)
        while True:
            rows = [list(self._row()) for _ in range(self._rows)]
            batch = pack([[example for example, _ in row] for row in rows], layout=LAYOUT, ids=ids, **sizes)
            yield batch, self.given(batch, rows)

    def given(self, batch: Batch, rows: Sequence[Sequence[tuple[Example, Lesson]]]) -> Given:
        """What belongs to a batch of packed lessons."""
        examples = [[example for example, _ in row] for row in rows]
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
            cast=np.zeros((*batch.tokens.shape, 2 * len(NAMES)), np.float32),
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
            start = 0
            for example, lesson in zip(examples[r], row, strict=True):
                said = slice(start + len(example.prompt) - 1, start + len(example.prompt) + len(example.target) - 1)
                given.numbers[r, said] = _numbers(lesson.target)
                given.weights[r, said] = _weights(self._tokenizer, lesson.target)
                given.cast[r, said] = np.concatenate([lesson.in_sight.any(0), lesson.audible.any(0)])
                start += len(example.prompt) + len(example.target)
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
        joined = np.concatenate(some)
        out[: len(joined)] = joined
        return out.reshape(-1, self._width)


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


def _weights(tokenizer: Tokenizer, answer: str) -> list[float]:
    """How much each token of an answer and of its end counts, see `WEIGHTS`."""
    pieces = tokenizer.tokenize(answer + TargetSuffix.FINETUNE.value)
    weight = np.ones(sum(map(len, pieces)))
    shift = len(weight) - len(answer + TargetSuffix.FINETUNE.value)  # a word begins with a mark, unless it is a tag
    for pattern, value in WEIGHTS:
        for found in pattern.finditer(answer):
            weight[found.start() + shift : found.end() + shift] = value
    ends = np.cumsum([len(piece) for piece in pieces])
    return [float(weight[end - len(piece) : end].max()) for piece, end in zip(pieces, ends, strict=True)]


def _numbers(answer: str) -> list[int]:
    """Steps of the one box and of the one interval in an answer; -1 where there is none, or more than one."""
    out: list[int] = []
    for pattern, step, count in NUMBERS:
        found = pattern.findall(answer)
        alone = found[0] if len(found) == 1 else ["-1"] * pattern.groups
        out += [min(int(x) // step, count - 1) for x in alone]
    return out


def pools_of(config: CrabConfig, args: argparse.Namespace, split: str, share: float) -> Pools:
    """Renders a share of all scenes and works out what the projectors say of them."""
    params = {}
    for name in ("eye", "ear", "vl_projector", "al_projector"):
        part = handed_on(newest_checkpoint(args.parts / f"{name}.safetensors"))
        params |= {path: jnp.asarray(np.asarray(x), jnp.float32) for path, x in part.items()}
    model = Crab(dataclasses.replace(config, llama=None, mask_decoder=None), jnp.float32)
    variables = {"params": nest(params)}
    look = jax.jit(lambda x: model.apply(variables, x, method=lambda m, x: m.encode_frames(x).tokens))

    @jax.jit
    def listen(windows):
        rows = windows.shape[1] // config.beats.input_patch_size  # whole rows of patches, and all of them are real
        whole = windows[:, : rows * config.beats.input_patch_size].astype(jnp.float32)
        return model.apply(variables, whole, jnp.full(len(whole), rows, jnp.int32), method="encode_windows")

    def rendered_some(render: Callable, count: int) -> list:
        jobs = [Job(split, k, args.seed, config.clip.image_size, 0) for k in range(max(round(count * share), 8))]
        return rendered(render, jobs, args.jobs)

    def pool(found: list[Rendered], encode: Callable) -> Pool:
        pieces, each = [], len(found[0].media)
        flat = np.concatenate([r.media for r in found])
        for at in range(0, len(flat), 64):
            some = flat[at : at + 64]
            whole = np.concatenate([some, np.repeat(some[-1:], 64 - len(some), axis=0)])
            pieces.append(np.asarray(encode(whole))[: len(some)].astype(np.float16))
        tokens = np.concatenate(pieces)
        return Pool.made(tokens.reshape(len(found), each, *tokens.shape[1:]), found)

    played = rendered_some(render_concert, args.concerts)
    played = [(played[k], played[k + 1]) for k in range(0, len(played), 2)]
    played = [(look_at, listen_to) for look_at, listen_to in played if look_at.who and listen_to.who]
    return Pools(
        stills=pool(rendered_some(render_still, args.stills), look),
        videos=pool(rendered_some(render_video, args.videos), look),
        sounds=pool(rendered_some(render_sound, args.sounds), listen),
        music=pool(rendered_some(render_music, args.music), listen),
        looks=pool([one for one, _ in played], look),
        tones=pool([other for _, other in played], listen),
    )


class Said(NamedTuple):
    """What the language model makes of a batch, [B L …]: states and logits of the end, those of `EARLY` and `LATER`."""

    states: jax.Array
    logits: jax.Array
    early: jax.Array
    later: jax.Array


def read(config: CrabConfig, params: dict[str, Any], batch: Batch, given: Given) -> Said:
    """Runs the language model over a batch."""
    only = dataclasses.replace(config, clip=None, beats=None, vl_projector=None, al_projector=None, mask_decoder=None)
    x = Crab(only, jnp.float32).apply({"params": params}, batch.tokens, given.seen, given.heard, method="place")
    llama, own = Llama(config.llama, jnp.float32, capture=True), {"params": params["llama"]}
    states, _, (layers, _) = llama.apply(own, x, batch.position, Segments(batch.segment))
    return Said(states, llama.apply(own, states, method="logits"), layers[EARLY], layers[LATER])


class Told(NamedTuple):
    """What `losses` says of a batch, all of it sums.

    Attributes:
        nll, count: negative log-likelihood of labelled tokens, and their number.
        weighted, weights: the same weighted, and the sum of weights.
        decided, decides: tokens that count most and are right, and how many there are.
        off, masks: mean squared distance of states from codes over masks, and their number.
        right, alone: masks of one kind or of nobody whose nearest code is right, and their number.
        clock, items, knows: cross-entropy of moments, facts, stories and places over pictures and windows, their
            number, and moments that are right.
        missed, places, misses: cross-entropy of numbers over the places of answers that have some, how many these are,
            and steps between the likeliest numbers and the true ones.
        unsure, sure: cross-entropy of who is seen and heard at all over all places of answers, and how many of these
            know it without mistake.
        stand, found: performers in pictures, and those that are told in their place.
        known: stories of pictures and windows that are told of every kind without mistake.
    """

    nll: Any
    count: Any
    weighted: Any
    weights: Any
    decided: Any
    decides: Any
    off: Any
    masks: Any
    right: Any
    alone: Any
    clock: Any
    items: Any
    knows: Any
    missed: Any
    places: Any
    misses: Any
    unsure: Any
    sure: Any
    stand: Any
    found: Any
    known: Any


def losses(said: Said, heads: dict[str, jax.Array], batch: Batch, given: Given, ids: TokenIds) -> Told:
    """What one batch says.

    Args:
        heads: `moment` [D SECONDS], `facts` [D FACTS·kinds] and `places` [D PLACES·(1 + kinds)], which read these off
            the states of `EARLY`, `stories` [D STORIES·kinds], `numbers` [D sum(STEPS_OF)] and `cast` [D 2·kinds] off
            those of `LATER`; they are thrown away. To tell the time one has to know the number of a picture among its
            like, and what begins and ends with it, and to tell a place one has to look it up; answers alone teach this
            late.
    """
    each = _of_words(said, batch, given) | _of_masks(said, batch, given, ids)
    each |= _of_items(said, heads, given) | _of_answers(said, heads, batch, given)
    return Told(**{name: jnp.sum(x, dtype=jnp.float32) for name, x in each.items()})


class Sizes(NamedTuple):
    """What the sums of a batch are divided by, at least 1: of `Told`, those that a model has no say in."""

    count: Any
    weights: Any
    masks: Any
    items: Any
    places: Any


def sizes(batch: Batch, given: Given) -> Sizes:
    """Of a whole batch, so that rows count by what they hold."""
    labelled, places = batch.labels >= 0, given.numbers.max(-1) >= 0
    each = (labelled, given.weights * labelled, batch.mask_segment > 0, given.moment >= 0, places)
    return Sizes(*(jnp.maximum(jnp.sum(x, dtype=jnp.float32), 1) for x in each))


def _of_words(said: Said, batch: Batch, given: Given) -> dict[str, jax.Array]:
    labelled = batch.labels >= 0
    wanted = jnp.where(labelled, batch.labels, 0)
    nll = optax.softmax_cross_entropy_with_integer_labels(said.logits.astype(jnp.float32), wanted) * labelled
    weights = given.weights * labelled
    decides = weights == WEIGHTS[-1][1]
    decided = (said.logits.argmax(-1) == wanted) & decides
    return dict(
        nll=nll, count=labelled, weighted=nll * weights, weights=weights, decided=decided, decides=decides
    )  # fmt: skip


def _of_masks(said: Said, batch: Batch, given: Given, ids: TokenIds) -> dict[str, jax.Array]:
    states = mask_states(said.states, batch, ids)  # [B M K D]
    there = (batch.mask_segment > 0).astype(jnp.float32)
    width, many = states.shape[-1], given.marked.sum(-1)
    wanted = code_of(given.marked, width)
    off = jnp.square(states - wanted[:, :, None]).mean((-1, -2)) * there
    everybody = jnp.concatenate([codes(width), nobody(width)[None]])
    nearest = jnp.square(states.mean(2)[:, :, None] - everybody).sum(-1).argmin(-1)
    alone = there * (many <= 1)
    truth = jnp.where(many > 0, given.marked.argmax(-1), len(NAMES))
    return dict(off=off, masks=there, right=(nearest == truth) * alone, alone=alone)


def _of_items(said: Said, heads: dict[str, jax.Array], given: Given) -> dict[str, jax.Array]:
    """Of pictures and windows."""
    early, later = (jnp.take_along_axis(x, given.last[..., None], axis=1) for x in (said.early, said.later))
    real, number = given.moment >= 0, jnp.maximum(given.moment, 0)
    moment = early @ heads["moment"]
    timed = optax.softmax_cross_entropy_with_integer_labels(moment, number)
    facts = optax.sigmoid_binary_cross_entropy(early @ heads["facts"] - RARE, given.facts).sum(-1)
    scores = (early @ heads["places"]).reshape(*given.places.shape, 1 + len(NAMES))
    placed = optax.softmax_cross_entropy_with_integer_labels(scores, jnp.maximum(given.places, 0))
    placed = (placed * (given.places >= 0)).sum(-1)
    stand = given.places > 0
    found = stand & (scores.argmax(-1) == given.places)
    scores = later @ heads["stories"] - RARE
    storied = optax.sigmoid_binary_cross_entropy(scores, given.stories).sum(-1)
    known = ((scores > 0) == (given.stories > 0)).reshape(*real.shape, STORIES, len(NAMES)).all(-1)
    return dict(
        clock=(timed + 0.1 * (facts + placed + storied)) * real, items=real,
        knows=(moment.argmax(-1) == number) & real, stand=stand, found=found, known=known & real[..., None],
    )  # fmt: skip


def _of_answers(said: Said, heads: dict[str, jax.Array], batch: Batch, given: Given) -> dict[str, jax.Array]:
    """Of the places that predict something of an answer."""
    missed, misses, first = 0.0, 0.0, 0
    for column, count in enumerate(STEPS_OF):
        truth, scores = given.numbers[..., column], said.later @ heads["numbers"][:, first : first + count]
        near = jax.nn.softmax(-jnp.abs(jnp.arange(count) - truth[..., None]) / 0.5)
        told = truth >= 0
        missed += optax.softmax_cross_entropy(scores, near) * told
        misses += jnp.abs(scores.argmax(-1) - truth) * told
        first += count
    labelled, scores = batch.labels >= 0, said.later @ heads["cast"] - RARE
    unsure = optax.sigmoid_binary_cross_entropy(scores, given.cast).sum(-1) * labelled
    sure = ((scores > 0) == (given.cast > 0)).all(-1) & labelled
    return dict(missed=missed, misses=misses, places=given.numbers.max(-1) >= 0, unsure=unsure, sure=sure)


def _earlier(path: pathlib.Path, wanted: dict[str, jax.Array]) -> dict:
    """The language model of an earlier file, without LoRA."""
    found = {
        p: x for p, x in handed_on(newest_checkpoint(path)).items() if p.startswith("llama/") and "/lora_" not in p
    }
    if {p: x.shape for p, x in found.items()} != {p: x.shape for p, x in wanted.items()}:
        raise CheckpointError(f"{path}: expected the {len(wanted)} arrays of a language model of configs/mini.py")
    return nest({p: jnp.asarray(np.asarray(x), jnp.float32) for p, x in found.items()})


def train(config: CrabConfig, args: argparse.Namespace) -> None:
    """Renders, trains, prints what unseen scenes say, writes the language model."""
    tokenizer, ids = Tokenizer.tiny(), config.token_ids
    config = dataclasses.replace(config, llama=dataclasses.replace(config.llama, lora=None))
    llama, zeros = Llama(config.llama, jnp.float32), jnp.zeros((1, 8), jnp.int32)
    model = {"llama": llama.init(
        jax.random.key(args.seed), zeros, method=lambda m, t: m.logits(m(m.embed(t), t, Segments(t))[0])
    )["params"]}  # fmt: skip
    if args.start:
        model = _earlier(args.start, flatten(model))
    width = config.llama.hidden_size
    heads = {
        "moment": jnp.zeros((width, SECONDS)),
        "facts": jnp.zeros((width, FACTS * len(NAMES))),
        "stories": jnp.zeros((width, STORIES * len(NAMES))),
        "places": jnp.zeros((width, PLACES * (1 + len(NAMES)))),
        "numbers": jnp.zeros((width, sum(STEPS_OF))),
        "cast": jnp.zeros((width, 2 * len(NAMES))),
    }
    params = {"model": model, "heads": heads}

    def drawn(split: str, share: float, number: int) -> Iterator:
        pools = pools_of(config, args, split, share)
        return iter(Rows(pools, tokenizer=tokenizer, seed=(args.seed, number), rows=args.rows, tasks=args.tasks))

    others, rows = drawn("val", 0.04, 2), drawn("train", 1.0, 1)
    unseen = [next(others) for _ in range(max(32 // args.rows, 1))]
    optimizer = optimizer_of(args.rate, args.steps)
    state = optimizer.init(params)

    def tell(params, batch, given):
        return losses(read(config, params["model"], batch, given), params["heads"], batch, given, ids)

    def loss(params, row, per):
        told = tell(params, *row)
        looked_up = told.clock / per.items + told.missed / per.places + 0.1 * told.unsure / per.count
        return told.weighted / per.weights + args.marking * told.off / per.masks + args.clock * looked_up, told

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, batch, given):
        """Row by row: what four rows leave for the way back does not fit into the cache of a core."""
        per = sizes(batch, given)

        def add(total, row):
            (_, told), grads = jax.value_and_grad(loss, has_aux=True)(params, row, per)
            return jax.tree.map(jnp.add, total, (grads, told)), None

        nothing = (jax.tree.map(jnp.zeros_like, params), Told(*[jnp.float32(0)] * len(Told._fields)))
        (grads, told), _ = jax.lax.scan(add, nothing, jax.tree.map(lambda x: x[:, None], (batch, given)))
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, told

    judge = jax.jit(tell)

    def line(sums: np.ndarray) -> str:
        t = Told(*sums)
        return (
            f"text {t.nll / t.count:.4f} weighted {t.weighted / t.weights:.4f} "
            f"answers right {t.decided / max(t.decides, 1):.3f} "
            f"code {t.off / max(t.masks, 1):.4f} marked right {t.right / max(t.alone, 1):.3f} "
            f"clock {t.clock / t.items:.3f} moments right {t.knows / t.items:.3f} "
            f"numbers {t.missed / max(t.places, 1):.3f} steps off {t.misses / max(t.places, 1):.2f} "
            f"cast {t.sure / t.count:.3f} in their place {t.found / max(t.stand, 1):.3f} "
            f"stories {t.known / t.items / STORIES:.3f}"
        )

    started, recent = time.monotonic(), 0.0
    for n in range(1, args.steps + 1):
        params, state, told = step(params, state, *next(rows))
        recent = recent + np.asarray(told)
        if n % args.log_every == 0 or n == args.steps:
            held = sum(np.asarray(judge(params, *batch)) for batch in unseen)
            spent = time.monotonic() - started
            print(f"step {n}/{args.steps} | {spent:.0f} s | training {line(recent)} | unseen {line(held)}", flush=True)
            recent = 0.0
        if n % args.save_every == 0 or n == args.steps:
            write(args.out, flatten(params["model"]))
    print(f"language: {args.out}", flush=True)


def main(argv: list[str] | None = None) -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(prog="launch.pretrain_language", description=__doc__.split("\n", 1)[0])
    add, path = parser.add_argument, pathlib.Path
    add("--parts", type=path, required=True, metavar="DIR", help="with eye, ear and both projectors, as safetensors")
    add("--out", type=path, required=True, help="safetensors file to write")
    add("--start", type=path, metavar="FILE", help="an earlier one to go on from")
    add("--tasks", type=float, default=0.7, help="share of the lessons that are of the nine tasks (default 0.7)")
    add("--stills", type=int, default=3000, help="scenes with two pictures each (default 3000)")
    add("--videos", type=int, default=1200, help="of ten pictures (default 1200)")
    add("--sounds", type=int, default=3000, help="of sixteen seconds (default 3000)")
    add("--music", type=int, default=1000, help="of thirty-two seconds (default 1000)")
    add("--concerts", type=int, default=800, help="of a minute (default 800)")
    add("--steps", type=int, default=4500, help="optimizer steps (default 4500)")
    add("--rows", type=int, default=4, help=f"of a step, of {LAYOUT.tokens} tokens (default 4)")
    add("--rate", type=float, default=1.5e-3, help="peak learning rate (default 1.5e-3)")
    add("--marking", type=float, default=0.5, help="weight of codes beside words (default 0.5)")
    add(
        "--clock",
        type=float,
        default=0.3,
        help="weight of what is read off inner states beside words (default 0.3)",
    )
    add("--seed", type=int, default=3, help="of scenes, questions and first weights (default 3)")
    add("--jobs", type=int, default=1, help="processes that render (default 1)")
    add("--log-every", type=int, default=100)
    add("--save-every", type=int, default=500)
    args = parser.parse_args(argv)
    config = build(CrabConfig, mini.get_config().model.to_dict(), where="configs/mini.py")
    try:
        train(config, args)
    except CheckpointError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
