"""Scaled dot-product attention with an optional additive bias and a boolean mask."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def attention(q, k, v, *, scale, bias=None, mask=None, dropout=None):
    """softmax(scale · q kᵀ + bias) v, softmax in float32.

    Args:
        q: [B L N E].
        k: [B S K E], with N a multiple of K (grouped queries).
        v: [B S K E].
        scale: multiplies the scores.
        bias: added to the scores, broadcastable to [B N L S].
        mask: bool, broadcastable to [B N L S]; False positions get no weight. A row without any True
            position gives a finite, meaningless result: nothing may read it.
        dropout: optional function applied to the attention weights [B N L S].

    Returns:
        [B L N E] in the dtype of q.
    """
    b, l, n, e = q.shape
    kv_heads = k.shape[2]
    grouped = q.reshape(b, l, kv_heads, n // kv_heads, e)
    scores = jnp.einsum("blkge,bske->bkgls", grouped, k, preferred_element_type=jnp.float32) * scale
    scores = scores.reshape(b, n, l, -1)
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    if dropout is not None:
        weights = dropout(weights)
    weights = weights.reshape(b, kv_heads, n // kv_heads, l, -1)
    return jnp.einsum("bkgls,bske->blkge", weights, v).reshape(b, l, n, e)
