"""The interaction-aware LoRA: a frozen linear, one shared A, several B heads, a router that weighs them per token."""

from __future__ import annotations

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from crab_jax.config import ConfigError, check_positive, check_sizes
from crab_jax.nn.dropout import Dropout
from crab_jax.nn.linear import torch_uniform
from crab_jax.nn.shapes import expect


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Sizes of the adapter. `heads` and `rank` come from the file (`lora_route.weight`), `alpha` from no file.

    Attributes:
        heads: number of B heads (published file: 3).
        rank: width of the shared A (published: 8).
        alpha: the adapter is scaled by `alpha / rank` (published: 16 / 8 = 2).
        dropout: probability on the input of A, in training only.
        dropout_masks: "shared" draws one mask for all heads; the reference draws one "per_head" (Q-28). Both have the
            same expectation and the same evaluation.
    """

    heads: int
    rank: int
    alpha: float
    dropout: float
    dropout_masks: Literal["shared", "per_head"] = "shared"

    def __post_init__(self):
        check_sizes("lora", self)
        check_positive("lora", self, "alpha")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora: dropout is {self.dropout}, expected 0 <= dropout < 1")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def spread(z, weights):
    """Spreads the router weights over the rank axis: z [... R] or [... H R], weights [... H] → [... H·R]."""
    if z.ndim == weights.ndim:
        z = z[..., None, :]
    return rearrange(weights[..., :, None] * z, "... h r -> ... (h r)")


def multi_head_lora(x, a, route, b, *, scale):
    """scale · Σ_h softmax(x R)_h · (x A) B_h, as one thin and one wide product.

    A and the router read `x` together; the router's weights are spread over the rank axis, and all heads are one
    matrix. Same numbers as a loop over heads, without a full-width result per head.

    Args:
        x: [... D].
        a: [D R], shared by the heads.
        route: [D H].
        b: [H R F].
        scale: alpha / rank.

    Returns:
        The adapter's part [... F] in the dtype of x, and the router's weights [... H] in float32.

    Source: specification 6.1.
    """
    expect(b, "H R F", H=route.shape[1], R=a.shape[1])
    both = jnp.concatenate([a, route], axis=1).astype(x.dtype)
    zr = jnp.matmul(x, both, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(zr[..., a.shape[1] :], axis=-1)
    # The scale goes onto the few numbers in front of B, in float32, not onto B itself.
    u = spread((scale * zr[..., : a.shape[1]]).astype(x.dtype), weights.astype(x.dtype))
    return u @ rearrange(b, "h r f -> (h r) f").astype(x.dtype), weights


class LoraLinear(nn.Module):
    """A linear without bias that carries the adapter (or none, if `lora` is None)."""

    features: int
    lora: LoraConfig | None
    dtype: jnp.dtype
    train: bool = False

    @nn.compact
    def __call__(self, x):
        """x [... D] → ([... F], router weights [... H] float32 or None)."""
        width = x.shape[-1]
        x = x.astype(self.dtype)
        kernel = self.param("kernel", torch_uniform, (width, self.features))
        y = x @ kernel.astype(self.dtype)
        if self.lora is None:
            return y, None
        c = self.lora
        a = self.param("lora_a", torch_uniform, (width, c.rank))
        route = self.param("lora_route", torch_uniform, (width, c.heads))
        b = self.param("lora_b", nn.initializers.zeros, (c.heads, c.rank, self.features))
        if not self.train or c.dropout == 0:
            delta, weights = multi_head_lora(x, a, route, b, scale=c.scale)
            return y + delta, weights
        # Only the input of A is dropped out, the router reads x as it is; so here they are two products.
        logits = jnp.matmul(x, route.astype(self.dtype), preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits, axis=-1)
        drop = Dropout(c.dropout)
        if c.dropout_masks == "shared":
            z = drop(x) @ a.astype(self.dtype)
        else:
            z = jnp.stack([drop(x) @ a.astype(self.dtype) for _ in range(c.heads)], axis=-2)
        u = spread(c.scale * z, weights.astype(self.dtype))
        return y + u @ rearrange(b, "h r f -> (h r) f").astype(self.dtype), weights
