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
from crab_jax.nn.fused_attention import Choice, Segments, fused_attention, is_fused
from crab_jax.nn.lora import LoraConfig, LoraLinear
from crab_jax.nn.norms import RMSNorm
from crab_jax.nn.shapes import expect
from crab_jax.params import Flat
from crab_jax.sharding import constrain
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
    """Keys and values of all layers; slot s of row b holds one token. G = B · K joins rows and key heads.

    Keys are stored with their slots last, and G is one axis, because a decode step then reads the cache where it lies:
    any other order made XLA copy it several times per token on CPU (measured: attention of one step 15 times slower).

    Attributes:
        k: [Lyr G E S]; or a tuple of Lyr arrays [G E S], for layers with separate parameters.
        v: [Lyr G S E]; likewise.
    """

    k: Any
    v: Any

    @classmethod
    def zeros(cls, config: LlamaConfig, *, batch: int, slots: int, dtype: jnp.dtype, separate: bool = False) -> Cache:
        """An empty cache; `separate` for `Llama(unrolled=True)`."""
        layers, groups, size = config.num_layers, batch * config.num_kv_heads, config.head_size
        k, v = (groups, size, slots), (groups, slots, size)
        if separate:
            return cls(*(tuple(jnp.zeros(shape, dtype) for _ in range(layers)) for shape in (k, v)))
        return cls(jnp.zeros((layers, *k), dtype), jnp.zeros((layers, *v), dtype))

    def write(self, layer, k, v, at) -> Cache:
        """Puts keys and values [B L K E] of one layer into the slots from `at` on.

        Args:
            layer: int32 scalar; an int for a cache of separate layers.
            k, v: of L tokens.
            at: int32 scalar.
        """
        b, l, heads, e = k.shape
        k = k.transpose(0, 2, 3, 1).reshape(b * heads, e, l)
        v = v.transpose(0, 2, 1, 3).reshape(b * heads, l, e)
        put = jax.lax.dynamic_update_slice
        if isinstance(self.k, tuple):
            k = put(self.k[layer], k.astype(self.k[layer].dtype), (0, 0, at))
            v = put(self.v[layer], v.astype(self.v[layer].dtype), (0, at, 0))
            return Cache(*(old[:layer] + (new,) + old[layer + 1 :] for old, new in ((self.k, k), (self.v, v))))
        return Cache(
            put(self.k, k[None].astype(self.k.dtype), (layer, 0, 0, at)),
            put(self.v, v[None].astype(self.v.dtype), (layer, 0, at, 0)),
        )

    def attend(self, layer, q, *, scale, mask):
        """softmax(scale · q kᵀ) v over all slots of one layer; softmax in float32.

        Args:
            layer: as in `write`.
            q: [B L N E], N a multiple of K.
            scale: multiplies the scores.
            mask: bool, broadcastable to [B N L S].

        Returns:
            [B L N E] in the dtype of q.
        """
        b, l, n, e = q.shape
        if isinstance(self.k, tuple):
            k, v = self.k[layer], self.v[layer]
        else:
            k, v = (jax.lax.dynamic_index_in_dim(x, layer, keepdims=False) for x in self)
        groups = k.shape[0]
        joined = q.transpose(0, 2, 1, 3).reshape(groups, -1, e)  # [G N/K·L E]
        scores = jnp.einsum("gle,ges->gls", joined, k.astype(q.dtype), preferred_element_type=jnp.float32) * scale
        scores = jnp.where(mask, scores.reshape(b, n, l, -1), jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype).reshape(groups, -1, k.shape[-1])
        y = jnp.einsum("gls,gse->gle", weights, v.astype(q.dtype))
        return y.reshape(b, n, l, e).transpose(0, 2, 1, 3)


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
        scale = c.head_size**-0.5
        # The kernel knows no scale; here the queries get it before they are rounded.
        turn = tuple(scale * table for table in rope) if isinstance(mask, Segments) else rope
        q = rotate(heads(linear("q", x, c.num_heads * c.head_size), c.num_heads), turn)
        k = rotate(heads(linear("k", x, c.num_kv_heads * c.head_size), c.num_kv_heads), rope)
        v = heads(linear("v", x, c.num_kv_heads * c.head_size), c.num_kv_heads)
        if cache is not None:
            cache = cache.write(layer, k, v, write_at)
        # The mask says what to look at: the whole cache, or these tokens alone.
        if isinstance(mask, Segments):
            y = fused_attention(q, k, v, mask)
        elif cache is not None and mask.shape[-1] != x.shape[1]:
            y = cache.attend(layer, q, scale=scale, mask=mask)
        else:
            y = attention(q, k, v, scale=scale, mask=mask)
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
            layer: this layer's index in the cache, int32 scalar or int.
            rope: cosine and sine, float32 [B L E] each.
            mask: bool [B 1 L L] (attend among these tokens) or [B 1 L S] (attend to the whole cache); Segments for the
                fused kernel.
            write_at: int32 scalar, the cache slot of the first of the L tokens; None without a cache.

        Returns:
            The carry, and with `capture` (x after this layer, {"attn": routers, "mlp": routers}), else None.
        """
        c = self.config
        x, cache = carry
        x = constrain(x, "batch", "length", "width")
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
        attention: how to attend inside Segments, see `is_fused`; masks are always written out.
    """

    config: LlamaConfig
    dtype: jnp.dtype
    train: bool = False
    unrolled: bool = False
    remat: str | None = None
    capture: bool = False
    attention: Choice = "dot"

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
            mask: bool [B 1 L L], or [B 1 L S] to attend to the whole cache; or Segments, causal and without a cache.
            cache: Cache to fill, or None.
            write_at: int32 scalar, cache slot of the first token.

        Returns:
            Final-norm states [B L D], the cache, and with `capture` ([Lyr B L D], routers) else None.
        """
        c = self.config
        expect(x, "B L D", D=c.hidden_size)
        rope = rotary(position, theta=c.rope_theta, size=c.head_size)
        sizes = dict(length=x.shape[1], kv_heads=c.num_kv_heads, size=c.head_size)
        if isinstance(mask, Segments) and not is_fused(self.attention, **sizes):
            mask = causal(mask.ids)
        carry = (x.astype(self.dtype), cache)
        if self.unrolled:
            captured = []
            for i, block in enumerate(self.blocks):
                carry, out = block(carry, i, rope, mask, write_at)
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


# Path of a parameter inside this part (full match) → logical axes, see crab_jax/sharding.py.
AXES = {
    r"embed/embedding": ("vocab", "embed"),
    r"head/kernel": ("embed", "vocab"),
    r"layers/attn/[qkv]/kernel": ("layers", "embed", "heads"),
    r"layers/attn/o/kernel": ("layers", "heads", "embed"),
    r"layers/mlp/(gate|up)/kernel": ("layers", "embed", "mlp"),
    r"layers/mlp/down/kernel": ("layers", "mlp", "embed"),
    r"layers/(attn/[qkv]|mlp/(gate|up))/lora_a": ("layers", "embed", "rank"),
    r"layers/attn/o/lora_a": ("layers", "heads", "rank"),
    r"layers/mlp/down/lora_a": ("layers", "mlp", "rank"),
    r"layers/(attn/[qkv]|mlp/(gate|up))/lora_route": ("layers", "embed", "lora"),
    r"layers/attn/o/lora_route": ("layers", "heads", "lora"),
    r"layers/mlp/down/lora_route": ("layers", "mlp", "lora"),
    r"layers/attn/[qkv]/lora_b": ("layers", "lora", "rank", "heads"),
    r"layers/mlp/(gate|up)/lora_b": ("layers", "lora", "rank", "mlp"),
    r"layers/(attn/o|mlp/down)/lora_b": ("layers", "lora", "rank", "embed"),
    r"layers/(attn|mlp)_norm/scale": ("layers", "whole"),
    r"norm/scale": ("whole",),
}


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
