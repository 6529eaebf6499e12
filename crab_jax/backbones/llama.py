"""LLaMA-2 with the interaction-aware LoRA on all seven linears of every layer."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """The interaction-aware LoRA. `heads` comes from the file (`lora_route.weight.shape[0]`), `alpha` from no file."""

    heads: int
    rank: int
    alpha: float
    dropout: float = 0.0
    dropout_masks: Literal["shared", "per_head"] = "shared"  # the reference draws one mask per head

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """`vocab_size` counts the rows of the matrices, added tokens included."""

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
