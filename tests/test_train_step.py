"""Learning rates, optimizer and one step, on a system of two layers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_run import ROWS, ToyStream, ToySystem, toy_params

from crab_jax.config import ConfigError
from crab_jax.train.config import OptimConfig, RunConfig
from crab_jax.train.optim import learning_rate, make_optimizer, rates
from crab_jax.train.step import init_state, make_step, micro_batches

LOG = OptimConfig(schedule="log_linear")
STOP = jnp.zeros(1, jnp.int32)


@pytest.mark.parametrize("total", [17130, 910, 3])
def test_the_reference_schedule(total):
    """Specification 1.4, P12: k = 0, W-1, W and total."""
    warmup = max(2, math.ceil(0.03 * total))
    assert learning_rate(LOG, 0, total) == 0
    assert learning_rate(LOG, warmup - 1, total) == pytest.approx(1e-4, rel=1e-15)
    assert learning_rate(LOG, warmup, total) == pytest.approx(1e-4 * max(0, (total - warmup)) / max(1, total - warmup))
    assert learning_rate(LOG, total, total) == 0
    for k in range(1, warmup):
        assert learning_rate(LOG, k, total) == pytest.approx(1e-4 * math.log(k + 1) / math.log(warmup), rel=1e-15)


def test_known_rates_of_the_published_avs_run():
    """17 130 steps: 514 of warm-up. Numbers worked out by hand from the formulas of specification 1.4."""
    total = 17130
    known = {0: 0.0, 1: 1.1104172e-5, 99: 7.3774519e-5, 513: 1e-4, 514: 1e-4, 8822: 5e-5, 17129: 6.0182956e-9}
    for step, rate in known.items():
        assert learning_rate(LOG, step, total) == pytest.approx(rate, rel=1e-6, abs=1e-15)


def test_first_step_at_the_full_rate():
    config = OptimConfig(schedule="log_linear", first_step_at_full_rate=True)
    late = [learning_rate(config, step, 100) for step in range(100)]
    assert late[:2] == [1e-4, 0.0]
    assert late[1:] == [learning_rate(LOG, step, 100) for step in range(99)]


def test_cosine_and_constant():
    cosine = OptimConfig(schedule="cosine", warmup_ratio=0.1)
    assert [learning_rate(cosine, k, 100) for k in (0, 5, 10)] == pytest.approx([0, 5e-5, 1e-4])
    assert learning_rate(cosine, 55, 100) == pytest.approx(5e-5)
    assert learning_rate(OptimConfig(schedule="constant", warmup_ratio=0.0), 99, 100) == 1e-4


def test_configs_that_cannot_be():
    with pytest.raises(ConfigError, match="max_grad_norm is 0"):
        OptimConfig(max_grad_norm=0.0)
    with pytest.raises(ConfigError, match="b1 is 1"):
        OptimConfig(b1=1.0)
    with pytest.raises(ConfigError, match="8 rows do not divide into 3"):
        RunConfig(rows=8, accumulation=3)


def test_adamw_is_that_of_torch():
    torch = pytest.importorskip("torch")
    config = OptimConfig(learning_rate=1e-2, schedule="cosine", warmup_ratio=0.0, weight_decay=0.1, max_grad_norm=0.5)
    rng = np.random.default_rng(0)
    start = {"a/kernel": rng.standard_normal((4, 3), np.float32), "a/bias": rng.standard_normal(3, np.float32)}
    table = rates(config, 5)
    optimizer = make_optimizer(config, table)
    params, state = {p: jnp.asarray(x) for p, x in start.items()}, None
    state = optimizer.init(params)
    theirs = {p: torch.nn.Parameter(torch.tensor(x)) for p, x in start.items()}
    groups = [{"params": [theirs["a/kernel"]]}, {"params": [theirs["a/bias"]], "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=1e-2, eps=1e-8, weight_decay=0.1)
    for step in range(5):
        grads = {p: rng.standard_normal(x.shape, np.float32) for p, x in start.items()}
        updates, state = optimizer.update({p: jnp.asarray(g) for p, g in grads.items()}, state, params)
        params = {p: x + updates[p] for p, x in params.items()}
        for p, g in grads.items():
            theirs[p].grad = torch.tensor(g)
        torch.nn.utils.clip_grad_norm_(theirs.values(), 0.5)
        for group in adam.param_groups:
            group["lr"] = float(table[step])
        adam.step()
    for p, x in params.items():
        np.testing.assert_allclose(x, theirs[p].detach().numpy(), rtol=2e-6, atol=2e-6)  # torch clips with a 1e-6 more


def run(batch, *, accumulation=1, system=None):
    optim = OptimConfig(learning_rate=1e-2, schedule="constant", warmup_ratio=0.0)
    table = rates(optim, 4)
    optimizer = make_optimizer(optim, table)
    trainable, frozen = toy_params()
    state = init_state({p: jnp.array(x) for p, x in trainable.items()}, optimizer, 0)
    step = jax.jit(make_step(system or ToySystem(), optimizer, table, accumulation=accumulation))
    return state, *step(state, frozen, batch, STOP)


@pytest.mark.parametrize("accumulation", [2, 4, 8])
def test_micro_batches_are_weighted_by_their_tokens(accumulation):
    batch, _ = next(ToyStream())
    assert len(set(batch["count"])) > 1  # else a mean of means would pass
    _, whole, metrics = run(batch, system=ToySystem(noise=False))
    _, parts, others = run(batch, system=ToySystem(noise=False), accumulation=accumulation)
    assert float(others["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-6)
    assert float(others["grad_norm"]) == pytest.approx(float(metrics["grad_norm"]), rel=1e-6)
    for path, x in whole.params.items():
        np.testing.assert_allclose(parts.params[path], x, rtol=1e-5, atol=1e-6)


def test_micro_batches_of_every_device_are_its_own():
    np.testing.assert_array_equal(micro_batches(jnp.arange(8), 2), [[0, 2, 4, 6], [1, 3, 5, 7]])


@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_step_that_is_not_finite_changes_nothing_and_names_its_rows(accumulation):
    batch, _ = next(ToyStream(bad=(0, 5)))
    before, after, metrics = run(batch, accumulation=accumulation)
    assert not metrics["ok"]
    assert np.flatnonzero(metrics["bad"]).tolist() == [5]
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(a, b)


def test_frozen_weights_cost_no_gradient():
    """No product of the backward pass is for the frozen layer: neither its gradient, nor that of what it gives."""
    trainable, frozen = toy_params()
    batch, _ = next(ToyStream())
    table = np.ones(1, np.float32)
    optimizer = make_optimizer(OptimConfig(), table)

    def products(trainable, frozen):
        state = init_state({p: jnp.array(x) for p, x in trainable.items()}, optimizer, 0)
        return str(jax.make_jaxpr(make_step(ToySystem(), optimizer, table))(state, frozen, batch, STOP)).count(
            "dot_general"
        )

    assert products(trainable, frozen) == products(trainable | frozen, {}) - 2


def test_any_device_can_ask_all_to_stop():
    batch, _ = next(ToyStream())
    trainable, frozen = toy_params()
    optimizer = make_optimizer(OptimConfig(), np.ones(1, np.float32))
    state = init_state({p: jnp.array(x) for p, x in trainable.items()}, optimizer, 0)
    step = jax.jit(make_step(ToySystem(), optimizer, np.ones(1, np.float32)))
    for flags in ([0, 0, 0], [0, 1, 0]):
        _, metrics = step(state, frozen, batch, jnp.array(flags))
        assert bool(metrics["stop"]) == any(flags)
    assert len(metrics["bad"]) == ROWS
