"""Crab: the only file that knows all the parts."""

from __future__ import annotations

import dataclasses

from crab_jax.backbones.beats import BeatsConfig
from crab_jax.backbones.clip import ClipConfig
from crab_jax.backbones.llama import LlamaConfig
from crab_jax.backbones.mask_decoder import MaskDecoderConfig
from crab_jax.backbones.qformer import QFormerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrabConfig:
    """Every size and constant of one model; a part that is not there is None (weights converted from a subset of the files)."""

    llama: LlamaConfig | None = None
    clip: ClipConfig | None = None
    beats: BeatsConfig | None = None
    vl_projector: QFormerConfig | None = None
    al_projector: QFormerConfig | None = None
    mask_decoder: MaskDecoderConfig | None = None
