"""Small random models for tests."""

from __future__ import annotations

import functools
import math

import numpy as np

from configs import tiny
from crab_jax.config import build
from crab_jax.model import CrabConfig, abstract
from crab_jax.params import Flat


@functools.cache
def tiny_config() -> CrabConfig:
    return build(CrabConfig, tiny.get_config().model.to_dict())


@functools.cache
def tiny_params(seed: int = 0) -> Flat:
    """Random parameters in which nothing is zero or one: a zero B or a scale of one would hide mistakes.

    NumPy, not `crab_jax.model.init`, because compiling two hundred random initialisers takes longer than most tests.
    """
    rng = np.random.default_rng(seed)
    flat: Flat = {}
    for path, leaf in abstract(tiny_config()).items():
        kind = path.rsplit("/", 1)[1]
        noise = rng.standard_normal(leaf.shape, np.float32)
        if kind == "scale":
            flat[path] = 1 + 0.1 * noise
        elif kind == "bias":
            flat[path] = 0.1 * noise
        elif kind in ("embedding", "lora_b") or len(leaf.shape) < 2:
            flat[path] = 0.3 * noise
        else:
            fan_in = math.prod(leaf.shape[-4:-1]) if len(leaf.shape) >= 4 and "conv" in path else leaf.shape[-2]
            flat[path] = noise / math.sqrt(fan_in)
    return flat
