"""LLaMA-2 with the interaction-aware LoRA on all seven linears of every layer.

Shapes: B rows, L tokens, D width, F feed-forward width, N query heads, K key heads, E head width, S cache slots,
V vocabulary, H LoRA heads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from crab_jax.config import ConfigError, check_positive, check_sizes
from crab_jax.nn.attention import attention
from crab_jax.nn.lora import LoraConfig, LoraLinear
from crab_jax.nn.norms import RMSNorm
from crab_jax.nn.shapes import expect
from crab_jax.params import Flat
from crab_jax.weights import KEEP, TRANSPOSE, Rule, WeightTable

__all__ = ["Cache", "Llama", "LlamaConfig", "LoraConfig", "config_from_original", "unstack", "weight_table"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Sizes of the language model. `vocab_size` counts the rows of the matrices, added tokens included."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    max_positions: int
    rms_norm_eps: float
    rope_theta: float
    lora: LoraConfig | None = None

    def __post_init__(self):
        check_sizes("llama", self)
        check_positive("llama", self, "rms_norm_eps", "rope_theta")
        for name, parts in (("hidden_size", "num_heads"), ("num_heads", "num_kv_heads")):
            if getattr(self, name) % getattr(self, parts):
                raise ConfigError(
                    f"llama: {name} {getattr(self, name)} does not divide by {parts} {getattr(self, parts)}"
                )

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads


class Cache(NamedTuple):
    """Keys and values of all layers; slot s of row b holds one token."""

    k: Any  # [Lyr B S K E]
    v: Any  # [Lyr B S K E]

    @classmethod
    def zeros(cls, config: LlamaConfig, *, batch: int, slots: int, dtype: jnp.dtype) -> Cache:
        shape = (config.num_layers, batch, slots, config.num_kv_heads, config.head_size)
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def rotary(position, *, theta: float, size: int):
    """Cosine and sine tables for `position` [B L]: two float32 [B L E], in Hugging Face's half-rotation layout."""
    frequency = 1.0 / (theta ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size)))
    angle = position[..., None].astype(jnp.float32) * jnp.asarray(frequency, jnp.float32)
    angle = jnp.concatenate([angle, angle], axis=-1)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x, rope):
    """Rotates x [B L N E] by the tables [B L E]; computed in float32, returned in the dtype of x."""
    cos, sin = rope
    y = x.astype(jnp.float32)
    middle = y.shape[-1] // 2
    turned = jnp.concatenate([-y[..., middle:], y[..., :middle]], axis=-1)
    return (y * cos[:, :, None] + turned * sin[:, :, None]).astype(x.dtype)


class Attention(nn.Module):
    """Causal self-attention; writes its keys and values into the cache, if there is one."""

    config: LlamaConfig
    dtype: jnp.dtype
    train: bool

    @nn.compact
    def __call__(self, x, cache, layer, rope, mask, write_at):
        c = self.config
        routers = {}

        def linear(name, value, features):
            y, routers[name] = LoraLinear(features, c.lora, self.dtype, self.train, name=name)(value)
            return y

        heads = lambda y, n: y.reshape(*y.shape[:-1], n, c.head_size)  # noqa: E731
        q = rotate(heads(linear("q", x, c.num_heads * c.head_size), c.num_heads), rope)
        k = rotate(heads(linear("k", x, c.num_kv_heads * c.head_size), c.num_kv_heads), rope)
        v = heads(linear("v", x, c.num_kv_heads * c.head_size), c.num_kv_heads)
        if cache is not None:
            at = (layer, 0, write_at, 0, 0)
            cache = Cache(
                jax.lax.dynamic_update_slice(cache.k, k[None].astype(cache.k.dtype), at),
                jax.lax.dynamic_update_slice(cache.v, v[None].astype(cache.v.dtype), at),
            )
            if mask.shape[-1] != k.shape[1]:  # the mask says what to look at: the whole cache, or these tokens alone
                k = jax.lax.dynamic_index_in_dim(cache.k, layer, keepdims=False).astype(k.dtype)
                v = jax.lax.dynamic_index_in_dim(cache.v, layer, keepdims=False).astype(v.dtype)
        y = attention(q, k, v, scale=c.head_size**-0.5, mask=mask)
        return linear("o", y.reshape(*y.shape[:2], -1), c.hidden_size), cache, routers


class Mlp(nn.Module):
    """SwiGLU: down(silu(gate x) · up x)."""

    config: LlamaConfig
    dtype: jnp.dtype
    train: bool

    @nn.compact
    def __call__(self, x):
        c = self.config
        routers = {}

        def linear(name, value, features):
            y, routers[name] = LoraLinear(features, c.lora, self.dtype, self.train, name=name)(value)
            return y

        y = jax.nn.silu(linear("gate", x, c.intermediate_size)) * linear("up", x, c.intermediate_size)
        return linear("down", y, c.hidden_size), routers


