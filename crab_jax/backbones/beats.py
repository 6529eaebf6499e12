"""BEATs: log-mel patches → transformer with convolutional positions and a gated, bucketed relative position bias."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from crab_jax.config import ConfigError, build, check_sizes, int_fields
from crab_jax.nn.attention import attention
from crab_jax.nn.linear import Linear, torch_uniform
from crab_jax.nn.norms import LayerNorm
from crab_jax.nn.patches import PatchEmbed
from crab_jax.nn.shapes import expect
from crab_jax.sharding import constrain
from crab_jax.weights import CONV_1D, CONV_2D, Rule, WeightTable, drop_axes, linear, norm

MELS = 128  # bands of the filter bank, specification 4.3
NORM_EPS = 1e-5  # of every LayerNorm; the checkpoint does not carry it, specification 4.5

_GATE = 8  # outputs of the gate's linear map: two numbers, each the sum of four


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeatsConfig:
    """Field names as in the `cfg` dict of the checkpoint, specification 4.4."""

    input_patch_size: int
    embed_dim: int
    conv_bias: bool
    encoder_layers: int
    encoder_embed_dim: int
    encoder_ffn_embed_dim: int
    encoder_attention_heads: int
    activation_fn: Literal["gelu", "relu"]
    layer_norm_first: bool
    deep_norm: bool
    conv_pos: int
    conv_pos_groups: int
    relative_position_embedding: bool
    num_buckets: int
    max_distance: int
    gru_rel_pos: bool

    def __post_init__(self):
        biased = {"num_buckets", "max_distance"}
        check_sizes(
            "beats", self, sorted({*int_fields(self)} - (set() if self.relative_position_embedding else biased))
        )
        if self.input_patch_size > MELS:
            raise ConfigError(f"beats: input_patch_size {self.input_patch_size} is larger than the {MELS} mel bands")
        if self.relative_position_embedding and self.num_buckets < 4:
            raise ConfigError(f"beats: num_buckets is {self.num_buckets}, expected at least 4: near and far, both ways")
        for name in ("encoder_attention_heads", "conv_pos_groups"):
            if self.encoder_embed_dim % getattr(self, name):
                raise ConfigError(
                    f"beats: encoder_embed_dim {self.encoder_embed_dim} does not divide by {name} {getattr(self, name)}"
                )
        if self.relative_position_embedding and not self.num_buckets // 4 < self.max_distance:
            raise ConfigError(
                f"beats: max_distance {self.max_distance} must be beyond the {self.num_buckets // 4} distances "
                "that have a bucket of their own (num_buckets / 4)"
            )

    @property
    def tokens_per_row(self) -> int:
        """Tokens of one row of patches: 8 at 128 mel bands and patches of 16."""
        return MELS // self.input_patch_size

    def tokens(self, frames: int) -> int:
        """n, tokens of a window of `frames` filter bank frames."""
        return frames // self.input_patch_size * self.tokens_per_row


def token_mask(config: BeatsConfig, rows, frames: int):
    """Which tokens of a padded window are real.

    Args:
        rows: int32 [A], real rows of patches per window.
        frames: F, filter bank frames of the padded window.

    Returns:
        bool [A n].
    """
    row = np.arange(config.tokens(frames)) // config.tokens_per_row  # tokens are ordered by time, then frequency
    return row < jnp.asarray(rows)[:, None]


def relative_buckets(tokens: int, *, num_buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of each pair of tokens: exact for short distances, logarithmic for long ones, signs apart.

    Returns:
        int32 [n n], rows are queries, columns are keys.

    Source: specification 4.5. The logarithm is float32 as in the reference, because it is truncated.
    """
    half, exact = num_buckets // 2, num_buckets // 4
    distance = np.arange(tokens)[None, :] - np.arange(tokens)[:, None]
    size = np.abs(distance)
    log = np.log(np.maximum(size, exact).astype(np.float32) / np.float32(exact))
    far = exact + (log / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)).astype(np.int32)
    near = np.where(size < exact, size, np.minimum(half - 1, far))
    return (near + half * (distance > 0)).astype(np.int32)


