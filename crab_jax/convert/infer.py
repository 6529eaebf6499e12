"""Configs from the shapes of tensors, and the shapes that each network has for its config."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from crab_jax.backbones.beats import MELS, Beats
from crab_jax.backbones.clip import Clip
from crab_jax.backbones.llama import Llama, LlamaConfig, causal
from crab_jax.backbones.mask_decoder import MaskDecoder, MaskDecoderConfig
from crab_jax.backbones.qformer import QFormer, QFormerConfig
from crab_jax.config import ConfigError
from crab_jax.convert.model_config import LoraNumbers, MaskDecoderNumbers, ProjectorNumbers
from crab_jax.convert.tensors import Tensor
from crab_jax.nn.lora import LoraConfig
from crab_jax.params import flatten


class Unknown(ValueError):
    """A size cannot be read off the tensors; the message names the tensor that should carry it."""


def _size(tensors: Mapping[str, Tensor], key: str, axis: int, *, rank: int) -> int:
    tensor = tensors.get(key)
    if tensor is None:
        raise Unknown(f"{key} is missing, which carries a size of the network")
    if len(tensor.shape) != rank or 0 in tensor.shape:
        raise Unknown(f"{key} has the shape {tensor.shape}, expected {rank} axes, none empty")
    return tensor.shape[axis]


def count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers the group of `pattern` takes at the beginning of the keys."""
    return len({found[1] for key in tensors if (found := re.match(pattern, key))})


def lora(tensors: Mapping[str, Tensor], numbers: LoraNumbers) -> LoraConfig:
    """Heads and rank of the adapter (Q-18: read them, the scripts around the published file disagree)."""
    key = "layers.0.self_attn.q_proj"
    heads = _size(tensors, f"{key}.lora_route.weight", 0, rank=2)
    matrices = count(tensors, rf"{re.escape(key)}\.lora_B(\d+)\.")
    if matrices != heads:
        raise Unknown(f"{key}: lora_route has {heads} heads, but there are {matrices} matrices lora_B")
    rank = _size(tensors, f"{key}.lora_A.weight", 0, rank=2)
    return LoraConfig(
        heads=heads, rank=rank, alpha=numbers.alpha, dropout=numbers.dropout, dropout_masks=numbers.dropout_masks
    )


def projector(tensors: Mapping[str, Tensor], numbers: ProjectorNumbers, *, kind: str) -> QFormerConfig:
    """Sizes of a projector; `kind` is "visual" or "audio"."""
    bert, cls = f"{kind}_Qformer.bert", f"{kind}_Qformer.cls.predictions.bias"
    words, places = (f"{bert}.embeddings.{n}_embeddings.weight" for n in ("word", "position"))
    depth = max(1, count(tensors, rf"{kind}_proj\.(\d+)\.weight"))
    vocabulary = next((tensors[key].shape[0] for key in (words, cls) if key in tensors and tensors[key].shape), 0)
    return QFormerConfig(
        encoder_width=_size(tensors, f"{kind}_ln.weight", 0, rank=1),
        num_queries=_size(tensors, f"{kind}_query_tokens", 1, rank=3),
        hidden_size=_size(tensors, f"{kind}_query_tokens", 2, rank=3),
        intermediate_size=_size(tensors, f"{bert}.encoder.layer.0.intermediate_query.dense.weight", 0, rank=2),
        num_layers=max(1, count(tensors, rf"{re.escape(bert)}\.encoder\.layer\.(\d+)\.")),
        out_features=_size(tensors, f"{kind}_proj.{2 * (depth - 1)}.weight", 0, rank=2),
        proj_depth=depth,
        vocab_size=vocabulary,
        max_positions=tensors[places].shape[0] if places in tensors and tensors[places].shape else 0,
        num_heads=numbers.num_heads,
        cross_attention_freq=numbers.cross_attention_freq,
        layer_norm_eps=numbers.layer_norm_eps,
        input_norm_eps=numbers.input_norm_eps,
        hidden_act=numbers.hidden_act,
        dropout=numbers.dropout,
    )


