"""How the routers of the LoRA weigh its heads, example by example: one diagnosis for training and for evaluation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from crab_jax.backbones.llama import Llama, causal
from crab_jax.model import Crab

LINEARS = (
    ("attn", "q"), ("attn", "k"), ("attn", "v"), ("attn", "o"), ("mlp", "gate"), ("mlp", "up"), ("mlp", "down"),
)  # fmt: skip


def router_means(net: Crab, variables: Any, x: Any, position: Any, segment: Any, *, examples: int) -> Any:
    """Router weights, averaged over the tokens of every example.

    Args:
        net: the network, without dropout; it must have LoRA.
        variables: {"params": nested}.
        x: input embeddings [B L D].
        position: int32 [B L].
        segment: int32 [B L], which example of its row a token belongs to; 0 is padding.
        examples: G, so many of every row are looked at.

    Returns:
        float32 [B G layers 7 H]; the example of segment g + 1 stands at g. The seven are `LINEARS`.
    """
    llama = Llama(net.config.llama, net.dtype, unrolled=net.unrolled, capture=True)
    variables = {"params": variables["params"]["llama"]}
    _, _, (_, routers) = llama.apply(variables, x, position, causal(segment))
    mine = jax.nn.one_hot(segment - 1, examples)  # [B L G]
    mine = mine / jnp.maximum(mine.sum(1, keepdims=True), 1)
    means = [jnp.einsum("blg,nblh->bgnh", mine, routers[part][name]) for part, name in LINEARS]
    return jnp.stack(means, axis=3)
