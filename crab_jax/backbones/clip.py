"""CLIP's vision tower, read in the middle: hidden states at the taps, never its pooled output."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from crab_jax.config import ConfigError, build, check_positive, check_sizes
from crab_jax.nn.attention import attention
from crab_jax.nn.linear import Linear
from crab_jax.nn.norms import LayerNorm
from crab_jax.nn.patches import PatchEmbed
from crab_jax.nn.shapes import expect
from crab_jax.sharding import constrain
from crab_jax.weights import CONV_2D, Rule, WeightTable, linear, norm

# Source: preprocessor_config.json of openai/clip-vit-large-patch14, specification 3.2.
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)

# What Hugging Face assumes for a field that config.json does not write (transformers, CLIPVisionConfig).
_HF_DEFAULTS: Mapping[str, Any] = {
    "image_size": 224,
    "patch_size": 32,
    "num_channels": 3,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "attention_dropout": 0.0,
}

_small = nn.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """One vision tower.

    Attributes:
        num_layers: blocks that the published file holds; only the first `max(taps)` of them become parameters.
        taps: indices of hidden states in the order in which they are returned. 0 is the output of the first
            LayerNorm, k the output of block k. The first two feed the mask decoder, the last the language model.
    """

    image_size: int
    patch_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    layer_norm_eps: float
    hidden_act: Literal["quick_gelu", "gelu"]
    taps: tuple[int, ...]

    def __post_init__(self):
        check_sizes("clip", self)
        check_positive("clip", self, "layer_norm_eps")
        if self.patch_size > self.image_size:
            raise ConfigError(f"clip: patch_size {self.patch_size} is larger than image_size {self.image_size}")
        if self.hidden_size % self.num_heads:
            raise ConfigError(f"clip: hidden_size {self.hidden_size} does not divide by num_heads {self.num_heads}")
        if not self.taps or min(self.taps) < 0 or not 1 <= max(self.taps) <= self.num_layers:
            raise ConfigError(
                f"clip: taps {self.taps} must name hidden states 0 to {self.num_layers} (num_layers), "
                "at least one of them behind a block"
            )

    @property
    def patches(self) -> int:
        """P, patches of one frame."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def computed_layers(self) -> int:
        """Blocks that are computed: nothing after the last tap is."""
        return max(self.taps)


def normalise(frames):
    """Pixels as CLIP wants them; runs inside jit, so that frames travel as bytes.

    Args:
        frames: uint8 [... S S 3], RGB.

    Returns:
        float32 [... S S 3], `(frames / 255 - mean) / std`.

    Source: specification 3.2.
    """
    if frames.dtype != jnp.uint8:
        raise ValueError(f"expected uint8 frames, got {frames.dtype}")
    return (frames.astype(jnp.float32) * np.float32(1 / 255) - MEAN) / STD


def _activation(name: str):
    return {
        "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
        "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    }[name]


class _Attention(nn.Module):
    config: ClipConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        """x [T L D] → [T L D]."""
        heads, width = self.config.num_heads, self.config.hidden_size // self.config.num_heads
        q, k, v = (
            Linear(x.shape[-1], dtype=self.dtype, name=name)(x).reshape(*x.shape[:-1], heads, width) for name in "qkv"
        )
        y = attention(q, k, v, scale=width**-0.5).reshape(x.shape)
        return Linear(x.shape[-1], dtype=self.dtype, name="out")(y)


class _Block(nn.Module):
    config: ClipConfig
    dtype: jnp.dtype
    capture: bool

    @nn.compact
    def __call__(self, carry, slot):
        """carry: x [T L D] and the buffer of the taps [K T L D]; slot: where this block writes into it."""
        c = self.config
        x, taken = carry
        x = constrain(x, "batch", "length", "width")
        x = x + _Attention(c, self.dtype, name="attn")(LayerNorm(c.layer_norm_eps, name="attn_norm")(x))
        h = Linear(c.intermediate_size, dtype=self.dtype, name="up")(LayerNorm(c.layer_norm_eps, name="mlp_norm")(x))
        x = x + Linear(c.hidden_size, dtype=self.dtype, name="down")(_activation(c.hidden_act)(h))
        taken = jax.lax.dynamic_update_index_in_dim(taken, x, slot, axis=0)
        return (x, taken), x if self.capture else None


class Clip(nn.Module):
    """The vision tower up to its last tap.

    Source: specification 3.3 and 3.4.
    """

    config: ClipConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels, *, capture: bool = False):
        """Hidden states at the taps.

        Args:
            pixels: float [T S S 3], RGB, normalised.
            capture: also return every hidden state, for comparison with another implementation.

        Returns:
            One [T P D] per tap, in the order of `config.taps`, without the class token, patches row by row.
            With `capture`: these, and a list of the `max(taps) + 1` hidden states [T 1+P D], class token first.
        """
        c = self.config
        frames = expect(pixels, "T S S 3", S=c.image_size)["T"]
        patches = PatchEmbed(c.patch_size, c.hidden_size, use_bias=False, dtype=self.dtype, name="patch_embed")(pixels)
        patches = patches.reshape(frames, c.patches, c.hidden_size)
        token = self.param("class_token", _small, (c.hidden_size,)).astype(self.dtype)
        positions = self.param("positions", _small, (1 + c.patches, c.hidden_size)).astype(self.dtype)
        x = jnp.concatenate([jnp.broadcast_to(token, (frames, 1, c.hidden_size)), patches], axis=1) + positions
        # Positions are split along D; without this everything behind them would be as well, and summed up over fsdp.
        x = constrain(x, "batch", "length", "width")
        x = LayerNorm(c.layer_norm_eps, name="pre_norm")(x)  # [T 1+P D]

        # Every block writes its output into the slot of the next tap, so the block of the tap itself writes last.
        # This costs one activation of traffic per block and the memory of the taps alone. Collecting all outputs of
        # the scan would keep max(taps) activations; selecting with `where` would rewrite the whole buffer each time.
        taps = sorted(set(c.taps))
        slots = np.searchsorted(taps, np.arange(1, c.computed_layers + 1)).astype(np.int32)
        taken = jnp.broadcast_to(x, (len(taps), *x.shape))  # tap 0, if there is one, is never overwritten
        stack = nn.scan(
            _Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=c.computed_layers, in_axes=0
        )
        (_, taken), states = stack(c, self.dtype, capture, name="layers")((x, taken), slots)
        out = tuple(taken[taps.index(tap)][:, 1:] for tap in c.taps)
        return (out, [x, *states]) if capture else out


