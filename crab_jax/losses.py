"""Losses as pure functions, float32 throughout; sums and counts, so that the caller divides once.

Source: specification 7.5, 8.8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from crab_jax.nn.shapes import expect

# The reference divides the terms of every sample by its number of masks (always one) plus this.
_PER_SAMPLE = 1 + 1e-8


def token_nll(logits, labels):
    """Negative log-likelihood of the labelled positions.

    Args:
        logits: [B L V], any float dtype.
        labels: int [B L], already shifted: the token that position l should predict; negative where there is no loss.

    Returns:
        The sum over all labelled positions and their number, float32 scalars. Divide the one by the other only after
        adding up over everything that belongs together.

    Source: specification 7.5.
    """
    nll, labelled = row_nll(logits, labels)
    return nll.sum(), labelled.sum()


def row_nll(logits, labels):
    """`token_nll` row by row: sums and numbers of labelled positions, two float32 [B]."""
    sizes = expect(logits, "B L V")
    expect(labels, "B L", B=sizes["B"], L=sizes["L"])
    labelled = labels >= 0
    right = jnp.take_along_axis(logits, jnp.where(labelled, labels, 0)[..., None], axis=-1)[..., 0]
    # logsumexp minus one entry: the log-softmax of the whole vocabulary is never stored.
    nll = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1) - right.astype(jnp.float32)
    return jnp.where(labelled, nll, 0.0).sum(-1), labelled.sum(-1).astype(jnp.float32)


def bce(logits, target):
    """Binary cross-entropy per sample, mean over its pixels.

    Args:
        logits: [B ...].
        target: same shape, 0 or 1.

    Returns:
        float32 [B].
    """
    x, t = logits.astype(jnp.float32), target.astype(jnp.float32)
    pixels = jnp.maximum(x, 0) - x * t + jnp.log1p(jnp.exp(-jnp.abs(x)))
    return pixels.mean(axis=tuple(range(1, x.ndim)))


def dice(logits, target, *, scale: float = 1000, eps: float = 1e-6):
    """Soft Dice loss per sample: 1 - (2 Σpt/s + e) / (Σp/s + Σt/s + e).

    Args:
        logits: [B ...].
        target: same shape, 0 or 1.
        scale: s, divides all three sums; with `eps` it decides what an empty mask costs.
        eps: e.

    Returns:
        float32 [B].
    """
    p, t = jax.nn.sigmoid(logits.astype(jnp.float32)), target.astype(jnp.float32)
    pixels = tuple(range(1, p.ndim))
    overlap = 2 * (p / scale * t).sum(axis=pixels)
    return 1 - (overlap + eps) / ((p / scale).sum(axis=pixels) + (t / scale).sum(axis=pixels) + eps)


def semantic_ce(logits, labels):
    """Cross-entropy over classes per sample, mean over its pixels.

    Args:
        logits: [B C S S].
        labels: int [B S S], class ids.

    Returns:
        float32 [B]; NaN for a class id outside 0 … C - 1.
    """
    x = logits.astype(jnp.float32)
    right = jnp.take_along_axis(x, labels[:, None].astype(jnp.int32), axis=1, mode="fill", fill_value=jnp.nan)[:, 0]
    return (jax.nn.logsumexp(x, axis=1) - right).mean(axis=(1, 2))


def mask_loss(
    logits: Mapping[str, Any],
    masks,
    is_semantic,
    valid,
    *,
    reduction: Literal["sum", "mean"] = "sum",
    bce_weight: float = 1.0,
    dice_weight: float = 0.5,
    semantic_weight: float = 1.0,
):
    """The loss of one batch of masks: f_b (w Σ BCE + w' Σ Dice) + f_s w'' Σ CE, f = share of the samples of that kind.

    Args:
        logits: head → [B C S S]; `binary` has one class. A head may be left out if no sample needs it.
        masks: uint8 [B S S], 0 or 1 for binary samples, class ids for semantic ones.
        is_semantic: bool [B].
        valid: bool [B]; the others contribute nothing, whatever their logits and masks are.
        reduction: `sum` adds the samples up as the reference does (Q-11), so the loss grows with the batch; `mean`
            divides each kind by its own number of samples, which makes the whole the mean over all valid samples.
        bce_weight: w.
        dice_weight: w'.
        semantic_weight: w''.

    Returns:
        The loss, a float32 scalar, 0 without any valid sample; and its parts: `bce`, `dice` and `semantic_ce` (reduced
        over their samples, not yet weighted), `binary_samples` and `semantic_samples`. A valid sample whose head is
        not among `logits` makes the loss NaN: a silent zero would go unnoticed.

    Source: specification 8.8, Q-11, Q-13, Q-50.
    """
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction: expected 'sum' or 'mean', found {reduction!r}")
    terms = mask_terms(logits, masks, is_semantic, valid)
    number = {
        "binary": (valid & ~is_semantic).sum().astype(jnp.float32),
        "semantic": (valid & is_semantic).sum().astype(jnp.float32),
    }
    total = jnp.maximum(number["binary"] + number["semantic"], 1)

    def reduced(name, head):
        return terms[name].sum() if reduction == "sum" else terms[name].sum() / jnp.maximum(number[head], 1)

    parts = {
        "bce": reduced("bce", "binary"),
        "dice": reduced("dice", "binary"),
        "semantic_ce": reduced("semantic_ce", "semantic"),
        "binary_samples": number["binary"],
        "semantic_samples": number["semantic"],
    }
    binary = bce_weight * parts["bce"] + dice_weight * parts["dice"]
    loss = number["binary"] / total * binary + number["semantic"] / total * semantic_weight * parts["semantic_ce"]
    return loss, parts


def mask_terms(logits: Mapping[str, Any], masks, is_semantic, valid) -> dict[str, Any]:
    """The losses of every mask on its own, neither reduced nor weighted.

    Args:
        logits, masks, is_semantic, valid: see `mask_loss`.

    Returns:
        `bce`, `dice` and `semantic_ce`, each float32 [B]: 0 for samples of the other kind and for those that are not
        valid, NaN for a valid sample whose head is not among `logits`.
    """
    sizes = expect(masks, "B S T")
    expect(is_semantic, "B", B=sizes["B"])
    expect(valid, "B", B=sizes["B"])
    chosen = {"binary": valid & ~is_semantic, "semantic": valid & is_semantic}

    def term(head, per_sample):
        """Other logits are blanked first: no NaN returns through the gradient."""
        mine = chosen[head]
        if head not in logits:
            return jnp.where(mine, jnp.nan, 0.0)
        expect(logits[head], "B C S T", **sizes)
        x = jnp.where(mine[:, None, None, None], logits[head], 0)
        return jnp.where(mine, per_sample(x, jnp.where(mine[:, None, None], masks, 0)) / _PER_SAMPLE, 0.0)

    if "binary" in logits:
        expect(logits["binary"], "B 1 S T", **sizes)
    return {
        "bce": term("binary", lambda x, t: bce(x[:, 0], t)),
        "dice": term("binary", lambda x, t: dice(x[:, 0], t)),
        "semantic_ce": term("semantic", semantic_ce),
    }
