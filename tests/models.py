"""Small random models for tests."""

from __future__ import annotations

import functools

import jax

from configs import tiny
from crab_jax.config import build
from crab_jax.model import CrabConfig, init


@functools.cache
def tiny_config() -> CrabConfig:
    return build(CrabConfig, tiny.get_config().model.to_dict())


@functools.cache
def tiny_params(seed: int = 0):
    """Random parameters whose adapters are switched on: a zero B would hide mistakes of the router."""
    flat = init(tiny_config(), jax.random.key(seed))
    for i, path in enumerate(sorted(flat)):
        if path.endswith("lora_b"):
            flat[path] = 0.3 * jax.random.normal(jax.random.key(1000 + i), flat[path].shape)
    return flat
