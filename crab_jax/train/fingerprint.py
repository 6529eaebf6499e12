"""A few bytes that tell one set of weights from another, the same on every mesh."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_ODD = (0x9E3779B1, 0x85EBCA6B)


def fingerprint(flat: Mapping[str, Any]) -> dict[str, str]:
    """Part (first component of the path) → eight hexadecimal digits.

    Every bit of every weight takes part. All sums are of integers and wrap around, so their order does not matter:
    the result does not depend on where the weights live.

    Args:
        flat: path → JAX array, on any mesh.
    """
    hashes = jax.device_get(jax.jit(lambda tree: {path: _hash(x) for path, x in tree.items()})(dict(flat)))
    parts: dict[str, int] = {}
    for path in sorted(flat):
        x = flat[path]
        text = f"{path} {tuple(x.shape)} {np.dtype(x.dtype).name} {int(hashes[path])}"
        part = path.split("/", 1)[0]
        parts[part] = zlib.crc32(text.encode(), parts.get(part, 0))
    return {part: f"{value:08x}" for part, value in parts.items()}


def _hash(x: Any) -> Any:
    bits = jnp.uint32 if x.dtype.itemsize == 4 else jnp.uint16
    value = jax.lax.bitcast_convert_type(x, bits).astype(jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(x.ndim)):
        place += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= x.shape[axis]
    return jnp.sum((value ^ (place * jnp.uint32(_ODD[0]))) * (place * jnp.uint32(_ODD[1]) | 1), dtype=jnp.uint32)
