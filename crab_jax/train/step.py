"""One optimizer step as a pure function, and the protocol of what it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from crab_jax.params import Flat
from crab_jax.sharding import BATCH, Axes, by_rows, replicated
from crab_jax.train.optim import rate_at

Sums = Mapping[str, Any]


class System(Protocol):
    """What training needs from a model with its losses; nobody has to import this.

    The loss of a step is Σ_name weights(counts)[name] · Σ_rows sums(…)[name]. The counts depend on the batch alone, so
    the weights are known before any gradient: micro-batches and devices add up sums, and nothing is divided twice.
    """

    axes: Axes  # parameter path (full match) → logical axes

    def counts(self, batch: Any) -> Sums:
        """Name → float32 scalar, additive over rows: how much of everything a batch holds."""

    def weights(self, counts: Sums) -> Sums:
        """Name of a sum → what it is multiplied with: its weight over its denominator."""

    def sums(self, params: Flat, batch: Any, key: jax.Array) -> Sums:
        """Name → float32 [rows]: the undivided losses of each row."""


class State(NamedTuple):
    """All that a step changes, and its random key."""

    step: Any  # int32, optimizer steps done
    params: Flat  # trainables, float32
    opt: Any  # optimizer state
    key: Any  # uint32, the raw data of the run's key; every step folds its own number in


def init_state(params: Flat, optimizer: optax.GradientTransformation, seed: int) -> State:
    """The state before the first step."""
    return State(jnp.int32(0), params, optimizer.init(params), jax.random.key_data(jax.random.key(seed)))


def make_step(
    system: System, optimizer: optax.GradientTransformation, table: Any, *, accumulation: int = 1
) -> Callable[[State, Flat, Any, Any], tuple[State, dict[str, Any]]]:
    """Builds `step(state, frozen, batch, stop) -> state, metrics`, to be jitted with the state donated.

    The trainables are an argument of their own and the frozen weights are constants of the gradient, so the backward
    pass computes nothing for them. A step whose loss or gradient is not finite leaves the state as it was.

    Args:
        system: see `System`.
        optimizer: on flat parameters.
        table: learning rates, for the metrics.
        accumulation: micro-batches; each device cuts its own rows, so nothing moves between devices.

    Returns:
        A function of the state, the frozen parameters, the batch (all micro-batches together) and `stop`, int32 [one
        per device], with which any process asks all others to stop. Its metrics: `loss`, `loss/<name>` (weighted and
        divided), `count/<name>`, `grad_norm` (before clipping), `rate`, `ok`, `stop`, and `bad`, bool [rows]: rows
        whose own losses are not finite.
    """

    def step(state: State, frozen: Flat, batch: Any, stop: Any) -> tuple[State, dict[str, Any]]:
        counts = system.counts(batch)
        weights = system.weights(counts)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

        def objective(params: Flat, micro: Any, key: Any):
            rows = system.sums(frozen | params, micro, key)
            return sum(weights[name] * x.sum() for name, x in rows.items()), rows

        gradient = jax.grad(objective, has_aux=True)
        if accumulation == 1:
            grads, rows = gradient(state.params, batch, key)
        else:

            def add(grads, xs):
                micro, i = xs
                more, rows = gradient(state.params, micro, jax.random.fold_in(key, i))
                return jax.tree.map(jnp.add, grads, more), rows

            zeros = jax.tree.map(jnp.zeros_like, state.params)
            grads, rows = jax.lax.scan(add, zeros, (micro_batches(batch, accumulation), jnp.arange(accumulation)))
            rows = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1), rows)  # back to the order of the batch

        norm = optax.tree.norm(grads)
        parts = {name: weights[name] * x.sum() for name, x in rows.items()}
        loss = sum(parts.values())
        ok = jnp.isfinite(loss) & jnp.isfinite(norm)
        updates, opt = optimizer.update(grads, state.opt, state.params)
        new = State(state.step + 1, optax.apply_updates(state.params, updates), opt, state.key)
        metrics = {
            "loss": loss,
            **{f"loss/{name}": x for name, x in parts.items()},
            **{f"count/{name}": x for name, x in counts.items()},
            "grad_norm": norm,
            "rate": rate_at(table, state.step),
            "ok": ok,
            "stop": stop.max(),
            "bad": ~jnp.isfinite(sum(rows.values())),
        }
        return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, state), metrics

    return step


def jit_step(step: Callable, places: State, mesh: jax.sharding.Mesh) -> Any:
    """What a run compiles, and what a plan of it compiles: `step` jitted on a mesh, its state donated.

    Args:
        step: of `make_step`.
        places: where the state lives, before and after.
        mesh: of the run; `bad` stays split by rows, every other metric is everywhere.
    """

    def placed(state: State, frozen: Flat, batch: Any, stop: Any) -> tuple[State, dict[str, Any]]:
        new, metrics = step(state, frozen, batch, stop)
        where = {name: by_rows(mesh) if name == "bad" else replicated(mesh) for name in metrics}
        return new, jax.lax.with_sharding_constraint(metrics, where)

    return jax.jit(placed, donate_argnums=0, out_shardings=(places, None))


def micro_batches(batch: Any, number: int) -> Any:
    """[B …] → [number B/number …]. Row r goes into micro-batch r mod number: every device keeps its own rows."""

    def cut(x):
        x = x.reshape(x.shape[0] // number, number, *x.shape[1:]).swapaxes(0, 1)
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty:
            return x
        return jax.lax.with_sharding_constraint(x, jax.sharding.PartitionSpec(None, BATCH))

    return jax.tree.map(cut, batch)
