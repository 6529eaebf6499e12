"""The segmentation branch: mask-token states and two CLIP taps become mask logits, in two levels.

Images are `[B h w D]` here (PyTorch's are `(B, D, h, w)`). Letters besides the usual ones: K mask tokens, G side of the
patch grid, S side of the mask, F width after the last upscaling, I inner width of an attention.

Source: specification 8, A.3, A.5.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn import initializers

from crab_jax.backbones.mask_layers import Mlp, Neck, QueryGenerator, TwoWay, Upscale, positional_encoding, resize
from crab_jax.config import ConfigError, check_positive, check_sizes
from crab_jax.nn.linear import Linear
from crab_jax.nn.shapes import expect
from crab_jax.weights import CONV_2D, CONV_UP, KEEP, TRANSPOSE, Op, Rule, WeightTable, drop_axes, linear, norm

__all__ = [
    "HEADS", "PE_TENSORS", "Head", "MaskDecoder", "MaskDecoderConfig", "positional_encoding", "resize", "weight_table",
]  # fmt: skip

Head = Literal["binary", "semantic"]
HEADS: tuple[Head, ...] = ("binary", "semantic")

# The frequencies of the positional encoding are buffers of the reference, which no published file holds. These
# are the names under which candidates for them are passed around.
PE_TENSORS = {
    "pe/level0": "pe_layer.positional_encoding_gaussian_matrix",
    "pe/level1": "mask_decoder.pe1.positional_encoding_gaussian_matrix",
}

_UPSCALED = 8  # the last upscaling divides the width by eight (256 → 32)
_normal = initializers.normal(1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskDecoderConfig:
    """Sizes of the segmentation branch.

    Attributes:
        in_features: width of the mask-token states, that is of the language model.
        image_features: width of the CLIP features.
        grid: patches per side of the image.
        image_size: pixels per side of the produced masks.
        low_res: pixels per side at which the two levels are averaged.
        prompt_dim: width of everything inside, a multiple of eight.
        num_heads: attention heads of the two-way transformers.
        mlp_dim: hidden width of their MLPs.
        downsample: cross-attentions work at `prompt_dim / downsample`.
        depth: blocks per two-way transformer.
        num_queries: learned mask queries (published: 300, after segmentation pretraining alone: 128).
        query_layers: layers of the query generator in the checkpoint; only the last is ever used.
        query_heads: its attention heads.
        query_mlp_dim: hidden width of its MLP.
        levels: image scales; two are implemented.
        tokens_per_level: mask tokens that are averaged into the prompt of one level.
        binary_classes: outputs of the head for s4, ms3 and ref-avs.
        semantic_classes: outputs of the head for avss.
        norm_eps: epsilon of the LayerNorms over tokens. Fixed in the reference, no file carries it.
        norm2d_eps: epsilon of the LayerNorms over the channels of a pixel. Likewise.

    Raises:
        ConfigError: sizes that do not fit together, or a number of levels other than two.
    """

    in_features: int
    image_features: int
    grid: int
    image_size: int
    low_res: int
    prompt_dim: int
    num_heads: int
    mlp_dim: int
    downsample: int
    depth: int
    num_queries: int
    query_layers: int
    query_heads: int
    query_mlp_dim: int
    levels: int
    tokens_per_level: int
    binary_classes: int
    semantic_classes: int
    norm_eps: float = 1e-5
    norm2d_eps: float = 1e-6

    def __post_init__(self):
        if self.levels != 2:
            raise ConfigError(f"levels: the mask decoder has two levels (level 1 refines level 0), found {self.levels}")
        check_sizes("mask decoder", self)
        check_positive("mask decoder", self, "norm_eps", "norm2d_eps")
        for width, name in (
            (_UPSCALED, "8, the factor of the last upscaling"),
            (self.num_heads * self.downsample, "num_heads * downsample"),
            (self.query_heads, "query_heads"),
        ):
            if self.prompt_dim % width:
                raise ConfigError(f"prompt_dim: expected a multiple of {name} = {width}, found {self.prompt_dim}")

    @property
    def mask_tokens(self) -> int:
        """Mask tokens per sample, K."""
        return self.levels * self.tokens_per_level

    @property
    def upscaled_dim(self) -> int:
        """Width after the last upscaling, F."""
        return self.prompt_dim // _UPSCALED


class MaskDecoder(nn.Module):
    """Mask logits from the states of the mask tokens and two levels of image features."""

    config: MaskDecoderConfig
    dtype: jnp.dtype

    def setup(self):
        c = self.config
        width, upscaled = c.prompt_dim, c.upscaled_dim
        self.prompt = Mlp((c.in_features, width), self.dtype)
        self.neck = Neck(c, self.dtype)
        self.no_mask = self.param("no_mask", _normal, (width,))
        self.level_embed = self.param("level_embed", _normal, (c.levels, width))
        self.query_tokens = self.param("query_tokens", _normal, (c.num_queries, width))
        self.query_generator = QueryGenerator(c, self.dtype)
        self.pe = self.param("pe", self._init_pe)
        self.transformer = self.param("transformer", self._init_transformer)
        self.level_up = Upscale(width, c.norm2d_eps, self.dtype)
        self.output_up = Upscale(upscaled, c.norm2d_eps, self.dtype)
        self.hyper = Mlp((width, width, upscaled), self.dtype)
        self.mix = Mlp((width, width, upscaled), self.dtype)
        # Logits are float32 whatever the compute dtype is, so their small products are too.
        self.classifier = {
            "binary": Linear(c.binary_classes, use_bias=False, dtype=jnp.float32),
            "semantic": Linear(c.semantic_classes, use_bias=False, dtype=jnp.float32),
        }

    def _init_pe(self, key):
        keys = jax.random.split(key, self.config.levels)
        shape = (2, self.config.prompt_dim // 2)
        return {f"level{i}": _normal(k, shape, jnp.float32) for i, k in enumerate(keys)}

    def _init_transformer(self, key):
        """The levels start as exact copies of each other, which submodules with keys of their own could not."""
        token = jnp.zeros((1, 1, self.config.prompt_dim), self.dtype)
        one = TwoWay(self.config, self.dtype, parent=None).init(key, token, token, token[0])["params"]
        # Copies and not one array twice: a training step donates every buffer once.
        return {f"level{i}": jax.tree.map(jnp.copy, one) for i in range(self.config.levels)}

    def __call__(
        self,
        states,
        features,
        is_semantic=None,
        *,
        heads: Sequence[Head] = HEADS,
        capture: bool = False,
    ):
        """Decodes one mask per sample.

        Args:
            states: [B K D] hidden states of the mask tokens, `tokens_per_level` for level 0 first.
            features: per level, CLIP features [B P C], patches row by row.
            is_semantic: bool [B], which head's logits of level 0 gate level 1 of that sample. May be None if only one
                head is asked for; then it is that one.
            heads: the heads whose full maps are produced; static.
            capture: also return the intermediate stages.

        Returns:
            head → float32 logits [B C S S]. The map of a head is meaningful for the samples that are gated by it. With
            `capture`, also a dict of stages under the names of the recorded cases, batched and with channels last:
            `dense_pe`, `pe1_level1`, `text_hidden`, `level0/…`, `level1/…`, and `level0/level_mask/binary`,
            `low_res_masks/binary` (and so on) once per head.

        Raises:
            ValueError: shapes that do not fit, unknown or no heads, or two heads without `is_semantic`.

        Source: specification 8.
        """
        c = self.config
        if not heads or not set(heads) <= set(HEADS):
            raise ValueError(f"heads: expected some of {', '.join(HEADS)}, found {tuple(heads)}")
        if len(features) != c.levels:
            raise ValueError(f"features: expected {c.levels} levels, found {len(features)}")
        batch = expect(states, "B K D", K=c.mask_tokens, D=c.in_features)["B"]
        for level in features:
            expect(level, "B P C", B=batch, P=c.grid**2, C=c.image_features)
        if is_semantic is None:
            if len(set(heads)) > 1:
                raise ValueError("is_semantic is needed to decode with two heads: each sample is gated by its own")
            is_semantic = jnp.full((batch,), heads[0] == "semantic")
        expect(is_semantic, "B", B=batch)
        stages: dict[str, Any] = {}

        text = self.prompt(states.astype(self.dtype))  # [B K D]
        stages["text_hidden"] = text
        prompts = text.reshape(batch, c.levels, c.tokens_per_level, -1).mean(axis=2)  # constants 1/3: Q-9
        generated = self.query_generator(self.query_tokens.astype(self.dtype), prompts)  # [B levels Q D]
        images = jnp.stack(features, axis=1).reshape(batch * c.levels, c.grid, c.grid, c.image_features)
        images = self.neck(images).reshape(batch, c.levels, c.grid, c.grid, -1)

        low = dict.fromkeys(heads, 0.0)
        gate = None
        for level in range(c.levels):  # the two grids differ in size and the second needs the first: no scan
            name = f"level{level}/"
            src, size = images[:, level], c.grid
            stages[f"{name}sparse_prompt"] = prompts[:, level : level + 1]
            stages[f"{name}neck_image_embedding"] = src
            stages[f"{name}query_generator"] = generated[:, level]
            if gate is not None:
                src, size = self.level_up(src), 2 * c.grid
                stages[f"{name}upsample_2x"] = src
                src = (jax.nn.sigmoid(gate) + 1).astype(self.dtype)[..., None] * src
            src = src + self.no_mask.astype(self.dtype)
            stages[f"{name}transformer_src_in"] = src
            # The reference keeps the frequencies in a buffer: nothing trains them.
            pe = positional_encoding(jax.lax.stop_gradient(self.pe[f"level{level}"]), size)
            stages["dense_pe" if level == 0 else f"pe1_level{level}"] = pe[None]
            mixed = self._decode(level, src, generated[:, level], pe.astype(self.dtype), stages)
            logits = {head: self.classifier[head](mixed) for head in HEADS}  # [B 2h 2w C]
            gate = jnp.where(is_semantic[:, None, None], logits["semantic"].mean(-1), logits["binary"].mean(-1))
            for head in heads:
                stages[f"{name}level_mask/{head}"] = logits[head]
                low[head] += resize(logits[head].transpose(0, 3, 1, 2), c.low_res) / c.levels
        for head in heads:
            stages[f"low_res_masks/{head}"] = low[head].transpose(0, 2, 3, 1)
        masks = {head: resize(low[head], c.image_size) for head in heads}  # two resizes: one would give other numbers
        return (masks, stages) if capture else masks

    def _decode(self, level: int, src, generated, pe, stages: dict[str, Any]):
        """One level: src [B h w D], generated [B Q D], pe [h w D] → what the classifiers read, [B 2h 2w F]."""
        c = self.config
        b, h, w, d = src.shape
        queries, image = TwoWay(c, self.dtype, parent=None).apply(
            {"params": self.transformer[f"level{level}"]},
            generated + self.level_embed[level].astype(self.dtype),
            src.reshape(b, h * w, d),
            pe.reshape(h * w, d),
        )
        kernels = self.hyper(queries)  # [B Q F]
        up = self.output_up(image.reshape(b, h, w, d))  # [B 2h 2w F]
        query_masks = jnp.einsum("bqf,bhwf->bhwq", kernels, up)
        mixed = self.mix(query_masks)
        stages |= {
            f"level{level}/transformer_queries": queries,
            f"level{level}/transformer_keys": image,
            f"level{level}/hyper_mlp": kernels,
            f"level{level}/output_upscaling": up,
            f"level{level}/query_masks": query_masks,
            f"level{level}/hyper_mlp_out": mixed,
        }
        return mixed


# Path of a parameter inside this part (full match) → logical axes, see crab_jax/sharding.py.
# Only what is wide is split: the prompt's MLP holds more than half of all numbers of this part.
AXES = {
    r"prompt/lin1/kernel": ("embed", "mlp"),
    r"prompt/lin2/kernel": ("mlp", "embed"),
    r"neck/conv1/kernel": ("embed", "whole"),
    r"neck/conv2/kernel": ("whole", "whole", "whole", "whole"),
    r"(level|output)_up/kernel": ("whole", "whole", "whole", "whole"),
    r"(query_generator/.*|hyper/lin\d|mix/lin\d|classifier_.*|transformer/level\d/final_attn/.)/kernel": ("whole",) * 2,
    r"transformer/level\d/final_attn/out/kernel": ("whole", "whole"),
    r"transformer/level\d/layers/.*/kernel": ("layers", "whole", "whole"),
    r"transformer/level\d/layers/.*/(scale|bias)": ("layers", "whole"),
    r"(?!.*/layers/).*/(scale|bias)": ("whole",),
    r"no_mask": ("whole",),
    r"(level_embed|query_tokens|pe/level\d)": ("whole", "whole"),
}

# A 1 x 1 convolution (out, in, 1, 1) ↔ kernel [in out].
_POINTWISE = Op("pointwise", lambda x: x[:, :, 0, 0].transpose(1, 0), lambda x: x.transpose(1, 0)[:, :, None, None])


def _generator_layer(config: MaskDecoderConfig, layer: int) -> dict[str, tuple[int, ...]]:
    """PyTorch names and shapes of one layer of the query generator."""
    d, f = config.prompt_dim, config.query_mlp_dim
    shapes: dict[str, tuple[int, ...]] = {}
    for attn in ("self_attn", "cross_attn"):
        shapes |= {f"{attn}.in_proj_weight": (3 * d, d), f"{attn}.in_proj_bias": (3 * d,)}
        shapes |= {f"{attn}.out_proj.weight": (d, d), f"{attn}.out_proj.bias": (d,)}
    shapes |= {"ffn.0.weight": (f, d), "ffn.0.bias": (f,), "ffn.2.weight": (d, f), "ffn.2.bias": (d,)}
    for i in (1, 2, 3):
        shapes |= {f"norm{i}.weight": (d,), f"norm{i}.bias": (d,)}
    return {f"mask_decoder.query_generator.layers.{layer}.{name}": shape for name, shape in shapes.items()}


def weight_table(config: MaskDecoderConfig) -> WeightTable:
    """Names inside `seg_module.`; 235 tensors in the published files.

    Source: specification A.3.
    """

    def attn(path: str, key: str, **counts: int) -> list[Rule]:
        return [rule for n in ("q", "k", "v", "out") for rule in linear(f"{path}/{n}", f"{key}.{n}_proj", **counts)]

    def up(path: str, key: str) -> list[Rule]:
        return [
            Rule(f"{path}/kernel", f"{key}.0.weight", CONV_UP),
            Rule(f"{path}/bias", f"{key}.0.bias"),
            *norm(f"{path}/norm", f"{key}.1"),
        ]

    def two_way(path: str, key: str) -> list[Rule]:
        layers, layer, depth = f"{path}/layers", f"{key}.layers.{{i}}", {"i": config.depth}
        return [
            *attn(f"{layers}/self_attn", f"{layer}.self_attn", **depth),
            *attn(f"{layers}/token_to_image", f"{layer}.cross_attn_token_to_image", **depth),
            *attn(f"{layers}/image_to_token", f"{layer}.cross_attn_image_to_token", **depth),
            *(rule for i in (1, 2, 3, 4) for rule in norm(f"{layers}/norm{i}", f"{layer}.norm{i}", **depth)),
            *(rule for i in (1, 2) for rule in linear(f"{layers}/mlp/lin{i}", f"{layer}.mlp.lin{i}", **depth)),
            *attn(f"{path}/final_attn", f"{key}.final_attn_token_to_image"),
            *norm(f"{path}/final_norm", f"{key}.norm_final_attn"),
        ]

    generator = f"mask_decoder.query_generator.layers.{config.query_layers - 1}"
    rules = [
        *linear("prompt/lin1", "text_hidden_fcs.0.0"),
        *linear("prompt/lin2", "text_hidden_fcs.0.2"),
        Rule("no_mask", "no_mask_embed.weight", drop_axes(0)),
        Rule("neck/conv1/kernel", "image_feature_neck.0.weight", _POINTWISE),
        *norm("neck/norm1", "image_feature_neck.1"),
        Rule("neck/conv2/kernel", "image_feature_neck.2.weight", CONV_2D),
        *norm("neck/norm2", "image_feature_neck.3"),
        *(
            rule
            for level in range(config.levels)
            for rule in two_way(f"transformer/level{level}", f"mask_decoder.transformer.{level}")
        ),
        Rule("query_tokens", "mask_decoder.avs_query_tokens.weight"),
        *(
            rule
            for name in ("self_attn", "cross_attn")
            for rule in (
                Rule(f"query_generator/{name}_in/kernel", f"{generator}.{name}.in_proj_weight", TRANSPOSE),
                Rule(f"query_generator/{name}_in/bias", f"{generator}.{name}.in_proj_bias", KEEP),
                *linear(f"query_generator/{name}_out", f"{generator}.{name}.out_proj"),
            )
        ),
        *linear("query_generator/mlp/lin1", f"{generator}.ffn.0"),
        *linear("query_generator/mlp/lin2", f"{generator}.ffn.2"),
        *(rule for i in (1, 2, 3) for rule in norm(f"query_generator/norm{i}", f"{generator}.norm{i}")),
        *(
            rule
            for i in (1, 2, 3)
            for rule in (
                Rule(f"mix/lin{i}/kernel", f"mask_decoder.hyper_mlp_out.layers.{i - 1}.weight", _POINTWISE),
                Rule(f"mix/lin{i}/bias", f"mask_decoder.hyper_mlp_out.layers.{i - 1}.bias"),
                *linear(f"hyper/lin{i}", f"mask_decoder.hyper_mlp.layers.{i - 1}"),
            )
        ),
        *up("output_up", "mask_decoder.output_upscaling"),
        *up("level_up", "mask_decoder.upsample_2x"),
        Rule("level_embed", "mask_decoder.level_embed.weight"),
        Rule("classifier_binary/kernel", "mask_decoder.ms3_s4_classfier.weight", _POINTWISE),  # their spelling
        Rule("classifier_semantic/kernel", "mask_decoder.avss_classifier.weight", _POINTWISE),
    ]
    unused: dict[str, tuple[int, ...]] = {}
    for layer in range(config.query_layers - 1):
        unused |= _generator_layer(config, layer)
    why = "a random buffer of the reference that was never saved: choose a source (specification Q-2)"
    return WeightTable(rules=tuple(rules), unused=unused, absent=dict.fromkeys(PE_TENSORS, why))