def _activation(name: str):
    return {"gelu": lambda x: jax.nn.gelu(x, approximate=False), "relu": jax.nn.relu}[name]


class _PositionConv(nn.Module):
    """Grouped convolution over tokens with weight norm per kernel tap, then GELU."""

    config: BeatsConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        """x [A n D] → [A n D]."""
        width, groups, taps = x.shape[-1], self.config.conv_pos_groups, self.config.conv_pos
        v = self.param("v", torch_uniform, (taps, width // groups, width))
        g = self.param("g", lambda _, shape: _tap_norms(v).reshape(shape), (taps,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        kernel = v.astype(jnp.float32) * (g / _tap_norms(v))[:, None, None]  # folded here so that g and v stay as filed
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(1,),
            padding=[
                (taps // 2, (taps - 1) // 2)
            ],  # the reference pads both sides and drops the last of an even kernel
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=groups,
        )
        return jax.nn.gelu(y + bias.astype(self.dtype), approximate=False)


def _tap_norms(v):
    return jnp.sqrt(jnp.sum(jnp.square(v.astype(jnp.float32)), axis=(1, 2)))


class _Attention(nn.Module):
    config: BeatsConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, bias, mask):
        """x [A n D], bias [N n n] or None, mask bool [A n] or None → [A n D]."""
        c = self.config
        heads = c.encoder_attention_heads
        width = c.encoder_embed_dim // heads
        q, k, v = (
            Linear(x.shape[-1], dtype=self.dtype, name=name)(x).reshape(*x.shape[:-1], heads, width) for name in "qkv"
        )
        if bias is not None:
            bias = bias[None]  # [1 N n n]
            if c.gru_rel_pos:
                scale = self.param("gate_scale", nn.initializers.ones, (heads,))
                u = Linear(_GATE, dtype=self.dtype, name="gate")(q).astype(jnp.float32)  # [A n N 8], q not scaled
                r = jax.nn.sigmoid(u.reshape(*u.shape[:-1], 2, _GATE // 2).sum(-1))  # [A n N 2]
                gate = r[..., 0] * (r[..., 1] * scale - 1) + 2  # [A n N]
                bias = gate.swapaxes(1, 2)[..., None] * bias  # [A N n n]
        y = attention(q, k, v, scale=width**-0.5, bias=bias, mask=None if mask is None else mask[:, None, None, :])
        return Linear(x.shape[-1], dtype=self.dtype, name="out")(y.reshape(x.shape))


class _Block(nn.Module):
    config: BeatsConfig
    dtype: jnp.dtype
    capture: bool

    @nn.compact
    def __call__(self, x, bias, mask):
        """x [A n D] → [A n D]; with `capture` also what the attention and the block return."""
        c = self.config
        x = constrain(x, "batch", "length", "width")
        attn = _Attention(c, self.dtype, name="attn")
        attn_norm, mlp_norm = LayerNorm(NORM_EPS, name="attn_norm"), LayerNorm(NORM_EPS, name="mlp_norm")
        up = Linear(c.encoder_ffn_embed_dim, dtype=self.dtype, name="up")
        down = Linear(c.encoder_embed_dim, dtype=self.dtype, name="down")
        act = _activation(c.activation_fn)
        if c.layer_norm_first:
            a = attn(attn_norm(x), bias, mask)
            x = x + a
            x = x + down(act(up(mlp_norm(x))))
        else:
            alpha = (2 * c.encoder_layers) ** 0.25 if c.deep_norm else 1.0
            a = attn(x, bias, mask)
            x = attn_norm(alpha * x + a)
            x = mlp_norm(alpha * x + down(act(up(x))))
        return x, (a, x) if self.capture else None


class Beats(nn.Module):
    """The encoder without its classifier.

    With `layer_norm_first` the encoder's LayerNorm comes after the blocks instead of before them, and `deep_norm` has
    no effect on the forward pass, as in the public implementation of BEATs.

    Source: specification 4.5.
    """

    config: BeatsConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, fbank, rows=None, *, mask=None, capture: bool = False):
        """Token states of each window.

        Args:
            fbank: float32 [A F 128], normalised log-mel; frames that fill no patch are dropped.
            rows: int32 [A], real rows of patches per window, for windows padded to a common F. The real tokens come
                out as from the unpadded window; what the others hold is meaningless. None: everything is real.
            mask: bool [A n], real tokens, for a padding that does not end with a row; at most one of `rows` and `mask`.
            capture: also return the intermediate results, for comparison with another implementation.

        Returns:
            [A n D], tokens ordered by time, then frequency. With `capture`: this, and name → array, tokens before
            channels everywhere, names as in the modules of the reference; `position_bias` is [N n n].
        """
        c = self.config
        sizes = expect(fbank, f"A F {MELS}")
        n = c.tokens(sizes["F"])
        if rows is not None:
            if mask is not None:
                raise ValueError("rows and mask both say what is real: give one of them")
            expect(rows, "A", A=sizes["A"])
            mask = token_mask(c, rows, sizes["F"])
        if mask is not None:
            expect(mask, "A n", A=sizes["A"], n=n)
        seen: dict[str, Any] = {}

        x = PatchEmbed(c.input_patch_size, c.embed_dim, use_bias=c.conv_bias, dtype=self.dtype, name="patch_embed")(
            fbank[..., None]
        )
        # Windows are split over devices, never their width: otherwise every product would be summed up over fsdp.
        x = constrain(x.reshape(sizes["A"], n, c.embed_dim), "batch", "length", "width")
        seen["patch_embedding"] = x
        x = seen["layer_norm"] = LayerNorm(NORM_EPS, name="patch_norm")(x)
        if c.embed_dim != c.encoder_embed_dim:
            x = Linear(c.encoder_embed_dim, dtype=self.dtype, name="patch_proj")(x)
            x = seen["post_extract_proj"] = constrain(x, "batch", "length", "width")
        if mask is not None:
            x = jnp.where(mask[..., None], x, 0)  # the convolution must see what lies outside a shorter window: zeros
        seen["encoder.pos_conv"] = _PositionConv(c, self.dtype, name="positions")(x)
        x = x + seen["encoder.pos_conv"]
        encoder_norm = LayerNorm(NORM_EPS, name="encoder_norm")
        if not c.layer_norm_first:
            x = seen["encoder.layer_norm"] = encoder_norm(x)

        bias = None
        if c.relative_position_embedding:
            table = self.param(
                "relative_bias", nn.initializers.normal(0.02), (c.num_buckets, c.encoder_attention_heads)
            )
            buckets = relative_buckets(n, num_buckets=c.num_buckets, max_distance=c.max_distance)
            bias = seen["position_bias"] = table[buckets].transpose(2, 0, 1)  # [N n n], the same for all blocks
        stack = nn.scan(
            _Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=c.encoder_layers,
            in_axes=nn.broadcast,
        )
        x, states = stack(c, self.dtype, capture, name="layers")(x, bias, mask)
        if c.layer_norm_first:
            x = seen["encoder.layer_norm"] = encoder_norm(x)
        if not capture:
            return x
        for i in range(c.encoder_layers):
            seen[f"encoder.layers.{i}.self_attn"], seen[f"encoder.layers.{i}"] = (state[i] for state in states)
        return x, seen


_DROPOUTS = ("dropout", "attention_dropout", "activation_dropout", "dropout_input")
_IRRELEVANT: Mapping[str, str] = {
    "encoder_layerdrop": "Crab sets it to 0, whatever the file says",
    "layer_wise_gradient_decay_ratio": "scales gradients of an encoder that is frozen here",
    "finetuned_model": "says whether the classifier is in the file; it is not used",
    "predictor_dropout": "belongs to the classifier",
    "predictor_class": "belongs to the classifier",
}


def config_from_original(cfg: Mapping[str, Any]) -> BeatsConfig:
    """Reads the `cfg` dict of a BEATs checkpoint. A number that the network needs and `cfg` lacks is an error.

    Raises:
        ConfigError: a field that is missing, unknown or of the wrong type, or that asks for dropout, which the frozen
            encoder does not have.

    Source: specification 4.4.
    """
    used = {f.name for f in dataclasses.fields(BeatsConfig)}
    if unknown := sorted(set(cfg) - used - set(_DROPOUTS) - set(_IRRELEVANT)):
        raise ConfigError(f"beats cfg.{unknown[0]}: unknown field {cfg[unknown[0]]!r}; it may change the network")
    for name in _DROPOUTS:
        if cfg.get(name) != 0:
            raise ConfigError(
                f"beats cfg.{name}: found {cfg.get(name)!r}, the frozen encoder has no dropout: expected 0"
            )
    return build(BeatsConfig, {name: value for name, value in cfg.items() if name in used}, where="beats cfg")


# Path of a parameter inside this part (full match) → logical axes, see crab_jax/sharding.py.
AXES = {
    r"patch_embed/kernel": ("whole", "whole", "whole", "embed"),
    r"patch_embed/bias": ("whole",),
    r"patch_proj/kernel": ("embed", "whole"),
    r"patch_proj/bias": ("whole",),
    r"(patch|encoder)_norm/(scale|bias)": ("whole",),
    r"positions/v": ("whole", "whole", "embed"),
    r"positions/(g|bias)": ("whole",),
    r"relative_bias": ("whole", "whole"),
    r"layers/attn/[qkv]/kernel": ("layers", "embed", "heads"),
    r"layers/attn/out/kernel": ("layers", "heads", "embed"),
    r"layers/attn/gate/kernel": ("layers", "whole", "whole"),
    r"layers/attn/gate_scale": ("layers", "whole"),
    r"layers/up/kernel": ("layers", "embed", "mlp"),
    r"layers/down/kernel": ("layers", "mlp", "embed"),
    r"layers/.*/(scale|bias)": ("layers", "whole"),
}


def weight_table(config: BeatsConfig) -> WeightTable:
    """Names as in the `model` dict of the checkpoint.

    Source: specification 4.6.
    """
    n = config.encoder_layers
    block = "encoder.layers.{i}"
    attn = f"{block}.self_attn"
    rules = [
        Rule("patch_embed/kernel", "patch_embedding.weight", CONV_2D),
        *((Rule("patch_embed/bias", "patch_embedding.bias"),) if config.conv_bias else ()),
        *norm("patch_norm", "layer_norm"),
        *(linear("patch_proj", "post_extract_proj") if config.embed_dim != config.encoder_embed_dim else ()),
        Rule("positions/g", "encoder.pos_conv.0.weight_g", drop_axes(0, 1)),
        Rule("positions/v", "encoder.pos_conv.0.weight_v", CONV_1D),
        Rule("positions/bias", "encoder.pos_conv.0.bias"),
        *norm("encoder_norm", "encoder.layer_norm"),
        *(r for p in "qkv" for r in linear(f"layers/attn/{p}", f"{attn}.{p}_proj", i=n)),
        *linear("layers/attn/out", f"{attn}.out_proj", i=n),
        *norm("layers/attn_norm", f"{block}.self_attn_layer_norm", i=n),
        *linear("layers/up", f"{block}.fc1", i=n),
        *linear("layers/down", f"{block}.fc2", i=n),
        *norm("layers/mlp_norm", f"{block}.final_layer_norm", i=n),
    ]
    ignored = {r"predictor\..*": "the classifier; Crab reads the states before it"}
    copies: dict[str, str] = {}
    if config.relative_position_embedding:
        first, *others = (f"encoder.layers.{i}.self_attn.relative_attention_bias.weight" for i in range(n))
        rules.append(Rule("relative_bias", first))
        copies = dict.fromkeys(others, first)  # one table, shared by all layers
    if config.relative_position_embedding and config.gru_rel_pos:
        rules += linear("layers/attn/gate", f"{attn}.grep_linear", i=n)
        rules.append(Rule("layers/attn/gate_scale", f"{attn}.grep_a", drop_axes(0, 2, 3), {"i": n}))
    elif config.gru_rel_pos:
        ignored[r"encoder\.layers\.\d+\.self_attn\.grep_(linear\.(weight|bias)|a)"] = (
            "gates a position bias that this encoder does not have"
        )
    return WeightTable(rules=tuple(rules), ignored=ignored, copies=copies)
