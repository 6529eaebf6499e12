"""Losses against torch, and their behaviour at the edges."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crab_jax.losses import bce, dice, mask_loss, semantic_ce, token_nll

torch = pytest.importorskip("torch")
F = torch.nn.functional

S, C = 6, 5

jitted = jax.jit(mask_loss, static_argnames="reduction")
with_gradient = jax.jit(jax.value_and_grad(mask_loss, has_aux=True), static_argnames="reduction")


def tensor(x):
    return torch.from_numpy(np.array(x))


@pytest.fixture
def batch():
    """Four samples: binary, semantic, binary, semantic."""
    rng = np.random.default_rng(0)
    is_semantic = np.array([False, True, False, True])
    masks = np.where(is_semantic[:, None, None], rng.integers(0, C, (4, S, S)), rng.integers(0, 2, (4, S, S)))
    logits = {
        "binary": rng.normal(size=(4, 1, S, S)).astype(np.float32) * 3,
        "semantic": rng.normal(size=(4, C, S, S)).astype(np.float32) * 3,
    }
    return logits, masks.astype(np.uint8), is_semantic, np.ones(4, bool)


def by_hand(logits, masks, is_semantic, valid, *, w=(1.0, 0.5, 1.0)):
    """Specification 8.8, sample by sample, with torch's own losses."""
    terms = {"bce": [], "dice": [], "ce": []}
    for i in range(len(masks)):
        if not valid[i]:
            continue
        if is_semantic[i]:
            label = tensor(masks[i].astype(np.int64))[None]
            terms["ce"].append(F.cross_entropy(tensor(logits["semantic"][i])[None], label).item())
            continue
        x, t = tensor(logits["binary"][i, 0]), tensor(masks[i].astype(np.float32))
        terms["bce"].append(F.binary_cross_entropy_with_logits(x, t).item())
        p = x.sigmoid()
        ratio = (2 * (p * t).sum() / 1000 + 1e-6) / (p.sum() / 1000 + t.sum() / 1000 + 1e-6)
        terms["dice"].append(1 - ratio.item())
    n = {"b": len(terms["bce"]), "s": len(terms["ce"])}
    total = max(n["b"] + n["s"], 1)
    binary, semantic = w[0] * sum(terms["bce"]) + w[1] * sum(terms["dice"]), w[2] * sum(terms["ce"])
    per = {"sum": n["b"] / total * binary + n["s"] / total * semantic, "mean": (binary + semantic) / total}
    return per, terms


def test_token_nll_is_torch_cross_entropy():
    rng = np.random.default_rng(1)
    logits = (rng.normal(size=(3, 7, 11)) * 5).astype(np.float32)
    labels = rng.integers(0, 11, (3, 7))
    labels[0, :4], labels[2], labels[1, 3] = -1, -100, 0
    total, count = token_nll(logits, labels)
    ignored = tensor(np.where(labels < 0, -1, labels).reshape(-1))
    want = F.cross_entropy(tensor(logits.reshape(-1, 11)), ignored, ignore_index=-1, reduction="sum")
    np.testing.assert_allclose(total, want, rtol=1e-6)
    assert count == (labels >= 0).sum()
    assert total.dtype == count.dtype == jnp.float32

    gradient = jax.grad(lambda x: token_nll(x, labels)[0])(logits)
    x = tensor(logits).requires_grad_()
    F.cross_entropy(x.reshape(-1, 11), ignored, ignore_index=-1, reduction="sum").backward()
    np.testing.assert_allclose(gradient, x.grad, atol=1e-6)
    assert not np.any(gradient[2])


def test_token_nll_is_stable_and_float32_for_bfloat16_logits():
    logits = jnp.array([[[1e4, -1e4, 0.0]]], jnp.bfloat16)
    total, _ = token_nll(logits, jnp.array([[1]]))
    np.testing.assert_allclose(total, float(logits[0, 0, 0]) - float(logits[0, 0, 1]))
    assert total.dtype == jnp.float32


def test_token_nll_without_any_label():
    logits = jnp.ones((1, 2, 3))
    (total, count), gradient = jax.value_and_grad(token_nll, has_aux=True)(logits, jnp.full((1, 2), -1))
    assert (total, count) == (0, 0)
    assert not np.any(gradient)


def test_token_nll_refuses_labels_of_another_length():
    with pytest.raises(ValueError, match="L=2"):
        token_nll(jnp.zeros((1, 2, 3)), jnp.zeros((1, 3), jnp.int32))


def test_bce_is_torch_and_stable():
    rng = np.random.default_rng(2)
    x = (rng.normal(size=(3, S, S)) * 4).astype(np.float32)
    x[0, 0, :2] = 500, -500
    t = rng.integers(0, 2, x.shape).astype(np.uint8)
    want = F.binary_cross_entropy_with_logits(tensor(x), tensor(t.astype(np.float32)), reduction="none").mean((1, 2))
    np.testing.assert_allclose(bce(x, t), want, rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: bce(x, t).sum())(x)).all()


