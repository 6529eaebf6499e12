"""Learning rates and the optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from crab_jax.train.config import OptimConfig

_UNDECAYED = ("bias", "scale")


def learning_rate(config: OptimConfig, step: int, total: int) -> float:
    """The rate of optimizer step `step` (from 0) of `total`, in double precision.

    log_linear: W = max(2, ⌈ratio · total⌉), rate = peak · ln(k+1)/ln W below W, then peak · (total-k)/(total-W).
    cosine: W = ⌈ratio · total⌉, rate = peak · k/W below W, then peak · (1 + cos π(k-W)/(total-W)) / 2.
    k is `step`, or with `first_step_at_full_rate` the step before it.

    Source: specification 1.4; `get_cosine_schedule_with_warmup` of transformers.
    """
    k = step
    if config.first_step_at_full_rate:
        if step == 0:
            return config.learning_rate
        k = step - 1
    warmup = math.ceil(config.warmup_ratio * total)
    if config.schedule == "log_linear":
        warmup = max(2, warmup)
        share = math.log(k + 1) / math.log(warmup) if k < warmup else (total - k) / max(1, total - warmup)
    elif k < warmup:
        share = k / warmup
    elif config.schedule == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * (k - warmup) / max(1, total - warmup)))
    else:
        share = 1.0
    return config.learning_rate * max(0.0, share)


def rates(config: OptimConfig, total: int) -> np.ndarray:
    """Every step's rate: float32 [total]. A table, so that no device computes a logarithm of its own."""
    return np.array([learning_rate(config, step, total) for step in range(total)], np.float32)


def make_optimizer(config: OptimConfig, table: Any) -> optax.GradientTransformation:
    """AdamW on gradients clipped to a global norm.

    Args:
        config: constants.
        table: float32 [total], see `rates`; steps beyond it get the last rate.
    """
    table = jnp.asarray(table)

    def decayed(params: Mapping[str, Any]) -> dict[str, bool]:
        return {path: path.rsplit("/", 1)[-1] not in _UNDECAYED for path in params}

    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=decayed) if config.weight_decay else optax.identity(),
        optax.scale_by_learning_rate(lambda count: rate_at(table, count)),
    )


def rate_at(table: Any, step: Any) -> jax.Array:
    """The rate of a step, inside jit."""
    return jnp.asarray(table)[jnp.minimum(step, len(table) - 1)]
