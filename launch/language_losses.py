"""What a language model says of rows of lessons, and how far it is off (`launch.pretrain_language`).

It says words, codes of whom to mark, and, by linear maps off its inner states, what it knows of every picture, window
and answer.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from crab_jax.backbones.llama import Llama
from crab_jax.batch import Batch, TokenIds
from crab_jax.model import Crab, CrabConfig, mask_states
from crab_jax.nn.fused_attention import Segments
from launch.language_rows import CAST, FACTS, STEPS_OF, STORIES, WEIGHTS, Given
from launch.part_lessons import RARE, code_of, codes, nobody
from launch.part_scenes import NAMES, PLACES, SECONDS

EARLY = 1  # the layer whose states tell facts and places; the others have the rest of the work to do
LATER = 2  # the layer whose states tell stories, and at every place of an answer its numbers and the whole cast
WHOLE = 5.0  # what one bit says of all that is asked about counts as much as so many kinds


def blank_heads(width: int) -> dict[str, jax.Array]:
    """The linear maps of `losses`, before they have learned anything."""
    return {
        "moment": jnp.zeros((width, SECONDS)),
        "facts": jnp.zeros((width, FACTS * len(NAMES))),
        "stories": jnp.zeros((width, STORIES * len(NAMES))),
        "places": jnp.zeros((width, PLACES * (1 + len(NAMES)))),
        "numbers": jnp.zeros((width, sum(STEPS_OF))),
        "cast": jnp.zeros((width, CAST)),
    }


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
        unsure, sure: cross-entropy of who is seen and heard at all, and whether it is outdoors, over all places of
            answers, and how many of these know it without mistake.
        stand, found: performers in pictures, and those that are told in their place.
        known: stories of pictures and windows that are told of every kind without mistake.
        aware: the same of facts.
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
    aware: Any


def losses(said: Said, heads: dict[str, jax.Array], batch: Batch, given: Given, ids: TokenIds) -> Told:
    """What one batch says.

    Args:
        heads: `moment` [D SECONDS], `facts` [D FACTS·kinds] and `places` [D PLACES·(1 + kinds)], which read these off
            the states of `EARLY`, `stories` [D STORIES·kinds], `numbers` [D sum(STEPS_OF)] and `cast` [D CAST] off
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
    labelled, places = (batch.labels >= 0) & (given.weights > 0), given.numbers.max(-1) >= 0
    each = (labelled, given.weights * labelled, batch.mask_segment > 0, given.moment >= 0, places)
    return Sizes(*(jnp.maximum(jnp.sum(x, dtype=jnp.float32), 1) for x in each))


def _of_words(said: Said, batch: Batch, given: Given) -> dict[str, jax.Array]:
    labelled = (batch.labels >= 0) & (given.weights > 0)
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
    scores = early @ heads["facts"] - RARE
    facts = optax.sigmoid_binary_cross_entropy(scores, given.facts).sum(-1)
    aware = ((scores > 0) == (given.facts > 0)).reshape(*real.shape, FACTS, len(NAMES)).all(-1)
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
        aware=aware & real[..., None],
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
    scores, told = said.later @ heads["cast"] - RARE, given.cast >= 0
    labelled = (batch.labels >= 0) & told.any(-1)
    counts = jnp.where(jnp.arange(CAST) < 2 * len(NAMES), 1.0, WHOLE) * told
    unsure = (optax.sigmoid_binary_cross_entropy(scores, given.cast) * counts).sum(-1) * labelled
    sure = (((scores > 0) == (given.cast > 0)) | ~told).all(-1) & labelled
    return dict(missed=missed, misses=misses, places=given.numbers.max(-1) >= 0, unsure=unsure, sure=sure)