def mask_decoder(
    tensors: Mapping[str, Tensor], numbers: MaskDecoderNumbers, *, grid: int, image_size: int, low_res: int
) -> MaskDecoderConfig:
    """Sizes of the segmentation branch (Q-19: the number of queries differs between files)."""
    decoder = "mask_decoder"
    first, generator = f"{decoder}.transformer.0.layers.0", f"{decoder}.query_generator.layers"
    width = _size(tensors, "text_hidden_fcs.0.2.weight", 0, rank=2)
    inner = _size(tensors, f"{first}.cross_attn_token_to_image.q_proj.weight", 0, rank=2)
    if width % inner:
        raise Unknown(f"{first}.cross_attn_token_to_image: its width {inner} does not divide {width}")
    return MaskDecoderConfig(
        in_features=_size(tensors, "text_hidden_fcs.0.0.weight", 1, rank=2),
        image_features=_size(tensors, "image_feature_neck.0.weight", 1, rank=4),
        prompt_dim=width,
        mlp_dim=_size(tensors, f"{first}.mlp.lin1.weight", 0, rank=2),
        downsample=width // inner,
        depth=count(tensors, rf"{decoder}\.transformer\.0\.layers\.(\d+)\."),
        num_queries=_size(tensors, f"{decoder}.avs_query_tokens.weight", 0, rank=2),
        query_layers=count(tensors, rf"{re.escape(generator)}\.(\d+)\."),
        query_mlp_dim=_size(tensors, f"{generator}.0.ffn.0.weight", 0, rank=2),
        binary_classes=_size(tensors, f"{decoder}.ms3_s4_classfier.weight", 0, rank=4),
        semantic_classes=_size(tensors, f"{decoder}.avss_classifier.weight", 0, rank=4),
        grid=grid,
        image_size=image_size,
        low_res=low_res,
        num_heads=numbers.num_heads,
        query_heads=numbers.query_heads,
        levels=numbers.levels,
        tokens_per_level=numbers.tokens_per_level,
    )


@functools.lru_cache(maxsize=32)
def shapes(part: str, config: Any) -> dict[str, tuple[int, ...]]:
    """Every parameter of one part with its shape; nothing is computed or allocated.

    Args:
        part: a field of `CrabConfig`.
        config: the config of that part.

    Raises:
        ConfigError: sizes that no network can have.
    """
    try:
        tree = jax.eval_shape(_INITS[part](config), jax.random.key(0))["params"]
    except (ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise ConfigError(f"{part}: no network has these sizes ({' '.join(str(error).split())[:300]})") from error
    return {path: tuple(leaf.shape) for path, leaf in flatten(tree).items()}


def _llama(config: LlamaConfig) -> Callable[[Any], Any]:
    def everything(model, tokens):
        states, _, _ = model(model.embed(tokens), tokens, causal(tokens))
        return model.logits(states)

    return lambda key: Llama(config, jnp.float32).init(key, jnp.zeros((1, 1), jnp.int32), method=everything)


def _clip(config: Any) -> Callable[[Any], Any]:
    size = config.image_size
    return lambda key: Clip(config).init(key, jnp.zeros((1, size, size, 3)))


def _beats(config: Any) -> Callable[[Any], Any]:
    return lambda key: Beats(config).init(key, jnp.zeros((1, config.input_patch_size, MELS)))


def _projector(config: QFormerConfig) -> Callable[[Any], Any]:
    return lambda key: QFormer(config).init(key, jnp.zeros((1, 1, config.encoder_width)))


def _mask_decoder(config: MaskDecoderConfig) -> Callable[[Any], Any]:
    def init(key):
        features = jnp.zeros((1, config.grid**2, config.image_features))
        states = jnp.zeros((1, config.mask_tokens, config.in_features))
        return MaskDecoder(config, jnp.float32).init(key, states, (features,) * config.levels, jnp.zeros((1,), bool))

    return init


_INITS: Mapping[str, Callable[[Any], Callable[[Any], Any]]] = {
    "llama": _llama,
    "clip": _clip,
    "beats": _beats,
    "vl_projector": _projector,
    "al_projector": _projector,
    "mask_decoder": _mask_decoder,
}
