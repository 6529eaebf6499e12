"""Text from a prompt: prefill and a `while_loop` with a key-value cache, in one jitted function.

The same pass collects the states that predicted the mask tokens, so text and masks come together.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from crab_jax.backbones.llama import Cache, causal
from crab_jax.model import Crab


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen.

    The reference samples with temperature 0.6, top_k 50, top_p 0.9, because LLaMA-2-chat's own generation settings say
    so (Q-4); here greedy is the default.

    Attributes:
        temperature: 0 is greedy; otherwise at least 1e-6, because logits are divided by it in float32.
        top_k: only the k most likely tokens; 0 for all.
        top_p: the smallest set of most likely tokens with at least this probability; 1 for all.
        seed: of the explicit key, 0 to 2^32 - 1; row i of a run uses `fold_in(key(seed), i)`, whatever batch it is in.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        usable = self.temperature == 0 or (math.isfinite(self.temperature) and self.temperature >= 1e-6)
        if not (usable and 0 <= self.top_k < 2**31 and 0 < self.top_p <= 1 and 0 <= self.seed < 2**32):
            raise ValueError(
                "expected temperature 0 or at least 1e-6, 0 <= top_k < 2^31, 0 < top_p <= 1, 0 <= seed < 2^32, found "
                f"{self}"
            )


REFERENCE_SAMPLING = Sampling(temperature=0.6, top_k=50, top_p=0.9)


class Generated(NamedTuple):
    """Result for a batch; row b has `length[b]` ids, the end token included if it was reached."""

    ids: Any  # int32 [B N], `fill` behind the end
    length: Any  # int32 [B]
    mask_states: Any  # [B K D], the last K states that predicted a mask token, oldest first
    mask_count: Any  # int32 [B], how many mask tokens were emitted
    first_logits: Any  # float32 [B V], those that chose the first token
    margin: Any  # float32 [B N], logit gap between the best and the second token at every step


def choose(logits, keys, *, temperature, top_k, top_p):
    """Draws one token per row after temperature, top-k and top-p, in that order.

    Args:
        logits: float32 [B V].
        keys: one key per row.
        temperature, top_k, top_p: scalars; top_k 0 means all.

    Returns:
        int32 [B].
    """
    scaled = logits / temperature
    ordered = -jnp.sort(-scaled, axis=-1)
    kth = jnp.where(top_k > 0, jnp.clip(top_k, 1, logits.shape[-1]) - 1, logits.shape[-1] - 1)
    rank = jnp.arange(logits.shape[-1])
    ordered = jnp.where(rank <= kth, ordered, -jnp.inf)
    probability = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    keep = before < top_p  # the token that crosses top_p still belongs to the set; the best one always does
    floor = jnp.min(jnp.where(keep & jnp.isfinite(ordered), ordered, jnp.inf), axis=-1, keepdims=True)
    limited = jnp.where(scaled >= floor, scaled, -jnp.inf)
    return jax.vmap(jax.random.categorical)(keys, limited).astype(jnp.int32)


def _generate(
    model: Crab,
    variables,
    tokens,
    segment,
    position,
    visual,
    audio,
    limit,
    keys,
    knobs,
    *,
    capacity: int,
    greedy: bool,
    fill: int = 0,
) -> Generated:
    """Answers a batch of left-padded prompts.

    Args:
        model: `Crab`; `unrolled` if `variables` are.
        variables: {"params": nested}.
        tokens, segment, position: int32 [B L]; every prompt ends in the last column, segment 0 is padding.
        visual: [B T·Q D], audio: [B A·Q D]; tokens for the placeholders (an axis of length 0 if there are none).
        limit: int32 [B], at most this many new tokens for each row (at most `capacity`).
        keys: one random key per row (unused when greedy).
        knobs: (temperature, top_k, top_p) as scalars (unused when greedy).
        capacity: N, static room for new tokens.
        greedy: static.
        fill: id behind the end of finished rows (the reference's is 0).

    Returns:
        See `Generated`. Rows are independent: the answer to a prompt does not depend on its batch.
    """
    bound = model.bind(variables)
    ids = model.config.token_ids
    b, length = tokens.shape
    slots = length + capacity
    k = len(ids.masks)

    def pick(logits, step):
        if greedy:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, step)
        return choose(logits, step_keys, temperature=knobs[0], top_k=knobs[1], top_p=knobs[2])

    def record(carry, state, logits, step):
        """Chooses the token of this step from `logits` and writes down what it brings."""
        token = jnp.where(carry["done"], fill, pick(logits, step))
        alive = ~carry["done"]
        is_mask = alive & (token >= ids.masks[0]) & (token <= ids.masks[-1])
        pushed = jnp.concatenate([carry["states"][:, 1:], state[:, None]], axis=1)
        best = logits.max(axis=-1)
        is_best = jnp.arange(logits.shape[-1]) == jnp.argmax(logits, axis=-1)[:, None]
        second = jnp.where(is_best, -jnp.inf, logits).max(axis=-1)
        return carry | {
            "token": token,
            "out": jax.lax.dynamic_update_index_in_dim(carry["out"], token, step, axis=1),
            "margin": jax.lax.dynamic_update_index_in_dim(carry["margin"], best - second, step, axis=1),
            "length": carry["length"] + alive,
            "states": jnp.where(is_mask[:, None, None], pushed, carry["states"]),
            "count": carry["count"] + is_mask,
            "done": carry["done"] | (token == ids.eos) | (step + 1 >= limit),
            "step": step + 1,
        }

    x = bound.place(tokens, visual, audio)
    cache = Cache.zeros(model.config.llama, batch=b, slots=slots, dtype=model.dtype, separate=model.unrolled)
    states, cache, _ = bound.llama(x, position, causal(segment), cache, jnp.int32(0))
    last = states[:, -1]
    logits = bound.llama.logits(last)
    carry = {
        "token": jnp.zeros((b,), jnp.int32),
        "out": jnp.full((b, capacity), fill, jnp.int32),
        "margin": jnp.zeros((b, capacity), jnp.float32),
        "length": jnp.zeros((b,), jnp.int32),
        "states": jnp.zeros((b, k, last.shape[-1]), last.dtype),
        "count": jnp.zeros((b,), jnp.int32),
        "done": limit <= 0,
        "step": jnp.int32(0),
        "cache": cache,
    }
    carry = record(carry, last, logits, jnp.int32(0))

    first_slot = jnp.argmax(segment > 0, axis=1)  # [B], padding stands before it
    slot = jnp.arange(slots)

    def body(carry):
        step = carry["step"]
        at = length + step - 1
        visible = (slot >= first_slot[:, None]) & (slot <= at)
        x = bound.llama.embed(carry["token"][:, None])
        where = position[:, -1:] + step
        states, cache, _ = bound.llama(x, where, visible[:, None, None], carry["cache"], at)
        state = states[:, 0]
        return record(carry | {"cache": cache}, state, bound.llama.logits(state), step)

    carry = jax.lax.while_loop(lambda c: (c["step"] < capacity) & ~c["done"].all(), body, carry)
    return Generated(carry["out"], carry["length"], carry["states"], carry["count"], logits, carry["margin"])


_STATIC = ("model", "capacity", "greedy", "fill")
generate = jax.jit(_generate, static_argnames=_STATIC)
# On CPU, XLA multiplies bfloat16 by converting to float32, and moves the conversion of all weights out of the loop:
# fast, but three times the memory. Without that motion, and with stacked layers, one layer is converted at a time.
generate_lean = jax.jit(
    _generate,
    static_argnames=_STATIC,
    compiler_options={"xla_disable_hlo_passes": "while-loop-invariant-code-motion"},
)