class Block(nn.Module):
    """One decoder layer. The cache travels in the carry, so that XLA updates it in place instead of copying it."""

    config: LlamaConfig
    dtype: jnp.dtype
    train: bool
    capture: bool

    @nn.compact
    def __call__(self, carry, layer, rope, mask, write_at):
        """One step over the layers.

        Args:
            carry: x [B L D] and the Cache or None.
            layer: int32 scalar, this layer's index in the cache.
            rope: cosine and sine, float32 [B L E] each.
            mask: bool [B 1 L L] (attend among these tokens) or [B 1 L S] (attend to the whole cache).
            write_at: int32 scalar, the cache slot of the first of the L tokens; None without a cache.

        Returns:
            The carry, and with `capture` (x after this layer, {"attn": routers, "mlp": routers}), else None.
        """
        c = self.config
        x, cache = carry
        y, cache, attn_routers = Attention(c, self.dtype, self.train, name="attn")(
            RMSNorm(c.rms_norm_eps, name="attn_norm")(x), cache, layer, rope, mask, write_at
        )
        x = x + y
        y, mlp_routers = Mlp(c, self.dtype, self.train, name="mlp")(RMSNorm(c.rms_norm_eps, name="mlp_norm")(x))
        x = x + y
        return (x, cache), (x, {"attn": attn_routers, "mlp": mlp_routers}) if self.capture else None


class Llama(nn.Module):
    """The language model between input embeddings and final-norm states; `logits` is a separate method.

    Attributes:
        config: sizes.
        dtype: compute dtype of activations.
        train: LoRA dropout on (needs the rng "dropout").
        unrolled: the parameters of each layer are separate (`layers_0/…`, made by `unstack`) instead of stacked
            (`layers/…`). Only generation does this: a decode step reads every weight once, and slicing a layer out of a
            stack copies it first on CPU (measured 2.2 times slower there). Training and checkpoints are always stacked.
        remat: name of a policy in `jax.checkpoint_policies` for the scanned layers in training, or None.
        capture: also return every layer's output and router weights.
    """

    config: LlamaConfig
    dtype: jnp.dtype
    train: bool = False
    unrolled: bool = False
    remat: str | None = None
    capture: bool = False

    def setup(self):
        c = self.config
        self.embed_table = Embedding(c.vocab_size, c.hidden_size, name="embed")
        args = (c, self.dtype, self.train, self.capture)
        if self.unrolled:
            self.blocks = [Block(*args, name=f"layers_{i}") for i in range(c.num_layers)]
        else:
            block = Block
            if self.remat is not None:
                block = nn.remat(Block, policy=getattr(jax.checkpoint_policies, self.remat), prevent_cse=False)
            self.stack = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
                length=c.num_layers,
            )(*args, name="layers")
        self.norm = RMSNorm(c.rms_norm_eps)
        self.head = Head(c.vocab_size)

    def embed(self, tokens):
        """int32 [B L] → [B L D]."""
        return self.embed_table(tokens, self.dtype)

    def logits(self, states):
        """Final-norm states [... D] → float32 [... V]."""
        return self.head(states)

    def __call__(self, x, position, mask, cache=None, write_at=None):
        """Runs all layers.

        Args:
            x: input embeddings [B L D].
            position: int32 [B L].
            mask: bool [B 1 L L], or [B 1 L S] to attend to the whole cache.
            cache: Cache to fill, or None.
            write_at: int32 scalar, cache slot of the first token.

        Returns:
            Final-norm states [B L D], the cache, and with `capture` ([Lyr B L D], routers) else None.
        """
        c = self.config
        expect(x, "B L D", D=c.hidden_size)
        rope = rotary(position, theta=c.rope_theta, size=c.head_size)
        carry = (x.astype(self.dtype), cache)
        if self.unrolled:
            captured = []
            for i, block in enumerate(self.blocks):
                carry, out = block(carry, jnp.int32(i), rope, mask, write_at)
                captured.append(out)
            captured = jax.tree.map(lambda *xs: jnp.stack(xs), *captured) if self.capture else None
        else:
            carry, captured = self.stack(carry, jnp.arange(c.num_layers), rope, mask, write_at)
        x, cache = carry
        return self.norm(x), cache, captured


class Embedding(nn.Module):
    """A table of token embeddings."""

    rows: int
    width: int

    @nn.compact
    def __call__(self, tokens, dtype):
        table = self.param("embedding", nn.initializers.normal(0.02), (self.rows, self.width))
        return table[tokens].astype(dtype)


