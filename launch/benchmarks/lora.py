"""The linear with the interaction-aware adapter, beside a plain linear and beside a loop over its heads."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crab_jax.nn.lora import LoraConfig, LoraLinear
from launch.benchmarks.report import Row
from launch.benchmarks.timing import Spread, race
from launch.benchmarks.weights import random_array

FORWARD = "LoRA linear, forward"
TRAINING = "LoRA linear, forward and backward"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraSizes:
    """What is measured.

    Attributes:
        lora: the adapter; its dropout is used by the rows that say so.
        linears: (width of the input, width of the output) of each linear.
        tokens: token counts of the forward pass; 1 is a decode step.
        trained: (input, output, tokens) of forward and backward.
        cold_bytes: so many bytes of weights are cycled through, that a cache does not hold them from call to call.
    """

    lora: LoraConfig
    linears: tuple[tuple[int, int], ...]
    tokens: tuple[int, ...]
    trained: tuple[int, int, int]
    cold_bytes: int


def random_linear(width: int, features: int, lora: LoraConfig, dtype: jnp.dtype) -> dict[str, jax.Array]:
    """Parameters of one `LoraLinear`."""
    rng = np.random.default_rng(0)
    shapes = {
        "kernel": (width, features),
        "lora_a": (width, lora.rank),
        "lora_route": (width, lora.heads),
        "lora_b": (lora.heads, lora.rank, features),
    }
    return {name: random_array(rng, shape, dtype) for name, shape in shapes.items()}


def loop_over_heads(params: dict[str, jax.Array], x, *, lora: LoraConfig, key=None):
    """The adapter as its formula is written: one full-width product per head, weighed and added up.

    Args:
        params: of a `LoraLinear`.
        x: [... D].
        lora: sizes.
        key: with a key, dropout with a mask of its own for each head, as in the original's training.
    """
    y = x @ params["kernel"]
    logits = jnp.matmul(x, params["lora_route"], preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits, axis=-1).astype(x.dtype)
    for head in range(lora.heads):
        dropped = x
        if key is not None:
            keep = jax.random.bernoulli(jax.random.fold_in(key, head), 1 - lora.dropout, x.shape)
            dropped = jnp.where(keep, x / (1 - lora.dropout), 0)
        y += lora.scale * weights[..., head, None] * ((dropped @ params["lora_a"]) @ params["lora_b"][head])
    return y


def overhead_by_count(width: int, features: int, lora: LoraConfig) -> float:
    """Operations with the adapter over operations of the plain linear; the same ratio holds for bytes of weights."""
    adapter = width * (lora.rank + lora.heads) + lora.heads * lora.rank * features
    return 1 + adapter / (width * features)


def _forms(lora: LoraConfig, features: int, dtype: jnp.dtype) -> dict[str, Callable]:
    def module(adapter, params, x):
        return LoraLinear(features, adapter, dtype).apply({"params": params}, x)[0]

    return {
        "plain": lambda params, x: module(None, {"kernel": params["kernel"]}, x),
        "lora": partial(module, lora),
        "loop": partial(loop_over_heads, lora=lora),
    }


def forward_rows(sizes: LoraSizes, dtype: jnp.dtype, *, rounds: int) -> Iterator[Row]:
    """Each linear at each token count."""
    name = jnp.dtype(dtype).name
    for width, features in sizes.linears:
        params = random_linear(width, features, sizes.lora, dtype)
        copies = max(1, math.ceil(sizes.cold_bytes / params["kernel"].nbytes))
        many = [params] + [jax.tree.map(jnp.copy, params) for _ in range(copies - 1)]
        for tokens in sizes.tokens:
            x = random_array(np.random.default_rng(1), (1, tokens, width), dtype)
            forms = {k: jax.jit(partial(_one_after_another, f)) for k, f in _forms(sizes.lora, features, dtype).items()}
            seconds = race({k: partial(f, many, x) for k, f in forms.items()}, rounds=rounds)
            each = {k: s / copies for k, s in seconds.items()}
            yield Row(
                section=FORWARD,
                what=f"{width} → {features}, {tokens} token{'s' if tokens > 1 else ''}",
                dtype=name,
                unit="ms",
                measured=Spread.of(1e3 * each["lora"]),
                against="plain linear",
                reference=float(np.median(1e3 * each["plain"])),
                ratio=Spread.of(each["lora"] / each["plain"]),
                expected=overhead_by_count(width, features, sizes.lora),
                aim=1.1,
                beside={"loop over heads": Spread.of(each["lora"] / each["loop"])},
            )


def _one_after_another(form: Callable, many: list[Any], x):
    """Applies several copies of one linear; each waits for the one before, as in a network.

    The input of the next carries a trace of the last result that is too small to change it, so that no two of them can
    run side by side. All results are returned, so that all are computed in full.
    """
    results = []
    for params in many:
        results.append(form(params, x))
        x = x + 1e-30 * results[-1][..., :1]
    return results


def training_rows(sizes: LoraSizes, dtype: jnp.dtype, *, rounds: int) -> Iterator[Row]:
    """Gradients of the adapter and of the input; the matrix itself is frozen.

    The plain linear has a gradient for its input only. With dropout, one mask for all heads is compared with a loop
    that draws one for each.
    """
    width, features, tokens = sizes.trained
    lora = sizes.lora
    params = random_linear(width, features, lora, dtype)
    kernel = {"kernel": params.pop("kernel")}
    rng = np.random.default_rng(1)
    x = random_array(rng, (1, tokens, width), dtype)
    cotangent = random_array(rng, (1, tokens, features), dtype)
    key = jax.random.key(0)

    def dropout_module(params, x):
        module = LoraLinear(features, dataclasses.replace(lora, dropout_masks="shared"), dtype, train=True)
        return module.apply({"params": params}, x, rngs={"dropout": key})[0]

    forms = _forms(lora, features, dtype) | {
        "lora, dropout": dropout_module,
        "loop, dropout": partial(loop_over_heads, lora=lora, key=key),
    }

    def step(form, adapter, x):
        y, backward = jax.vjp(lambda adapter, x: form(kernel | adapter, x), adapter, x)
        return y, backward(cotangent)

    timed = {k: partial(jax.jit(partial(step, form)), {} if k == "plain" else params, x) for k, form in forms.items()}
    seconds = race(timed, rounds=rounds)
    for form, loop in (("lora", "loop"), ("lora, dropout", "loop, dropout")):
        dropped = f", dropout {lora.dropout:g}" if form != "lora" else ", no dropout"
        yield Row(
            section=TRAINING,
            what=f"{width} → {features}, {tokens} tokens{dropped}",
            dtype=jnp.dtype(dtype).name,
            unit="ms",
            measured=Spread.of(1e3 * seconds[form]),
            against="frozen plain linear",
            reference=float(np.median(1e3 * seconds["plain"])),
            ratio=Spread.of(seconds[form] / seconds["plain"]),
            expected=_training_overhead(width, features, lora),
            beside={
                "loop over heads" + (", a mask each" if form != "lora" else ""): Spread.of(
                    seconds[form] / seconds[loop]
                )
            },
        )


def _training_overhead(width: int, features: int, lora: LoraConfig) -> float:
    """The plain linear does two products (forward, gradient of x); each matrix of the adapter does three."""
    return 1 + 1.5 * (overhead_by_count(width, features, lora) - 1)
