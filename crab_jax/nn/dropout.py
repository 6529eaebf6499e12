"""Dropout whose random bits come from JAX's counter-based generator, or cheaply from that of the hardware.

On a TPU the bits of threefry are computed by the vector units: half of the instructions inside the fusions of a
training step were about nothing else. A key of the kind "rbg" asks the chip's own generator instead.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from crab_jax.sharding import BATCH, platform

Bits = Literal["auto", "threefry", "rbg"]
_RBG = "rbg"


def dropout_key(key: Any, bits: Bits) -> Any:
    """The key to draw dropout from.

    Args:
        key: a threefry key.
        bits: where the bits come from; "auto" is "rbg" on a mesh of TPUs and else "threefry".

    Returns:
        The key itself, or one of the kind "rbg" made from it.
    """
    if bits == "threefry" or (bits == "auto" and platform() != "tpu"):
        return key
    data = jax.random.key_data(key)
    return jax.random.wrap_key_data(jnp.concatenate([data, data]), impl=_RBG)


class Dropout(nn.Module):
    """Sets values to zero with probability `rate` and scales the others by 1 / (1 - rate).

    The random stream "dropout" says with its key which generator is used.
    """

    rate: float
    deterministic: bool = False

    @nn.compact
    def __call__(self, x):
        """x [rows …] → the same shape and dtype."""
        if self.deterministic or self.rate == 0:
            return x
        key, keep = self.make_rng("dropout"), 1 - self.rate
        by_rows = str(jax.random.key_impl(key)) == _RBG
        kept = _kept_by_rows(key, keep, x.shape) if by_rows else jax.random.bernoulli(key, keep, x.shape)
        return jnp.where(kept, x / keep, jnp.zeros_like(x))


def _kept_by_rows(key: Any, keep: float, shape: tuple[int, ...]) -> Any:
    """bool of `shape`; every row has a key of its own, so that they are the same on every mesh.

    The hardware's generator cannot be cut apart: asked for all rows at once, every device would draw all of them.
    """
    threshold = jnp.uint16(min(65535, round(keep * 65536)))

    def draw(key, rows):
        one = lambda row: jax.random.bits(jax.random.fold_in(key, row), shape[1:], jnp.uint16) < threshold  # noqa: E731
        return jax.lax.map(one, rows)

    mesh = jax.sharding.get_abstract_mesh()
    rows = jnp.arange(shape[0])
    if not set(BATCH) <= set(mesh.axis_names) or shape[0] % math.prod(mesh.shape[axis] for axis in BATCH):
        return draw(key, rows)
    by_rows = PartitionSpec(BATCH)
    return jax.shard_map(draw, in_specs=(PartitionSpec(), by_rows), out_specs=by_rows, check_vma=False)(key, rows)
