"""The recorded training steps (c09a, c09b, c09c) through the real train step, padded and packed, whole and in parts."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import recorded_model as recorded

from crab_jax.batch import lay_out, pack
from crab_jax.layout import Layout
from crab_jax.params import split
from crab_jax.system import ComputeConfig, CrabSystem, LossConfig
from crab_jax.train.config import OptimConfig
from crab_jax.train.optim import learning_rate, make_optimizer, rates
from crab_jax.train.step import init_state, make_step

# Compiling takes most of the time here, running next to none.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
EXACT = ComputeConfig(dtype="float32", frozen_dtype="float32", remat="nothing_saveable", logit_chunks=3)


@pytest.fixture(autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


def examples_of(case, config):
    group = recorded.group_of(case)
    return [
        recorded.example(case, f"{group}/{i}", config, semantic=task == "avss")
        for i, task in enumerate(recorded.task_names(case, group))
    ]


def lay(config, examples, *, packed):
    """One example per row; or the whole batch in two rows, with room to spare in every resource."""
    kwargs = dict(
        ids=config.token_ids,
        image_size=config.clip.image_size,
        frame_tokens=config.vl_projector.num_queries,
        window_tokens=config.al_projector.num_queries,
        patch=config.beats.input_patch_size,
    )
    one = recorded.layout_of(examples, patch=config.beats.input_patch_size)
    if not packed:
        return lay_out(examples, layout=_thirds(one, 1, 0), **kwargs)
    half = (len(examples) + 1) // 2
    return pack([examples[:half], examples[half:]], layout=_thirds(one, half, 1), **kwargs)


def _thirds(one, times, spare):
    """A layout for `times` examples; its tokens divide by three, because the logits are made in three pieces."""
    tokens = one.tokens * times + 7 * spare
    return Layout(
        tokens=tokens + -tokens % 3,
        frames=one.frames * times + spare,
        windows=one.windows * times + spare,
        patch_rows=one.patch_rows,
        masks=one.masks * times + spare if one.masks else 0,
    )


def keep_gradients():
    """An optimizer whose state is the gradient, and that changes nothing: for looking into the step."""
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    return optax.GradientTransformation(zeros, lambda grads, state, params: (zeros(grads), grads))


def parts_of(case, config):
    patterns = [re.escape(path) for path in recorded.trainable_paths(case, config)]
    train, frozen = split(recorded.params_of(case, config), patterns)
    # Copies: the step gives the memory of its state away.
    return {p: jnp.array(x) for p, x in train.items()}, {p: jnp.asarray(x) for p, x in frozen.items()}


def check_step(case, prefix, loss, *, packed, accumulation):
    config = recorded.config_of(case)
    batch = lay(config, examples_of(case.mentioned(prefix), config), packed=packed)
    train, frozen = parts_of(case, config)
    optimizer = keep_gradients()
    system = CrabSystem(config, loss, EXACT)
    step = make_step(system, optimizer, np.ones(1, np.float32), accumulation=accumulation)
    step = jax.jit(step, donate_argnums=0, compiler_options=QUICK)
    state, metrics = step(init_state(train, optimizer, 0), frozen, batch, jnp.zeros(1, jnp.int32))
    assert metrics["ok"]
    assert not metrics["bad"].any()
    mask = sum(metrics.get(f"loss/{name}", 0) for name in ("bce", "dice", "semantic_ce"))
    ours = {"loss": metrics["loss"], "lm_loss": metrics["loss/text"], "mask_loss": mask, "forward_avs/loss": mask}
    ours["grad_global_norm"] = np.float64(metrics["grad_norm"])
    full = {p: state.opt.get(p, jnp.zeros_like(x)) for p, x in (frozen | state.params).items()}
    for part in recorded.tables(config):
        ours |= {f"grad/{name}": g for name, g in recorded.to_torch(part, config, full).items()}
    assert case.gradients(), "the case records no gradients"
    for name in case.results():
        if name != "logits_last":  # the step makes no logits that could be read; test_model.py compares them
            case.check(name, ours[name])


LAYOUTS = pytest.mark.parametrize(("packed", "accumulation"), [(False, 1), (True, 1), (True, 2)])


@LAYOUTS
@pytest.mark.case("c09a")
def test_finetune_step(case, packed, accumulation):
    check_step(case, "c07b", LossConfig(), packed=packed, accumulation=accumulation)


@LAYOUTS
@pytest.mark.case("c09c")
def test_avs_step(case, packed, accumulation):
    loss = LossConfig(heads=("binary", "semantic"), mask_reduction="sum")
    check_step(case, "c07c", loss, packed=packed, accumulation=accumulation)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.case("c09b")
def test_three_steps(case, packed):
    """Both recorded runs: with warm-up, whose first step has a rate of zero, and without."""
    finetune = case.mentioned("c09a")
    config = recorded.config_of(finetune)
    batch = lay(config, examples_of(finetune.mentioned("c07b"), config), packed=packed)
    settings, total = case.config, case.config["max_steps"]
    for variant in sorted({name.split("/")[0] for name in case.results()}):
        optim = OptimConfig(
            learning_rate=settings["learning_rate"],
            schedule="cosine",
            warmup_ratio=0.03 if variant == "trainer" else 0.0,
            max_grad_norm=settings["max_grad_norm"],
        )
        table = rates(optim, total)
        train, frozen = parts_of(finetune, config)
        before = recorded.params_of(finetune, config)
        optimizer = make_optimizer(optim, table)
        step = make_step(CrabSystem(config, LossConfig(), EXACT), optimizer, table)
        step = jax.jit(step, donate_argnums=0, compiler_options=QUICK)
        state, seen = init_state(train, optimizer, 0), []
        for _ in range(total):
            state, metrics = step(state, frozen, batch, jnp.zeros(1, jnp.int32))
            seen.append({name: np.float64(metrics[name]) for name in ("loss", "grad_norm", "rate")})
        ours = {
            f"{variant}/losses": np.array([m["loss"] for m in seen]),
            f"{variant}/grad_norms_before_clip": np.array([m["grad_norm"] for m in seen]),
            f"{variant}/lrs": np.array([learning_rate(optim, k, total) for k in range(total)]),
        }
        np.testing.assert_allclose([m["rate"] for m in seen], ours[f"{variant}/lrs"], rtol=1e-6)
        delta = {p: np.asarray(state.params[p]) - x if p in state.params else 0 * x for p, x in before.items()}
        for part in recorded.tables(config):
            for name, x in recorded.to_torch(part, config, delta).items():
                ours[f"{variant}/delta/{name}"] = x
        for name in case.results(f"{variant}/"):
            case.check(name, ours[name])
    case.close()
