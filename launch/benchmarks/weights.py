"""Random weights without compiling anything: the values do not matter for speed, only that they are not all alike."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from crab_jax.backbones.llama import unstack
from crab_jax.model import CrabConfig, abstract
from crab_jax.params import Flat


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: jnp.dtype) -> jnp.ndarray:
    """Normal numbers, scaled so that a product with the result keeps the size of its input."""
    return jnp.asarray(_normal(rng, shape), dtype)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    fan_in = shape[-2] if len(shape) > 1 else 1
    return rng.standard_normal(shape, np.float32) / np.float32(math.sqrt(fan_in))


def random_weights(config: CrabConfig, dtype: jnp.dtype, *, seed: int = 0) -> Flat:
    """Parameters of a model, the layers of the language model one by one as generation wants them.

    The column of the end token in the output matrix is zero: its logit is zero, below the best of the others, so that
    greedy answers never end before their limit.
    """
    rng = np.random.default_rng(seed)
    flat: Flat = {}
    for path, leaf in abstract(config).items():
        x = _normal(rng, leaf.shape)
        if path.endswith("/scale"):
            x = np.clip(1 + 0.1 * x, 0.5, 1.5)
        elif path == "llama/head/kernel":
            x[:, config.token_ids.eos] = 0
        flat |= {p: jnp.asarray(y, dtype) for p, y in unstack({path: x}, config.llama.num_layers).items()}
    return flat