class Head(nn.Module):
    """The output matrix; the product accumulates in float32, because logits are compared and exponentiated."""

    rows: int

    @nn.compact
    def __call__(self, states):
        kernel = self.param("kernel", nn.initializers.normal(0.02), (states.shape[-1], self.rows))
        return jnp.matmul(states, kernel.astype(states.dtype), preferred_element_type=jnp.float32)


def causal(segment):
    """Who may look at whom: int32 [B L], 0 for padding → bool [B 1 L L]. Attention never crosses a segment."""
    length = segment.shape[1]
    same = segment[:, None, :, None] == segment[:, None, None, :]
    return same & jnp.tril(jnp.ones((length, length), bool))


def unstack(params: Flat, num_layers: int, *, prefix: str = "llama/") -> Flat:
    """Splits `llama/layers/… [Lyr …]` into `llama/layers_0/… […]`, for `Llama(unrolled=True)`; the rest stays."""
    flat: Flat = {}
    stacked = f"{prefix}layers/"
    for path, leaf in params.items():
        if not path.startswith(stacked):
            flat[path] = leaf
            continue
        for i in range(num_layers):
            flat[f"{prefix}layers_{i}/{path.removeprefix(stacked)}"] = leaf[i]
    return flat


def config_from_original(original: Mapping[str, Any], *, vocab_size: int, lora: LoraConfig | None) -> LlamaConfig:
    """Reads a Hugging Face LLaMA `config.json`.

    Args:
        original: the parsed file.
        vocab_size: rows of the matrices after the added tokens.
        lora: the adapter's sizes.

    Raises:
        ValueError: the file describes something this network does not do (RoPE scaling, biases, tied embeddings …), or
            sizes that no network has.
    """
    fixed = {
        "hidden_act": ("silu",),
        "rope_scaling": (None,),
        "attention_bias": (None, False),
        "mlp_bias": (None, False),
        "tie_word_embeddings": (None, False),
        "pretraining_tp": (None, 1),
        "model_type": ("llama",),
        "sliding_window": (None,),
    }
    for name, allowed in fixed.items():
        found = original.get(name, allowed[0])
        if found not in allowed:
            raise ValueError(f"LLaMA config.json: {name} is {found!r}, this network only does {allowed[0]!r}")
    needed = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps")
    missing = [name for name in needed if name not in original]
    if missing:
        raise ValueError(f"LLaMA config.json: {', '.join(missing)} missing")
    heads, width = original["num_attention_heads"], original["hidden_size"]
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=original["intermediate_size"],
        num_layers=original["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=original.get("num_key_value_heads") or heads,
        max_positions=original.get("max_position_embeddings", 2048),  # the default of the format
        rms_norm_eps=float(original["rms_norm_eps"]),
        rope_theta=float(original.get("rope_theta", 10000.0)),  # absent from LLaMA-2's own file, which means 10 000
        lora=lora,
    )
    if original.get("head_dim") not in (None, config.head_size) or config.head_size % 2:
        head_dim = original.get("head_dim") or config.head_size
        raise ConfigError(
            f"LLaMA config.json: {heads} heads of {head_dim} in a hidden_size of {width}; this network has heads of an "
            "even size that make up the whole width"
        )
    return config


def weight_table(config: LlamaConfig) -> WeightTable:
    """Names relative to the model after the prefixes `module.`, `base_model.model.` and `model.` are gone.

    Source: specification 6.4 and A.4.
    """
    i = {"i": config.num_layers}
    rules = [Rule("embed/embedding", "embed_tokens.weight")]
    linears = [(f"attn/{n}", f"self_attn.{n}_proj") for n in "qkvo"]
    linears += [(f"mlp/{n}", f"mlp.{n}_proj") for n in ("gate", "up", "down")]
    for path, key in linears:
        rules.append(Rule(f"layers/{path}/kernel", f"layers.{{i}}.{key}.weight", TRANSPOSE, i))
        if config.lora is not None:
            rules += [
                Rule(f"layers/{path}/lora_a", f"layers.{{i}}.{key}.lora_A.weight", TRANSPOSE, i),
                Rule(f"layers/{path}/lora_route", f"layers.{{i}}.{key}.lora_route.weight", TRANSPOSE, i),
                Rule(
                    f"layers/{path}/lora_b",
                    f"layers.{{i}}.{key}.lora_B{{h}}.weight",
                    TRANSPOSE,
                    i | {"h": config.lora.heads},
                ),
            ]
    rules += [
        Rule("layers/attn_norm/scale", "layers.{i}.input_layernorm.weight", KEEP, i),
        Rule("layers/mlp_norm/scale", "layers.{i}.post_attention_layernorm.weight", KEEP, i),
        Rule("norm/scale", "norm.weight"),
        Rule("head/kernel", "lm_head.weight", TRANSPOSE),
    ]
    ignored = {r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq": "a buffer that older versions saved; computed here"}
    return WeightTable(tuple(rules), ignored=ignored)
