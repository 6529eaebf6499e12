"""The one linear layer. Kernels are `[in, out]`; PyTorch's `Linear.weight` is the transpose."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn import initializers

# PyTorch's default for Linear and Conv: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
torch_uniform = initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> initializers.Initializer:
    """PyTorch's default for the bias of a Linear or Conv: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Linear(nn.Module):
    """`y = x W + b`, computed in `dtype`; parameters are cast, never the result."""

    features: int
    use_bias: bool = True
    dtype: jnp.dtype = jnp.float32
    kernel_init: initializers.Initializer = torch_uniform
    bias_init: initializers.Initializer = initializers.zeros

    @nn.compact
    def __call__(self, x):
        """x [... in] → [... features]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            y = y + self.param("bias", self.bias_init, (self.features,)).astype(self.dtype)
        return y
