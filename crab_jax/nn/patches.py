"""Patch embedding: a convolution whose stride is its kernel is one matrix product over cut-out patches."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax.nn import initializers

from crab_jax.nn.linear import torch_uniform


class PatchEmbed(nn.Module):
    """Non-overlapping `patch` × `patch` windows, each mapped to `features` numbers. The kernel is `[kh kw in out]`."""

    patch: int
    features: int
    use_bias: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        """x [B H W C] → [B H//patch W//patch features]; rows and columns that fill no patch are dropped."""
        b, h, w, c = x.shape
        p = self.patch
        kernel = self.param("kernel", torch_uniform, (p, p, c, self.features))
        x = x[:, : h // p * p, : w // p * p].astype(self.dtype)
        x = x.reshape(b, h // p, p, w // p, p, c).swapaxes(2, 3).reshape(b, h // p, w // p, p * p * c)
        y = x @ kernel.astype(self.dtype).reshape(-1, self.features)
        if self.use_bias:
            y = y + self.param("bias", initializers.zeros, (self.features,)).astype(self.dtype)
        return y
