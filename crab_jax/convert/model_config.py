"""`--model-config FILE.json`: the numbers that no published file carries. The default is the published model."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any, Literal

from crab_jax.config import ConfigError, build

PUBLISHED = pathlib.Path(__file__).with_name("published.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraNumbers:
    """See `LoraConfig`; heads and rank are read from the file."""

    alpha: float
    dropout: float
    dropout_masks: Literal["shared", "per_head"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProjectorNumbers:
    """See `QFormerConfig`; every size is read from the file."""

    num_heads: int
    layer_norm_eps: float
    input_norm_eps: float
    hidden_act: Literal["gelu", "relu"]
    dropout: float
    cross_attention_freq: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskDecoderNumbers:
    """See `MaskDecoderConfig`; every width is read from the file.

    Attributes:
        pretrain_low_res: `low_res` of `segmentation_pretrain.bin`, which was trained with another one than the two
            finetuned files; None: the same.
        grid: patches per side. Comes from CLIP; needed only where no CLIP folder is given.
        image_size: pixels per side. Likewise.
    """

    num_heads: int
    query_heads: int
    low_res: int
    levels: int
    tokens_per_level: int
    pretrain_low_res: int | None = None
    grid: int | None = None
    image_size: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelNumbers:
    """Everything that must be known beside the files. Documented for users in docs/conversion.md.

    Attributes:
        base_vocabulary: pieces of the tokenizer and rows of LLaMA's matrices before the added tokens.
        clip_taps: hidden states of CLIP: the first two feed the mask decoder, the last the language model.
    """

    base_vocabulary: int
    clip_taps: tuple[int, ...]
    lora: LoraNumbers
    vl_projector: ProjectorNumbers
    al_projector: ProjectorNumbers
    mask_decoder: MaskDecoderNumbers


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """A JSON file with an object in it.

    Raises:
        ConfigError: the file and, if it is no JSON, the line.
    """
    path = pathlib.Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg})") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a JSON object, found a {type(values).__name__}")
    return values


def load(path: str | os.PathLike | None = None) -> ModelNumbers:
    """Reads a model config.

    Args:
        path: the file; None: the published model.

    Raises:
        ConfigError: a broken file, an unknown, missing or mistyped field.
    """
    path = PUBLISHED if path is None else path
    return build(ModelNumbers, read_json(path), where=pathlib.Path(path).name)
