"""Q-Former projectors: each frame or audio window becomes Q vectors of the language model's width."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from crab_jax.config import ConfigError, check_positive, check_sizes, int_fields
from crab_jax.nn.attention import attention
from crab_jax.nn.dropout import Dropout
from crab_jax.nn.linear import Linear, torch_bias
from crab_jax.nn.norms import LayerNorm
from crab_jax.nn.shapes import expect
from crab_jax.sharding import constrain
from crab_jax.weights import Rule, WeightTable, drop_axes, linear, norm


@dataclasses.dataclass(frozen=True, kw_only=True)
class QFormerConfig:
    """One projector.

    Attributes:
        encoder_width: C, width of the features it reads.
        num_queries: Q, learned queries.
        cross_attention_freq: layers 0, k, 2k, … read the features, the others see the queries alone.
        layer_norm_eps: of the BERT layers (published 1e-12).
        input_norm_eps: of the LayerNorm over the features (published 1e-5).
        dropout: of embeddings, attention weights and layer outputs, in training only.
        out_features: width of the language model.
        proj_depth: linear maps after the Q-Former, with GELU between them.
        vocab_size: rows of a word embedding that the files hold and nothing reads.
        max_positions: rows of a position embedding that the files hold and nothing reads.
        init_std: standard deviation of every matrix and of the queries at the start. 0.02 is BERT's (specification
            A.5). At a width of 128 it lets through so little that what comes out hardly depends on the picture, and a
            model that is trained from nothing learns to speak without looking: 1/√width keeps the size.
    """

    encoder_width: int
    num_queries: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    num_layers: int
    cross_attention_freq: int
    layer_norm_eps: float
    input_norm_eps: float
    hidden_act: Literal["gelu", "relu"]
    dropout: float
    out_features: int
    proj_depth: int
    vocab_size: int
    max_positions: int
    init_std: float = 0.02

    def __post_init__(self):
        unread = ("vocab_size", "max_positions")  # the files may do without what nothing reads
        check_sizes("qformer", self, sorted({*int_fields(self)} - {*unread}))
        check_sizes("qformer", self, unread, least=0)
        check_positive("qformer", self, "layer_norm_eps", "input_norm_eps", "init_std")
        if self.hidden_size % self.num_heads:
            raise ConfigError(
                f"qformer: hidden_size {self.hidden_size} does not divide into num_heads {self.num_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"qformer: dropout is {self.dropout}, expected 0 <= dropout < 1")

    @property
    def groups(self) -> tuple[int, int]:
        """Whole groups of `cross_attention_freq` layers, and layers left over for one shorter group."""
        return divmod(self.num_layers, self.cross_attention_freq)


def _activation(name: str):
    return {"gelu": lambda x: jax.nn.gelu(x, approximate=False), "relu": jax.nn.relu}[name]


class _Attention(nn.Module):
    """Attention, output map and LayerNorm over the sum with the input."""

    config: QFormerConfig
    dtype: jnp.dtype
    deterministic: bool

    @nn.compact
    def __call__(self, x, source, mask=None):
        """x [G Q D] asks source [G n C], mask bool [G n] → [G Q D]."""
        c = self.config
        width = c.hidden_size // c.num_heads

        def heads(name, y):
            y = Linear(c.hidden_size, dtype=self.dtype, kernel_init=nn.initializers.normal(c.init_std), name=name)(y)
            return y.reshape(*y.shape[:-1], c.num_heads, width)

        def drop(name):
            return Dropout(c.dropout, deterministic=self.deterministic, name=name)

        y = attention(
            heads("q", x),
            heads("k", source),
            heads("v", source),
            scale=width**-0.5,
            mask=None if mask is None else mask[:, None, None, :],
            dropout=drop("weight_dropout"),
        )
        y = Linear(c.hidden_size, dtype=self.dtype, kernel_init=nn.initializers.normal(c.init_std), name="out")(
            y.reshape(x.shape)
        )
        return LayerNorm(c.layer_norm_eps, name="norm")(x + drop("dropout")(y))


class _Layers(nn.Module):
    """One layer, then `rest` layers without cross attention: the group that is scanned."""

    config: QFormerConfig
    dtype: jnp.dtype
    deterministic: bool
    capture: bool
    cross: bool
    rest: int

    @nn.compact
    def __call__(self, x, features, mask):
        """x [G Q D], features [G n C], mask bool [G n] or None → [G Q D]; with `capture` also the intermediates."""
        c = self.config
        seen: dict[str, Any] = {}
        x = constrain(x, "batch", "length", "width")
        x = seen["self_attn"] = _Attention(c, self.dtype, self.deterministic, name="attn")(x, x)
        if self.cross:
            cross = _Attention(c, self.dtype, self.deterministic, name="cross")
            x = seen["cross_attn"] = cross(x, features, mask)
        y = Linear(c.intermediate_size, dtype=self.dtype, kernel_init=nn.initializers.normal(c.init_std), name="up")(x)
        y = Linear(c.hidden_size, dtype=self.dtype, kernel_init=nn.initializers.normal(c.init_std), name="down")(
            _activation(c.hidden_act)(y)
        )
        y = Dropout(c.dropout, deterministic=self.deterministic)(y)
        x = seen["out"] = LayerNorm(c.layer_norm_eps, name="norm")(x + y)
        if self.rest:
            rest = _stack(self.rest)(c, self.dtype, self.deterministic, self.capture, cross=False, rest=0, name="rest")
            x, seen["rest"] = rest(x, features, mask)
        return x, seen if self.capture else None


def _stack(length: int):
    return nn.scan(
        _Layers,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        length=length,
        in_axes=nn.broadcast,
    )


class QFormer(nn.Module):
    """LayerNorm over the features, Q-Former, MLP.

    The layers are scanned in groups of `cross_attention_freq`, each a layer with cross attention and the others under
    `layers/rest`; layers left over form the group `tail`. With frequency 1 this is a plain scan over layers.

    Source: specification 5.1 and 5.2.
    """

    config: QFormerConfig
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features, mask=None, *, deterministic: bool = True, capture: bool = False):
        """Compresses each group of features on its own.

        Args:
            features: float [G n C], encoder tokens of G frames or audio windows.
            mask: bool [G n], False where a feature is padding; None: all are real.
            deterministic: without dropout; otherwise the random stream "dropout" is needed.
            capture: also return the intermediate results, for comparison with another implementation.

        Returns:
            [G Q out_features]. With `capture`: this, and name → array.
        """
        c = self.config
        sizes = expect(features, "G n C", C=c.encoder_width)
        if mask is not None:
            expect(mask, "G n", **sizes)
        seen: dict[str, Any] = {}
        features = seen["ln"] = LayerNorm(c.input_norm_eps, name="input_norm")(features.astype(self.dtype))
        queries = self.param("queries", nn.initializers.normal(c.init_std), (c.num_queries, c.hidden_size)).astype(
            self.dtype
        )
        x = jnp.broadcast_to(queries, (sizes["G"], *queries.shape))
        x = seen["query_embeddings"] = LayerNorm(c.layer_norm_eps, name="query_norm")(x)
        x = Dropout(c.dropout, deterministic=deterministic)(x)

        whole, left = c.groups
        common = (c, self.dtype, deterministic, capture)
        captured = []
        if whole:
            group = _stack(whole)(*common, cross=True, rest=c.cross_attention_freq - 1, name="layers")
            x, states = group(x, features, mask)
            captured += [jax.tree.map(lambda y, g=g: y[g], states) for g in range(whole)]
        if left:
            x, states = _Layers(*common, cross=True, rest=left - 1, name="tail")(x, features, mask)
            captured.append(states)

        for i in range(c.proj_depth):
            x = jax.nn.gelu(x, approximate=False) if i else x
            x = Linear(c.out_features, dtype=self.dtype, bias_init=torch_bias(x.shape[-1]), name=f"proj_{i}")(x)
        if not capture:
            return x
        for g, states in enumerate(captured):
            first = g * c.cross_attention_freq
            rest = states.pop("rest", {"out": ()})
            seen |= {f"layer{first}.{name}": y for name, y in states.items()}
            for i in range(len(rest["out"])):
                seen |= {f"layer{first + 1 + i}.{name}": y[i] for name, y in rest.items()}
        return x, seen


# Path of a parameter inside this part (full match) → logical axes, see crab_jax/sharding.py.
# Layers are stacked once in `layers` and `tail/rest`, twice in `layers/rest`, and not at all in `tail`.
_LAYER = {
    r"(attn|cross)/[qkv]/kernel": ("embed", "heads"),
    r"(attn|cross)/out/kernel": ("heads", "embed"),
    r"up/kernel": ("embed", "mlp"),
    r"down/kernel": ("mlp", "embed"),
    r"((attn|cross)/([qkv]|out|norm)|up|down|norm)/(scale|bias)": ("whole",),
}
_STACKS = {"layers": 1, "layers/rest": 2, "tail": 0, "tail/rest": 1}
AXES = {
    r"queries": ("whole", "embed"),
    r"(input|query)_norm/(scale|bias)": ("whole",),
    # Two in a row that are split alike make the partitioner of XLA give wrong gradients on a mesh of 2 x 2 x 2.
    r"proj_\d*[02468]/kernel": ("embed", "mlp"),
    r"proj_\d*[13579]/kernel": ("mlp", "embed"),
    r"proj_\d+/bias": ("whole",),
    **{f"{stack}/{p}": ("layers",) * n + names for stack, n in _STACKS.items() for p, names in _LAYER.items()},
}


@dataclasses.dataclass(frozen=True)
class _LayerRule(Rule):
    """`{i}` of the key is not the index itself but `first + Σ index · stride`: the layer that stands in that place."""

    first: int = 0
    strides: tuple[int, ...] = ()

    def keys(self) -> Iterator[tuple[tuple[int, ...], str]]:
        for index in itertools.product(*(range(n) for n in self.counts.values())):
            layer = self.first + sum(n * stride for n, stride in zip(index, self.strides, strict=True))
            yield index, self.key.format(i=layer)


def weight_table(config: QFormerConfig, *, kind: Literal["visual", "audio"]) -> WeightTable:
    """Names as in the projector files, without `vl_projector.` or `al_projector.`.

    Source: specification 5.4 and A.1.
    """
    c = config
    bert = f"{kind}_Qformer.bert"
    layer = f"{bert}.encoder.layer.{{i}}"

    def attn(path: str, key: str) -> tuple[Rule, ...]:
        names = {"q": "query", "k": "key", "v": "value"}
        return (
            *(r for p, name in names.items() for r in linear(f"{path}/{p}", f"{layer}.{key}.self.{name}")),
            *linear(f"{path}/out", f"{layer}.{key}.output.dense"),
            *norm(f"{path}/norm", f"{layer}.{key}.output.LayerNorm"),
        )

    def stack(path: str, cross: bool, first: int, counts: dict[str, int], strides: tuple[int, ...]) -> list[Rule]:
        single = (
            *attn(f"{path}/attn", "attention"),
            *(attn(f"{path}/cross", "crossattention") if cross else ()),
            *linear(f"{path}/up", f"{layer}.intermediate_query.dense"),
            *linear(f"{path}/down", f"{layer}.output_query.dense"),
            *norm(f"{path}/norm", f"{layer}.output_query.LayerNorm"),
        )
        return [_LayerRule(r.path, r.key, r.op, counts, first, strides) for r in single]

    freq = c.cross_attention_freq
    whole, left = c.groups
    rules = [
        Rule("queries", f"{kind}_query_tokens", drop_axes(0)),
        *norm("input_norm", f"{kind}_ln"),
        *norm("query_norm", f"{bert}.embeddings.LayerNorm"),
    ]
    if whole:
        rules += stack("layers", True, 0, {"i": whole}, (freq,))
    if whole and freq > 1:
        rules += stack("layers/rest", False, 1, {"i": whole, "j": freq - 1}, (freq, 1))
    if left:
        rules += stack("tail", True, whole * freq, {}, ())
    if left > 1:
        rules += stack("tail/rest", False, whole * freq + 1, {"j": left - 1}, (1,))
    for i in range(c.proj_depth):
        rules += linear(f"proj_{i}", f"{kind}_proj.{2 * i}")  # the GELU between two of them is counted too

    d, cls = c.hidden_size, f"{kind}_Qformer.cls.predictions"
    unused = {
        f"{bert}.embeddings.word_embeddings.weight": (c.vocab_size, d),
        f"{bert}.embeddings.position_embeddings.weight": (c.max_positions, d),
        f"{cls}.bias": (c.vocab_size,),
        f"{cls}.transform.dense.weight": (d, d),
        f"{cls}.transform.dense.bias": (d,),
        f"{cls}.transform.LayerNorm.weight": (d,),
        f"{cls}.transform.LayerNorm.bias": (d,),
    }
    for i in range(c.num_layers):  # the feed-forward branch for text
        name = layer.format(i=i)
        unused |= {
            f"{name}.intermediate.dense.weight": (c.intermediate_size, d),
            f"{name}.intermediate.dense.bias": (c.intermediate_size,),
            f"{name}.output.dense.weight": (d, c.intermediate_size),
            f"{name}.output.dense.bias": (d,),
            f"{name}.output.LayerNorm.weight": (d,),
            f"{name}.output.LayerNorm.bias": (d,),
        }
    ignored = {
        rf"{kind}_Qformer\.bert\.embeddings\.position_ids": "a buffer that counts from 0; only in a whole state dict",
        rf"{kind}_Qformer\.cls\.predictions\.decoder\.(weight|bias)": (
            "second names of the word embedding and of the prediction bias; only in a whole state dict"
        ),
    }
    return WeightTable(rules=tuple(rules), unused=unused, ignored=ignored)
