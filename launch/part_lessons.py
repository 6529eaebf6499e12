"""What the parts of a small model learn before its stages: how each starts, its loss, and what it gets right.

What eye, ear and projectors know is read off by linear maps, which are thrown away; the mask decoder draws whom a code
names (`launch.pretrain_parts`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from crab_jax import losses
from crab_jax.backbones.beats import Beats
from crab_jax.backbones.clip import Clip, normalise
from crab_jax.backbones.mask_decoder import MaskDecoder
from crab_jax.backbones.qformer import QFormer
from crab_jax.model import CrabConfig
from data_pipelines.fbank import STD
from data_pipelines.world.casting import reserved_pair
from data_pipelines.world.kinds import KINDS
from launch.part_scenes import BINS, NAMES

BACKGROUND = 0.25  # weight of a cell or pixel of nobody: most are
RARE = 3.0  # most kinds are not there, and most facts about them are not so
RESERVED = np.array([[a != b and reserved_pair(a, b) for b in NAMES] for a in NAMES], np.float32)
PROMPTS = 3  # masks asked of one picture: what they share, everybody, falls out of the gradient


def eye(config: CrabConfig) -> tuple[Callable, Callable]:
    """How it starts, and its loss with what it gets right."""
    module, grid = Clip(config.clip), config.clip.image_size // config.clip.patch_size
    width, classes = config.clip.hidden_size, 1 + len(NAMES)
    side = config.mask_decoder.low_res // grid  # a patch is read as finely as masks are drawn
    read = [config.clip.taps.index(tap) for tap in dict.fromkeys(config.clip.taps)]  # each once

    def start(key: jax.Array) -> dict[str, Any]:
        s = config.clip.image_size
        encoder = module.init(key, jnp.zeros((1, s, s, 3)))["params"]
        # Where something is must be as loud as what it is, or attention finds nothing for a long time.
        encoder["positions"] = encoder["positions"] * 10
        return {"encoder": encoder, "head": jnp.zeros((len(read), width, side**2 * classes))}

    def loss(params: dict[str, Any], key: jax.Array | None, pictures, cells, placed, outdoors):
        del placed, outdoors
        if key is not None:
            pictures, cells = moved(key, pictures, cells, side // 2)
        taps = module.apply({"params": params["encoder"]}, normalise(pictures))
        weight = jnp.where(cells == 0, BACKGROUND, 1.0)
        total = 0.0
        for tap, head in zip(read, params["head"], strict=True):
            scores = (taps[tap] @ head).reshape(-1, grid, grid, side, side, classes)
            scores = scores.swapaxes(2, 3).reshape(-1, grid * side, grid * side, classes)
            each = optax.softmax_cross_entropy_with_integer_labels(scores, cells.astype(jnp.int32))
            total += (each * weight).sum() / weight.sum() / len(read)
        right = scores.argmax(-1) == cells
        return total, {"cells": right.mean(), "performers": (right & (cells > 0)).sum() / (cells > 0).sum()}

    return start, loss


def ear(config: CrabConfig) -> tuple[Callable, Callable]:
    """How it starts, and its loss with what it gets right."""
    module, width, kinds = Beats(config.beats), config.beats.encoder_embed_dim, len(NAMES)

    def start(key: jax.Array) -> dict[str, Any]:
        return {
            "encoder": module.init(key, jnp.zeros((1, 98, 128)))["params"],
            "head": jnp.zeros((width, 2 * kinds)),
            "bias": jnp.concatenate([jnp.full(kinds, -2.0), jnp.zeros(kinds)]),
        }

    def loss(params: dict[str, Any], key: jax.Array | None, windows, loud):
        if key is not None:
            windows, loud = varied(key, windows, loud)
        states = module.apply({"params": params["encoder"]}, windows.astype(jnp.float32))
        scores = states.mean(1) @ params["head"] + params["bias"]
        there = loud > 0
        heard = optax.sigmoid_binary_cross_entropy(scores[:, :kinds], there).mean()
        level = jnp.where(there, jnp.log(jnp.where(there, loud, 0.1) / 0.1), 0)
        off = (jnp.square(scores[:, kinds:] - level) * there).sum() / jnp.maximum(there.sum(), 1)
        said = scores[:, :kinds] > 0
        hits = (said & there).sum()
        f = 2 * hits / jnp.maximum(said.sum() + there.sum(), 1)
        return heard + 0.02 * off, {"F": f, "all right": (said == there).all(-1).mean(), "level error": jnp.sqrt(off)}

    return start, loss


def vl_projector(config: CrabConfig, encoder: dict[str, Any]) -> tuple[Callable, Callable, Callable]:
    """How it starts, its loss with what it gets right, and what the eye makes of pictures."""
    clip, module = Clip(config.clip), QFormer(config.vl_projector)
    sizes, classes = config.vl_projector, 1 + len(NAMES)

    def look(pictures, cells, placed, outdoors):
        del cells
        return clip.apply({"params": encoder}, normalise(pictures))[-1].astype(jnp.float16), placed, outdoors

    def start(key: jax.Array) -> dict[str, Any]:
        features = jnp.zeros((1, 1, sizes.encoder_width))
        head, setting = jnp.zeros((sizes.out_features, classes + 4 * BINS)), jnp.zeros(sizes.out_features)
        return {"encoder": module.init(key, features)["params"], "head": head, "setting": setting}

    def loss(params: dict[str, Any], key: jax.Array | None, features, placed, outdoors):
        del key
        placed = placed[:, : sizes.num_queries]
        tokens = module.apply({"params": params["encoder"]}, features.astype(jnp.float32))
        scores = tokens @ params["head"]  # one map for all queries: what is said does not depend on who says it
        who, where = scores[..., :classes], scores[..., classes:].reshape(*scores.shape[:-1], 4, BINS)
        named = optax.softmax_cross_entropy_with_integer_labels(who, placed[..., 0])
        there, steps = placed[..., 0] > 0, placed[..., 1:]
        near = jax.nn.softmax(-jnp.abs(jnp.arange(BINS) - steps[..., None]) / 0.7)
        off = optax.softmax_cross_entropy(where, near).mean(-1) * there
        found = there & (who.argmax(-1) == placed[..., 0])
        count = jnp.maximum(there.sum(), 1)
        miss = jnp.abs(where.argmax(-1) - steps).mean(-1)
        open_air = tokens.mean(1) @ params["setting"]  # what stands where says nothing about it, so all tokens do
        unsure = optax.sigmoid_binary_cross_entropy(open_air, outdoors).mean()
        right = {
            "named": found.sum() / count,
            "steps off": (miss * there).sum() / count,
            "settings": ((open_air > 0) == outdoors).mean(),
        }
        return named.mean() + off.sum() / count + unsure, right

    return start, loss, look


def al_projector(config: CrabConfig, encoder: dict[str, Any]) -> tuple[Callable, Callable]:
    """How it starts, and its loss with what it gets right; the ear hears windows that nobody rendered, too."""
    beats, module = Beats(config.beats), QFormer(config.al_projector)
    sizes, classes = config.al_projector, 1 + len(NAMES)

    def start(key: jax.Array) -> dict[str, Any]:
        features = jnp.zeros((1, 1, sizes.encoder_width))
        return {
            "encoder": module.init(key, features)["params"],
            "head": jnp.zeros((sizes.out_features, classes + 1)),
            "heard": jnp.zeros((sizes.out_features, classes - 1)),
        }

    def loss(params: dict[str, Any], key: jax.Array | None, windows, loud):
        if key is not None:
            windows, loud = varied(key, windows, loud)
        features = jax.lax.stop_gradient(beats.apply({"params": encoder}, windows.astype(jnp.float32)))
        tokens = module.apply({"params": params["encoder"]}, features)
        scores = tokens @ params["head"]
        level, kinds = jax.lax.top_k(loud, sizes.num_queries)  # the loudest first
        there = level > 0
        wanted = jnp.where(there, 1 + kinds, 0)
        named = optax.softmax_cross_entropy_with_integer_labels(scores[..., :classes], wanted)
        off = jnp.square(scores[..., classes] - jnp.log(jnp.where(there, level, 0.1) / 0.1)) * there
        count = jnp.maximum(there.sum(), 1)
        said = scores[..., :classes].argmax(-1)
        listed = (said[..., None] == 1 + jnp.arange(classes - 1)).any(1)
        # Of two that are about as loud it is a guess who comes first; who is there is none.
        sure = tokens.mean(1) @ params["heard"] - RARE
        unsure = optax.sigmoid_binary_cross_entropy(sure, loud > 0).sum(-1).mean()
        right = {
            "named": ((said == wanted) & there).sum() / count,
            "all right": (listed == (loud > 0)).all(-1).mean(),
            "together right": ((sure > 0) == (loud > 0)).all(-1).mean(),
            "level error": jnp.sqrt(off.sum() / count),
        }
        return named.mean() + 0.1 * off.sum() / count + 0.5 * unsure, right

    return start, loss


def codes(width: int) -> jax.Array:
    """What stands for each kind before a language model has a say: float32 [kinds width]."""
    return jax.random.normal(jax.random.key(0), (len(NAMES), width))


def nobody(width: int) -> jax.Array:
    """What stands for nobody: float32 [width]."""
    return jax.random.normal(jax.random.key(1), (width,))


def code_of(named: jax.Array, width: int) -> jax.Array:
    """What stands for some of the kinds together, or for nobody: [... kinds] of 0 and 1 → float32 [... width]."""
    many = named.sum(-1, keepdims=True)
    return jnp.where(many > 0, named @ codes(width) / jnp.sqrt(jnp.maximum(many, 1)), nobody(width))


def decoder(config: CrabConfig, encoder: dict[str, Any]) -> tuple[Callable, Callable, Callable]:
    """How it starts, its loss with how much of the masks it finds, and what the eye makes of pictures.

    Every picture is asked about several times; one picture in two is asked for classes.
    """
    # Masks are compared where they are drawn: the last enlargement has no weights, and costs most.
    sizes = dataclasses.replace(config.mask_decoder, image_size=config.mask_decoder.low_res)
    module, clip, kinds = MaskDecoder(sizes, jnp.float32), Clip(config.clip), len(NAMES)
    labels = jnp.asarray([0, *(KINDS[name].label for name in NAMES)])

    def look(pictures, classes, placed, outdoors):
        del placed, outdoors
        taps = clip.apply({"params": encoder}, normalise(pictures))[: sizes.levels]
        return jnp.stack(taps, 1).astype(jnp.float16), classes

    def start(key: jax.Array) -> dict[str, Any]:
        features = [jnp.zeros((1, sizes.grid**2, sizes.image_features))] * sizes.levels
        asked = jnp.zeros((1, sizes.mask_tokens, sizes.in_features))
        drawn = module.init(key, asked, features, jnp.zeros(1, bool))["params"]
        # As it is drawn, queries with and without a prompt are nearly the same, and so is what they find.
        drawn["prompt"]["lin2"]["kernel"] = drawn["prompt"]["lin2"]["kernel"] * 6
        return {"encoder": drawn, "head": jnp.zeros((sizes.levels, sizes.upscaled_dim, 1 + kinds))}

    def loss(params: dict[str, Any], key: jax.Array | None, features, classes):
        one, other, noise, gone = jax.random.split(jax.random.key(0) if key is None else key, 4)
        there = (classes[..., None] == 1 + jnp.arange(kinds)).any((1, 2))  # [B K]
        drawn = jnp.where(there, jax.random.uniform(one, there.shape), -1)
        place = jnp.argsort(jnp.argsort(-drawn, axis=-1), axis=-1)[:, None]  # of every kind, in an order by lot
        # The n-th prompt names the n-th of those that are there (counted around, and nine times in ten), some of the
        # others, and now and then somebody who is not there. Who names nobody asks for nothing.
        turn = jnp.arange(PROMPTS)[:, None] % jnp.maximum(there.sum(-1), 1)[:, None, None]  # [B N 1]
        more = jax.random.uniform(other, (len(there), PROMPTS, kinds)) < 0.15
        keep, absent = jnp.split(jax.random.uniform(gone, (len(there), PROMPTS, 1 + kinds)), (1,), axis=-1)
        named = (there[:, None] & (((place == turn) & (keep > 0.1)) | more)) | (absent < 0.01)
        named = named.reshape(-1, kinds)  # [B·N K]
        code = code_of(named, sizes.in_features)
        states = code[:, None] + 0.3 * jax.random.normal(noise, (len(code), sizes.mask_tokens, code.shape[-1]))
        again = jnp.repeat(features.astype(jnp.float32), PROMPTS, axis=0)
        classes = jnp.repeat(classes, PROMPTS, axis=0)
        semantic = jnp.arange(len(code)) // PROMPTS % 2 == 1
        masks, stages = module.apply(
            {"params": params["encoder"]}, states, [again[:, 0], again[:, 1]], semantic, capture=True
        )
        # What a pixel becomes before prompts choose among pixels is to tell the kinds apart, asked for or not.
        apart = 0.0
        for level, head in enumerate(params["head"]):
            pixels = stages[f"level{level}/output_upscaling"]
            side = classes.shape[-1] * (2 * np.arange(pixels.shape[1]) + 1) // (2 * pixels.shape[1])
            apart += _named_cells(pixels @ head, classes[:, side[:, None], side]) / sizes.levels
        shown = jnp.concatenate([jnp.zeros_like(named[:, :1]), named], -1)  # class 0 is nobody
        wanted = jnp.take_along_axis(shown, classes.reshape(len(code), -1).astype(int), -1).reshape(classes.shape)
        binary = losses.bce(masks["binary"][:, 0], wanted) + 0.5 * losses.dice(masks["binary"][:, 0], wanted)
        told = jnp.where(wanted, labels[classes], 0)
        named_pixels = _named_cells(jnp.moveaxis(masks["semantic"], 1, -1), told)
        total = jnp.where(semantic, named_pixels, binary).mean() + apart.mean()
        found = masks["binary"][:, 0] > 0
        either = (found | wanted).sum((1, 2))
        iou = jnp.where(either > 0, (found & wanted).sum((1, 2)) / jnp.maximum(either, 1), 1.0)
        right = masks["semantic"].argmax(1) == told
        hits = ((right & wanted).sum((1, 2)) * semantic).sum() / jnp.maximum((wanted.sum((1, 2)) * semantic).sum(), 1)
        return total, {"IoU": (iou * ~semantic).sum() / (~semantic).sum(), "pixels of classes": hits}

    return start, loss, look


def _named_cells(scores: jax.Array, classes: jax.Array) -> jax.Array:
    """Cross-entropy of [B h w C] against [B h w], where nobody counts little: float32 [B]."""
    weight = jnp.where(classes == 0, BACKGROUND, 1.0)
    each = optax.softmax_cross_entropy_with_integer_labels(scores, classes.astype(jnp.int32))
    return (each * weight).sum((1, 2)) / weight.sum((1, 2))


def moved(key: jax.Array, pictures: jax.Array, cells: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """Pictures uint8 [B S S 3] that nobody rendered, with their cells [B G G]: moved by at most so many cells.

    The edges are repeated. By whole cells, so that each keeps its class.
    """
    cell = pictures.shape[1] // cells.shape[1]
    by = jax.random.randint(key, (len(pictures), 2), 0, 2 * most + 1)

    def of(x: jax.Array, scale: int) -> jax.Array:
        wide = jnp.pad(x, ((0, 0), *((most * scale,) * 2,) * 2, *((0, 0),) * (x.ndim - 3)), mode="edge")
        return jax.vmap(lambda one, at: jax.lax.dynamic_slice(one, (*(at * scale), *(0,) * (x.ndim - 3)), x.shape[1:]))(
            wide, by
        )

    return of(pictures, cell), of(cells, 1)


def varied(key: jax.Array, windows: jax.Array, loud: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Windows that nobody rendered: moved in time, softer or louder, and half of them mixed with their neighbour.

    One may be twenty times as loud as the other, as in a concert: what is missed there are the soft ones. Sounds add up
    in energy, so two windows can be mixed after the logarithm; phases are taken to be independent.
    """
    shift, gain, mixed = jax.random.split(key, 3)
    scale = 2 * STD  # of the normalisation, see `data_pipelines.fbank`
    windows = jnp.roll(windows.astype(jnp.float32), jax.random.randint(shift, (), 0, windows.shape[1]), axis=1)
    amplitude = jnp.exp(jax.random.uniform(gain, (len(windows),), minval=-0.8, maxval=0.8))
    windows = windows + (2 * jnp.log(amplitude) / scale)[:, None, None]
    loud = loud * amplitude[:, None]
    other, others = jnp.roll(windows, 1, axis=0), jnp.roll(loud, 1, axis=0)
    few = ((loud > 0) | (others > 0)).sum(-1) <= 4
    kept_apart = ((loud > 0) @ RESERVED * (others > 0)).any(-1)  # a pair that is kept for testing
    mix = few & ~kept_apart & (jax.random.uniform(mixed, (len(windows),)) < 2 / 3)
    both = jnp.logaddexp(windows * scale, other * scale) / scale
    return jnp.where(mix[:, None, None], both, windows), jnp.where(mix[:, None], jnp.hypot(loud, others), loud)
