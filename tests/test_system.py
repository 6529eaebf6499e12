"""Crab as something to train: how its losses add up, and what no gradient reaches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import tiny_config, tiny_params

from crab_jax.losses import mask_loss, mask_terms, token_nll
from crab_jax.model import Crab
from crab_jax.params import nest, subtree
from crab_jax.system import ComputeConfig, CrabSystem, LossConfig, stored

CONFIG = tiny_config()
MASKS, SIZE = 6, 8


def masks(seed=0):
    """Logits of both heads, targets, kinds and which are real."""
    rng = np.random.default_rng(seed)
    logits = {
        "binary": rng.standard_normal((MASKS, 1, SIZE, SIZE), np.float32),
        "semantic": rng.standard_normal((MASKS, 71, SIZE, SIZE), np.float32),
    }
    semantic, valid = np.arange(MASKS) % 3 == 0, np.arange(MASKS) != 4
    target = np.where(
        semantic[:, None, None], rng.integers(0, 71, (MASKS, SIZE, SIZE)), rng.random((MASKS, SIZE, SIZE)) > 0.5
    )
    return logits, target.astype(np.uint8), semantic, valid


def combined(loss, counts, terms):
    weights = CrabSystem(CONFIG, loss).weights({n: jnp.float32(x) for n, x in counts.items()})
    return float(sum(weights[name] * x.sum() for name, x in terms.items()))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_weights_of_a_whole_batch_are_those_of_the_mask_loss(reduction):
    logits, target, semantic, valid = masks()
    expected, parts = mask_loss(logits, target, semantic, valid, reduction=reduction)
    counts = {"tokens": 5, "binary": parts["binary_samples"], "semantic": parts["semantic_samples"]}
    loss = LossConfig(heads=("binary", "semantic"), mask_reduction=reduction)
    assert combined(loss, counts, mask_terms(logits, target, semantic, valid)) == pytest.approx(
        float(expected), rel=1e-6
    )


def test_groups_of_masks_are_averaged():
    """Two devices with two masks of one kind each: the reference takes the mean of their sums."""
    logits, target, _, _ = masks()
    logits, target, no, yes = {"binary": logits["binary"][:4]}, target[:4] % 2, np.zeros(4, bool), np.ones(4, bool)
    halves = [
        mask_loss({"binary": logits["binary"][s]}, target[s], no[s], yes[s])[0] for s in (slice(0, 2), slice(2, 4))
    ]
    loss = LossConfig(heads=("binary",), mask_reduction="sum", mask_group=2)
    counts = {"tokens": 5, "binary": 4, "semantic": 0}
    found = combined(loss, counts, mask_terms(logits, target, no, yes))
    assert found == pytest.approx(float(np.mean(halves)), rel=1e-6)
    # Fewer masks than a group are added up as they are.
    counts["binary"] = 1
    alone = combined(loss, counts, mask_terms({"binary": logits["binary"][:1]}, target[:1], no[:1], yes[:1]))
    assert alone == pytest.approx(float(mask_loss({"binary": logits["binary"][:1]}, target[:1], no[:1], yes[:1])[0]))


def test_no_masks_and_no_tokens_divide_by_nothing():
    for reduction in ("sum", "mean"):
        system = CrabSystem(CONFIG, LossConfig(heads=("binary",), mask_reduction=reduction, mask_group=16))
        weights = system.weights({n: jnp.float32(0) for n in ("tokens", "binary", "semantic")})
        assert all(np.isfinite(float(x)) for x in weights.values())


@pytest.mark.parametrize("chunks", [1, 4])
def test_logits_in_pieces(chunks):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((16, CONFIG.llama.vocab_size), np.float32)
    states = rng.standard_normal((3, 12, 16), np.float32)
    labels = rng.integers(-1, 50, (3, 12)).astype(np.int32)
    system = CrabSystem(CONFIG, compute=ComputeConfig(logit_chunks=chunks))
    expected, gradient = jax.value_and_grad(lambda k: token_nll(states @ k, labels)[0])(kernel)
    found, ours = jax.value_and_grad(lambda k: system._text(k, states, labels).sum())(kernel)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(ours, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("train_encoders", [False, True])
def test_encoders_get_gradients_only_if_asked(train_encoders):
    config = dataclasses.replace(CONFIG, llama=None, beats=None, al_projector=None, mask_decoder=None)
    model = Crab(config, jnp.float32, train_encoders=train_encoders)
    flat = {p: x for p, x in tiny_params().items() if p.startswith(("clip/", "vl_projector/"))}
    frames = np.random.default_rng(0).integers(0, 256, (1, 112, 112, 3)).astype(np.uint8)

    def value(path, x):
        params = nest(flat | {path: x})
        return model.apply({"params": params}, frames, method="encode_frames").tokens.std()

    for path, reached in (("clip/patch_embed/kernel", train_encoders), ("vl_projector/queries", True)):
        gradient = jax.jit(jax.grad(value, argnums=1), static_argnums=0)(path, flat[path])
        assert bool(np.any(gradient)) == reached, path


def test_only_matrices_are_stored_small():
    assert stored("llama/layers/attn/q/kernel", "bfloat16") == jnp.bfloat16
    assert stored("llama/embed/embedding", "bfloat16") == jnp.bfloat16
    for path in ("llama/norm/scale", "mask_decoder/pe/level0", "clip/layers/attn/q/bias", "llama/layers/mlp/up/lora_b"):
        assert stored(path, "bfloat16") == jnp.float32


def test_products_of_the_language_model():
    """7B: 4N per token with frozen weights. N is what the products of the published language model use."""
    matrices = {p: x for p, x in subtree(tiny_params(), "llama").items() if p.endswith("kernel")}
    n = sum(x.size for x in matrices.values())
    assert CrabSystem(CONFIG).flops({"positions": 10.0}) == 4 * n * 10
    assert CrabSystem(CONFIG, trains_llama=True).flops({"positions": 10.0}) == 6 * n * 10


def test_router_weights_by_task():
    system = CrabSystem(CONFIG)
    routers = np.zeros((2, 4, 2, 7, 3), np.float32)
    routers[0, 0, 1, :, 2] = 0.5
    routers[1, 0, 1, :, 2] = 1.0
    found = system.summary(routers, [("avqa/train, 1", "ave/train, 2"), ("avqa/train, 3",)])
    assert found["avqa/layer01/head2"] == pytest.approx(0.75)
    assert found["ave/layer01/head2"] == 0
    assert len(found) == 2 * 2 * 3