def test_dice_at_the_edges():
    empty, full = np.zeros((1, S, S), np.uint8), np.ones((1, S, S), np.uint8)
    sure = np.full((1, S, S), 100.0, np.float32)
    np.testing.assert_allclose(dice(sure, full), 0, atol=1e-6)
    np.testing.assert_allclose(dice(-sure, empty), 0, atol=1e-6)  # nothing there, nothing found: eps / eps
    np.testing.assert_allclose(dice(sure, empty), 1 - 1e-6 / (S * S / 1000 + 1e-6), rtol=1e-6)
    half = dice(np.zeros_like(sure), full)  # p = 1/2 everywhere
    np.testing.assert_allclose(half, 1 - (S * S / 1000 + 1e-6) / (1.5 * S * S / 1000 + 1e-6), rtol=1e-6)
    np.testing.assert_allclose(
        dice(sure, empty, scale=1, eps=4.0), 1 - 4 / (S * S + 4), rtol=1e-6, err_msg="scale and eps are arguments"
    )


def test_semantic_ce_is_torch(batch):
    logits, masks, _, _ = batch
    want = F.cross_entropy(tensor(logits["semantic"]), tensor(masks.astype(np.int64)), reduction="none").mean((1, 2))
    np.testing.assert_allclose(semantic_ce(logits["semantic"], masks), want, rtol=1e-6)


def test_semantic_ce_of_an_impossible_class_is_nan(batch):
    logits, masks, _, _ = batch
    masks = masks.copy()
    masks[0, 0, 0] = C
    values = semantic_ce(logits["semantic"], masks)
    assert np.isnan(values[0])
    assert np.isfinite(values[1:]).all()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("valid", [(1, 1, 1, 1), (1, 0, 0, 0), (0, 1, 0, 0), (1, 1, 1, 0), (0, 1, 0, 1)])
def test_mask_loss_by_hand(batch, reduction, valid):
    logits, masks, is_semantic, _ = batch
    valid = np.array(valid, bool)
    loss, parts = jitted(logits, masks, is_semantic, valid, reduction=reduction)
    want, terms = by_hand(logits, masks, is_semantic, valid)
    np.testing.assert_allclose(loss, want[reduction], rtol=1e-5)
    for part, name in (("bce", "bce"), ("dice", "dice"), ("semantic_ce", "ce")):
        total = sum(terms[name]) / (max(len(terms[name]), 1) if reduction == "mean" else 1)
        np.testing.assert_allclose(parts[part], total, rtol=1e-5, atol=1e-7)
    assert (parts["binary_samples"], parts["semantic_samples"]) == (len(terms["bce"]), len(terms["ce"]))


def test_mask_loss_weights(batch):
    loss, _ = jitted(*batch, bce_weight=3.0, dice_weight=7.0, semantic_weight=11.0)
    np.testing.assert_allclose(loss, by_hand(*batch, w=(3.0, 7.0, 11.0))[0]["sum"], rtol=1e-5)


def test_the_sum_grows_with_the_batch_and_the_mean_does_not(batch):
    doubled = jax.tree.map(lambda x: np.concatenate([x, x]), batch)
    np.testing.assert_allclose(jitted(*doubled)[0], 2 * jitted(*batch)[0], rtol=1e-5)
    mean = jitted(*batch, reduction="mean")[0]
    np.testing.assert_allclose(jitted(*doubled, reduction="mean")[0], mean, rtol=1e-5)


def test_invalid_samples_contribute_nothing_even_if_they_are_not_finite(batch):
    logits, masks, is_semantic, valid = batch
    clean = jitted(*batch)[0]
    more = [np.concatenate([x, x[:2]]) for x in (logits["binary"], logits["semantic"], masks, is_semantic)]
    more[0][4:], more[1][4:], more[2][4:] = np.nan, np.inf, 255
    logits, valid = {"binary": more[0], "semantic": more[1]}, np.concatenate([valid, [False, False]])
    (value, _), gradient = with_gradient(logits, more[2], more[3], valid)
    np.testing.assert_allclose(value, clean, rtol=1e-6)
    for g in gradient.values():
        assert np.isfinite(g).all()
        assert not np.any(g[4:])
    assert np.any(gradient["binary"][0])
    assert not np.any(gradient["binary"][1])  # a semantic sample's binary map is not looked at


def test_no_valid_sample_is_zero_loss_and_zero_gradient(batch):
    logits, masks, is_semantic, _ = batch
    for reduction in ("sum", "mean"):
        (value, _), gradient = with_gradient(logits, masks, is_semantic, np.zeros(4, bool), reduction=reduction)
        assert value == 0
        assert not any(np.any(g) for g in gradient.values())


def test_a_head_may_be_left_out_only_if_nobody_needs_it(batch):
    logits, masks, is_semantic, valid = batch
    only = {"binary": logits["binary"]}
    loss, _ = jitted(only, masks, is_semantic, valid & ~is_semantic)
    np.testing.assert_allclose(loss, jitted(logits, masks, is_semantic, valid & ~is_semantic)[0])
    assert np.isnan(jitted(only, masks, is_semantic, valid)[0])


def test_mask_loss_refuses_what_it_cannot_use(batch):
    logits, masks, is_semantic, valid = batch
    with pytest.raises(ValueError, match="reduction"):
        mask_loss(*batch, reduction="max")
    with pytest.raises(ValueError, match="B=4"):
        mask_loss(logits, masks, is_semantic[:3], valid)
    with pytest.raises(ValueError, match="B 1 S T"):
        mask_loss(logits, masks[:, :3], is_semantic, valid)
