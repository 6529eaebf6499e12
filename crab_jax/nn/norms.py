"""Normalisations. Statistics are always float32; the result has the dtype of the input."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


class LayerNorm(nn.Module):
    """LayerNorm over the last axis. `eps` has no default: it comes from the checkpoint's config."""

    eps: float

    @nn.compact
    def __call__(self, x):
        """x [... D] → [... D]."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        y = x.astype(jnp.float32)
        y = y - y.mean(axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt((y * y).mean(axis=-1, keepdims=True) + self.eps)
        return (y * scale + bias).astype(x.dtype)


class RMSNorm(nn.Module):
    """LLaMA's RMSNorm: the normalised value is cast back before the scale is applied, as in the original."""

    eps: float

    @nn.compact
    def __call__(self, x):
        """x [... D] → [... D]."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt((y * y).mean(axis=-1, keepdims=True) + self.eps)
        return scale.astype(x.dtype) * y.astype(x.dtype)
