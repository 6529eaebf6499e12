"""The layers of the mask decoder: two-way transformers, the generator of queries, convolutions, resizing.

Letters as in `crab_jax/backbones/mask_decoder.py`.

Source: specification 8, A.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers

from crab_jax.nn.attention import attention
from crab_jax.nn.linear import Linear, torch_bias, torch_uniform
from crab_jax.nn.norms import LayerNorm

if TYPE_CHECKING:
    from crab_jax.backbones.mask_decoder import MaskDecoderConfig

xavier = initializers.glorot_uniform()


class Mlp(nn.Module):
    """Linears `lin1`, `lin2`, … with an activation between them."""

    features: Sequence[int]
    dtype: jnp.dtype
    activation: Callable[[Any], Any] = nn.relu
    kernel_init: initializers.Initializer = torch_uniform

    @nn.compact
    def __call__(self, x):
        """x [... D] → [... features[-1]]."""
        for i, features in enumerate(self.features):
            x = self.activation(x) if i else x
            x = Linear(
                features,
                dtype=self.dtype,
                kernel_init=self.kernel_init,
                bias_init=torch_bias(x.shape[-1]),
                name=f"lin{i + 1}",
            )(x)
        return x


def _split_heads(x, heads: int):
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


class Attention(nn.Module):
    """Attention whose inner width may be smaller than that of the tokens."""

    inner: int
    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, q, k, v):
        """q [B L D], k and v [B S D] → [B L D]."""

        def project(name, x, features):
            return Linear(features, dtype=self.dtype, bias_init=torch_bias(x.shape[-1]), name=name)(x)

        width = q.shape[-1]
        q, k, v = (_split_heads(project(n, x, self.inner), self.heads) for n, x in zip("qkv", (q, k, v), strict=True))
        y = attention(q, k, v, scale=q.shape[-1] ** -0.5)
        return project("out", y.reshape(*y.shape[:2], self.inner), width)


class TwoWayBlock(nn.Module):
    """Queries attend to themselves, then to the image; then the image attends to the queries."""

    config: MaskDecoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, carry, keep, first_queries, pe):
        """One step of the scan over blocks.

        Args:
            carry: queries [B Q D] and image tokens [B P D].
            keep: float32 scalar, 0 in the first block and 1 in the others. The first block's self-attention has
                neither a residual nor a positional term: both are multiplied by `keep`, which is exact, so that all
                blocks are one scanned block.
            first_queries: [B Q D], the positional term of the queries.
            pe: [P D], that of the image tokens.
        """
        c = self.config
        queries, image = carry
        keep = keep.astype(self.dtype)

        def attend(name, inner, *qkv):
            return Attention(inner, c.num_heads, self.dtype, name=name)(*qkv)

        def normed(name, x):
            return LayerNorm(c.norm_eps, name=name)(x)

        placed = queries + keep * first_queries
        queries = normed("norm1", keep * queries + attend("self_attn", c.prompt_dim, placed, placed, queries))
        inner = c.prompt_dim // c.downsample
        placed, placed_image = queries + first_queries, image + pe
        queries = normed("norm2", queries + attend("token_to_image", inner, placed, placed_image, image))
        queries = normed("norm3", queries + Mlp((c.mlp_dim, c.prompt_dim), self.dtype, name="mlp")(queries))
        placed = queries + first_queries
        image = normed("norm4", image + attend("image_to_token", inner, placed_image, placed, queries))
        return (queries, image), None


class TwoWay(nn.Module):
    """The two-way transformer of one level: `depth` blocks, then once more queries to image."""

    config: MaskDecoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, queries, image, pe):
        """queries [B Q D], image tokens [B P D], pe [P D] → queries [B Q D], image tokens [B P D]."""
        c = self.config
        first_queries = queries
        blocks = nn.scan(
            TwoWayBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=c.depth,
        )(c, self.dtype, name="layers")
        keep = jnp.minimum(jnp.arange(c.depth, dtype=jnp.float32), 1)
        (queries, image), _ = blocks((queries, image), keep, first_queries, pe)
        attend = Attention(c.prompt_dim // c.downsample, c.num_heads, self.dtype, name="final_attn")
        queries = queries + attend(queries + first_queries, image + pe, image)
        return LayerNorm(c.norm_eps, name="final_norm")(queries), image


class QueryGenerator(nn.Module):
    """Learned queries that have seen the prompt of their sample.

    The reference runs `query_layers` layers, but gives the original queries to every one of them and keeps the last
    result; only that layer is computed (Q-7). Self-attention does not depend on the sample, so it runs once. The
    cross-attention has a single key, its softmax is 1, and it adds the same vector to all queries (Q-8); the thirds of
    its packed projection that belong to q and k stay in the parameters and get a zero gradient.
    """

    config: MaskDecoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens, prompts):
        """tokens [Q D], prompts [B levels D] → [B levels Q D]."""
        c = self.config

        def project(name, features, x):
            return Linear(features, dtype=self.dtype, kernel_init=xavier, name=name)(x)

        packed = project("self_attn_in", 3 * c.prompt_dim, tokens)[None]
        q, k, v = (_split_heads(x, c.query_heads) for x in jnp.split(packed, 3, axis=-1))
        own = attention(q, k, v, scale=q.shape[-1] ** -0.5).reshape(tokens.shape)
        queries = LayerNorm(c.norm_eps, name="norm1")(tokens + project("self_attn_out", c.prompt_dim, own))
        _, _, value = jnp.split(project("cross_attn_in", 3 * c.prompt_dim, prompts), 3, axis=-1)
        seen = project("cross_attn_out", c.prompt_dim, value)  # [B levels D]
        queries = LayerNorm(c.norm_eps, name="norm2")(queries + seen[:, :, None])  # [B levels Q D]
        hidden = Mlp((c.query_mlp_dim, c.prompt_dim), self.dtype, gelu, xavier, name="mlp")(queries)
        return LayerNorm(c.norm_eps, name="norm3")(queries + hidden)


class Conv3x3(nn.Module):
    """3 x 3 convolution without bias, zero padded to the same size."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        """x [B h w D] → [B h w features]."""
        kernel = self.param("kernel", torch_uniform, (3, 3, x.shape[-1], self.features))
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype), kernel.astype(self.dtype), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


class Neck(nn.Module):
    """CLIP features to the width of the decoder; the same weights for both levels."""

    config: MaskDecoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        """x [B G G C] → [B G G D]."""
        c = self.config
        x = Linear(c.prompt_dim, use_bias=False, dtype=self.dtype, name="conv1")(x)
        x = LayerNorm(c.norm2d_eps, name="norm1")(x)
        x = Conv3x3(c.prompt_dim, self.dtype, name="conv2")(x)
        return LayerNorm(c.norm2d_eps, name="norm2")(x)


class Upscale(nn.Module):
    """Transposed convolution 2 x 2 with stride 2, LayerNorm over channels, GELU."""

    features: int
    eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        """x [B h w D] → [B 2h 2w features]."""
        b, h, w, d = x.shape
        # PyTorch computes the fan-in of a transposed convolution from its outputs.
        init = initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=0)
        kernel = self.param("kernel", init, (d, 2, 2, self.features))
        bias = self.param("bias", torch_bias(4 * self.features), (self.features,))
        # kernel = stride: the outputs of different inputs do not overlap, so it is one matrix product and a reshape.
        y = x.astype(self.dtype) @ kernel.astype(self.dtype).reshape(d, 4 * self.features)
        y = y.reshape(b, h, w, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
        y = y.reshape(b, 2 * h, 2 * w, self.features) + bias.astype(self.dtype)
        return gelu(LayerNorm(self.eps, name="norm")(y))


def gelu(x):
    """The exact form, as in PyTorch."""
    return nn.gelu(x, approximate=False)


def resize(x, size: int):
    """Bilinear resize of x [B C h w] → [B C size size] with half-pixel centres and without antialiasing."""
    return jax.image.resize(x, (*x.shape[:2], size, size), "bilinear", antialias=False)


def positional_encoding(gaussian, size: int):
    """Random Fourier features of the pixel centres of a square grid.

    Args:
        gaussian: float32 [2 D/2], frequencies; row 0 belongs to x.
        size: G, side of the grid.

    Returns:
        float32 [G G D], sines then cosines.
    """
    centre = 2 * ((np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)) - 1
    angle = centre[None, :, None] * gaussian[0] + centre[:, None, None] * gaussian[1]  # no matmul: exact everywhere
    angle = np.float32(2 * np.pi) * angle
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
