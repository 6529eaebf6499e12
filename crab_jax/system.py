"""Crab as something to train: its losses as sums over rows, and where its parameters live."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from crab_jax import model
from crab_jax.backbones import beats, clip, llama, mask_decoder, qformer
from crab_jax.backbones.llama import Head
from crab_jax.batch import Batch
from crab_jax.config import ConfigError, check_sizes
from crab_jax.losses import mask_terms, row_nll
from crab_jax.model import Crab, CrabConfig
from crab_jax.nn.dropout import Bits, dropout_key
from crab_jax.nn.fused_attention import Choice
from crab_jax.params import Flat, nest
from crab_jax.routing import router_means
from crab_jax.sharding import Axes, constrain

_PARTS = {
    "llama": llama, "clip": clip, "beats": beats, "vl_projector": qformer, "al_projector": qformer,
    "mask_decoder": mask_decoder,
}  # fmt: skip
AXES: Axes = {
    f"{part}/(?:{pattern})": names for part, module in _PARTS.items() for pattern, names in module.AXES.items()
}

# Of `jax.checkpoint_policies`, which holds functions that make policies as well.
POLICIES = (
    "everything_saveable", "nothing_saveable", "dots_saveable", "checkpoint_dots", "dots_with_no_batch_dims_saveable",
    "checkpoint_dots_with_no_batch_dims",
)  # fmt: skip
SEGMENTS = 32  # examples of a row whose router weights are looked at


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Which losses, and how they add up.

    Attributes:
        text: weight of the token cross-entropy, the mean over all labelled tokens of the step.
        heads: mask classifiers that run: none switches the mask losses off. The reference never switches them on,
            although two of its stages are about masks (Q-10).
        mask_reduction: "sum" adds the masks up as the reference does, so the loss grows with the batch (Q-11); "mean"
            is the mean over all masks of the step.
        mask_group: with "sum", how many masks are added up before the mean over groups is taken: the reference's batch
            per device (published: 16). 0: all masks of the step.
        bce, dice, semantic: weights of the mask losses (published 1, 0.5, 1; Q-13).

    Source: specification 7.5, 8.8.
    """

    text: float = 1.0
    heads: tuple[Literal["binary", "semantic"], ...] = ()
    mask_reduction: Literal["sum", "mean"] = "mean"
    mask_group: int = 0
    bce: float = 1.0
    dice: float = 0.5
    semantic: float = 1.0

    def __post_init__(self):
        check_sizes("loss", self, ("mask_group",), least=0)
        for name in ("text", "bce", "dice", "semantic"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"loss: {name} is {getattr(self, name)}, expected 0 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How the same numbers are computed; none of it changes what a step means.

    Attributes:
        dtype: of activations and products. Trainables, norms, softmax, routers and losses are float32 in any case.
        frozen_dtype: in which frozen matrices are stored.
        remat: what the backward pass of a decoder layer keeps instead of computing it again: one of
            `POLICIES`, or "none" to keep everything.
        logit_chunks: the logits of a row are made in so many pieces, because all of them at once are the largest
            array of a step. It must divide the row's tokens.
        attention: of the language model: "dot" writes all scores to memory, "fused" is a kernel that does not, "auto"
            is the kernel on TPUs where the shapes allow it (rows and heads of a multiple of 128) and else "dot".
        dropout_bits: "threefry", the same on every machine; "rbg" from the generator of the chip, the same on every
            mesh of one kind of chip; "auto" is "rbg" on TPUs and else "threefry".
    """

    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    frozen_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    remat: str = "nothing_saveable"
    logit_chunks: int = 1
    attention: Choice = "auto"
    dropout_bits: Bits = "auto"

    def __post_init__(self):
        check_sizes("compute", self)
        if self.remat not in ("none", *POLICIES):
            raise ConfigError(f"compute: remat is {self.remat!r}, expected 'none' or one of {', '.join(POLICIES)}")


@dataclasses.dataclass(frozen=True)
class CrabSystem:
    """Crab and its losses, see `crab_jax.train.step.System`.

    Attributes:
        config: all sizes.
        loss: which losses.
        compute: dtypes and memory.
        train_encoders: CLIP and BEATs are trained too.
        dropout: as configured; False for comparisons.
        trains_llama: the language model's own matrices get gradients (for the count of products only).
    """

    config: CrabConfig
    loss: LossConfig = LossConfig()
    compute: ComputeConfig = ComputeConfig()
    train_encoders: bool = False
    dropout: bool = True
    trains_llama: bool = False

    axes = AXES

    @property
    def _model(self) -> Crab:
        c = self.compute
        remat = None if c.remat == "none" else c.remat
        return Crab(
            self.config,
            jnp.dtype(c.dtype),
            train=self.dropout,
            remat=remat,
            train_encoders=self.train_encoders,
            attention=c.attention,
        )

    def init(self, key: jax.Array) -> Flat:
        """Random parameters."""
        return model.init(self.config, key)

    def counts(self, batch: Batch) -> dict[str, Any]:
        """Labelled tokens, all real tokens, and masks of either kind."""
        valid = batch.mask_segment > 0
        found = {
            "tokens": batch.labels >= 0,
            "positions": batch.segment > 0,
            "binary": valid & ~batch.mask_semantic,
            "semantic": valid & batch.mask_semantic,
        }
        return {name: x.sum().astype(jnp.float32) for name, x in found.items()}

    def weights(self, counts: dict[str, Any]) -> dict[str, Any]:
        """Weights over denominators.

        With "sum", the loss of a group of G masks is f_b (Σ BCE + w Σ Dice) + f_s Σ CE with the shares f of the two
        kinds among them; a step of n masks is the mean over n/G such groups.
        """
        c = self.loss
        weights = {"text": c.text / jnp.maximum(counts["tokens"], 1)}
        if not c.heads:
            return weights
        masks = jnp.maximum(counts["binary"] + counts["semantic"], 1)
        if c.mask_reduction == "mean":
            binary = semantic = 1 / masks
        else:
            groups = jnp.maximum(masks / c.mask_group, 1) if c.mask_group else jnp.float32(1)
            binary, semantic = (counts[kind] / masks / groups for kind in ("binary", "semantic"))
        return weights | {"bce": c.bce * binary, "dice": c.dice * binary, "semantic_ce": c.semantic * semantic}

    def sums(self, params: Flat, batch: Batch, key: jax.Array) -> dict[str, Any]:
        """Token losses, and with `loss.heads` mask losses: float32 [B] each."""
        net, variables = self._model, {"params": nest(params)}
        key = dropout_key(key, self.compute.dropout_bits)
        states, scales = net.apply(variables, batch, method="states", rngs={"dropout": key})
        sums = {"text": self._text(params["llama/head/kernel"], states, batch.labels)}
        if self.loss.heads:
            logits = net.apply(variables, states, scales, batch, heads=self.loss.heads, method="masks_of")
            b, m, s = batch.masks.shape[:3]
            terms = mask_terms(
                logits,
                batch.masks.reshape(b * m, s, s),
                batch.mask_semantic.reshape(-1),
                batch.mask_segment.reshape(-1) > 0,
            )
            sums |= {name: x.reshape(b, m).sum(-1) for name, x in terms.items()}
        return sums

    def _text(self, kernel: Any, states: Any, labels: Any) -> Any:
        """Token losses per row [B], the logits in pieces that the backward pass makes again."""
        n, (b, length) = self.compute.logit_chunks, labels.shape
        if length % n:
            raise ConfigError(f"compute.logit_chunks: {n} does not divide the {length} tokens of a row")
        head = Head(self.config.llama.vocab_size)
        kernel = constrain(kernel, "width", "vocab")  # brought together once, and not again for every piece

        def piece(states, labels):
            logits = head.apply({"params": {"kernel": kernel}}, states)
            return row_nll(constrain(logits, "batch", "length", "vocab"), labels)[0]

        if n == 1:
            return piece(states, labels)
        cut = lambda x: x.reshape(b, n, length // n, *x.shape[2:]).swapaxes(0, 1)  # noqa: E731
        piece = jax.checkpoint(piece, prevent_cse=False)
        return jax.lax.map(lambda xs: piece(*xs), (cut(states), cut(labels))).sum(0)

    def flops(self, counts: dict[str, float]) -> float:
        """Products of the language model in one step, for the MFU: 2N per token forwards and 2N backwards, and another
        2N where its own weights get gradients. Attention, LoRA, encoders and what remat repeats do not count.
        """
        c = self.config.llama
        kv = c.num_kv_heads * c.head_size
        layer = 2 * c.hidden_size * (c.hidden_size + kv) + 3 * c.hidden_size * c.intermediate_size
        weights = c.num_layers * layer + c.hidden_size * c.vocab_size
        return (6 if self.trains_llama else 4) * weights * counts["positions"]

    # --- what the heads of the LoRA do --------------------------------------------------------------------------------

    diagnosis_name = "router"

    def diagnose(self, params: Flat, batch: Batch) -> Any:
        """Average router weights of every example, nothing dropped out.

        Returns:
            float32 [B G layers 7 H]; the example of segment g + 1 stands at g, those beyond G are left out.
        """
        net, variables = dataclasses.replace(self, dropout=False)._model, {"params": nest(params)}
        x, _ = net.apply(variables, batch, method="embed_batch")
        return router_means(net, variables, x, batch.position, batch.segment, examples=SEGMENTS)

    def summary(self, routers: np.ndarray, names: Sequence[Sequence[str]]) -> dict[str, float]:
        """Router weights per task, layer and head, averaged over examples and linears: `avqa/layer03/head1` → weight.

        Args:
            routers: what `diagnose` gives.
            names: of the examples of each row, `task/split, …`.
        """
        found: dict[str, list[np.ndarray]] = {}
        for row, examples in zip(routers, names, strict=True):
            for weights, name in zip(row, examples, strict=False):
                found.setdefault(name.split("/", 1)[0], []).append(weights.mean(axis=1))  # [layers H]
        return {
            f"{task}/layer{i:02d}/head{h}": float(x)
            for task, values in sorted(found.items())
            for (i, h), x in np.ndenumerate(np.mean(values, axis=0))
        }


def stored(path: str, dtype: Any) -> Any:
    """The dtype in which a frozen parameter is stored: only matrices become small."""
    return jnp.dtype(dtype) if path.rsplit("/", 1)[-1] in ("kernel", "embedding") else jnp.dtype("float32")