def _hf_values(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given.get(name, default) for name, default in _HF_DEFAULTS.items()}


def config_from_original(config_json: Mapping[str, Any], *, taps: tuple[int, ...]) -> ClipConfig:
    """Reads a Hugging Face `config.json`.

    Args:
        config_json: of a whole CLIP model (the vision tower under `vision_config`, or under `vision_config_dict` as
            older files write it) or of a vision tower alone. A field that the file leaves out has the value that
            Hugging Face gives it; fields without meaning for a frozen tower are not looked at.
        taps: see `ClipConfig`; no file carries them.

    Raises:
        ConfigError: another kind of model, two contradicting descriptions, or something the network does not do.
    """
    kind = config_json.get("model_type")
    if kind == "clip":
        found = [_hf_values(config_json[n]) for n in ("vision_config", "vision_config_dict") if config_json.get(n)]
        if not found:
            raise ConfigError("clip config: no vision_config in it, expected the sizes of the vision tower there")
        values = found[0]
        for name, value in found[-1].items():
            if value != values[name]:
                raise ConfigError(
                    f"clip config: {name} is {values[name]!r} in vision_config and {value!r} in vision_config_dict; "
                    "remove the wrong one from config.json"
                )
    elif kind == "clip_vision_model":
        values = _hf_values(config_json)
    else:
        raise ConfigError(f"clip config: model_type is {kind!r}, expected 'clip' or 'clip_vision_model'")
    if values["num_channels"] != 3:
        raise ConfigError(f"clip config: num_channels is {values['num_channels']!r}, the network reads RGB, 3 channels")
    if values["attention_dropout"] != 0:
        raise ConfigError(f"clip config: attention_dropout is {values['attention_dropout']!r}, the tower has none")
    sizes = ("image_size", "patch_size", "hidden_size", "intermediate_size", "layer_norm_eps", "hidden_act")
    return build(
        ClipConfig,
        {name: values[name] for name in sizes}
        | {"num_layers": values["num_hidden_layers"], "num_heads": values["num_attention_heads"], "taps": tuple(taps)},
        where="clip config",
    )


# Path of a parameter inside this part (full match) → logical axes, see crab_jax/sharding.py.
AXES = {
    r"class_token": ("whole",),
    r"positions": ("whole", "embed"),
    r"patch_embed/kernel": ("whole", "whole", "whole", "embed"),
    r"pre_norm/(scale|bias)": ("whole",),
    r"layers/attn/[qkv]/kernel": ("layers", "embed", "heads"),
    r"layers/attn/out/kernel": ("layers", "heads", "embed"),
    r"layers/up/kernel": ("layers", "embed", "mlp"),
    r"layers/down/kernel": ("layers", "mlp", "embed"),
    r"layers/.*/(scale|bias)": ("layers", "whole"),
}


def weight_table(config: ClipConfig) -> WeightTable:
    """Names as in the Hugging Face file, `vision_model.…`.

    Source: specification 3.3.
    """
    n = config.computed_layers
    embeddings, block = "vision_model.embeddings", "vision_model.encoder.layers.{i}"
    rules = (
        Rule("patch_embed/kernel", f"{embeddings}.patch_embedding.weight", CONV_2D),
        Rule("class_token", f"{embeddings}.class_embedding"),
        Rule("positions", f"{embeddings}.position_embedding.weight"),
        *norm("pre_norm", "vision_model.pre_layrnorm"),  # spelled like this in the files
        *norm("layers/attn_norm", f"{block}.layer_norm1", i=n),
        *(r for p in "qkv" for r in linear(f"layers/attn/{p}", f"{block}.self_attn.{p}_proj", i=n)),
        *linear("layers/attn/out", f"{block}.self_attn.out_proj", i=n),
        *norm("layers/mlp_norm", f"{block}.layer_norm2", i=n),
        *linear("layers/up", f"{block}.mlp.fc1", i=n),
        *linear("layers/down", f"{block}.mlp.fc2", i=n),
    )
    ignored = {
        r"text_model\..*": "the text tower",
        r"(text|visual)_projection\.weight": "the projections into the space shared with text",
        r"logit_scale": "the temperature of the contrastive loss",
        r"vision_model\.post_layernorm\..*": "normalises the pooled output only",
        r"vision_model\.embeddings\.position_ids": "a buffer that counts from 0",
    }
    if late := range(n, config.num_layers):
        numbers = "|".join(map(str, late))
        ignored[rf"vision_model\.encoder\.layers\.({numbers})\..*"] = f"blocks after the last tap, hidden state {n}"
    return WeightTable(rules=rules, ignored=ignored)
