"""Whole optimizer steps on full rows of random examples, as a run compiles them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from crab_jax.batch import Batch, Example, FeatureSizes, TokenIds, pack
from crab_jax.flops import jaxpr_flops
from crab_jax.layout import Layout
from crab_jax.model import CrabConfig
from crab_jax.params import split
from crab_jax.recipe import Recipe
from crab_jax.sharding import like_params, make_mesh, replicated, shardings
from crab_jax.starting import shapes_of
from crab_jax.system import CrabSystem, stored
from crab_jax.train.optim import make_optimizer, rates
from crab_jax.train.step import State, init_state, jit_step, make_step

ANSWER_TOKENS = 40
TOTAL = 100  # steps of the imagined run, for the table of rates
MEL_BANDS = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """An example of a stage.

    Attributes:
        frames, windows, masks: its media; the mask belongs to its first picture.
        per_row: how many of them share a row; the text fills it up.
    """

    frames: int
    windows: int
    masks: int
    per_row: int


def full_rows(config: CrabConfig, layout: Layout, kind: Kind, *, rows: int, seed: int = 0) -> Batch:
    """Rows without padding tokens, of equal examples. Room for media that they do not use stays empty, as in a run.

    Args:
        config: all sizes.
        layout: of a row.
        kind: of the examples.
        rows: of the batch.

    Raises:
        ValueError: the media leave no room for text.
    """
    rng = np.random.default_rng(seed)
    ids, sizes = config.token_ids, config.feature_sizes
    lengths = [layout.tokens // kind.per_row] * kind.per_row
    lengths[-1] += layout.tokens % kind.per_row
    examples = [[_example(rng, kind, n, layout, ids, sizes) for n in lengths] for _ in range(rows)]
    return pack(examples, layout=layout, ids=ids, **dataclasses.asdict(sizes))


def _example(
    rng: np.random.Generator, kind: Kind, tokens: int, layout: Layout, ids: TokenIds, sizes: FeatureSizes
) -> Example:
    media = [ids.visual[0]] * (kind.frames * sizes.frame_tokens) + [ids.audio] * (kind.windows * sizes.window_tokens)
    text = tokens - len(media)
    answer = min(ANSWER_TOKENS, text // 2)
    if answer <= len(ids.masks):
        raise ValueError(f"{kind.per_row} examples in a row leave {text} of {tokens} tokens for text; ask for fewer")
    words = rng.integers(3, ids.visual[0], text)
    target = words[-answer:].tolist()
    if kind.masks:
        target[: len(ids.masks)] = ids.masks
    size, length = sizes.image_size, layout.patch_rows * sizes.patch
    return Example(
        name="random",
        prompt=[*media, *words[:-answer].tolist()],
        target=target,
        frames=rng.integers(0, 256, (kind.frames, size, size, 3), np.uint8) if kind.frames else None,
        fbank=rng.standard_normal((kind.windows, length, MEL_BANDS), np.float32) if kind.windows else None,
        mask=rng.integers(0, 2, (size, size), np.uint8) if kind.masks else None,
    )


@dataclasses.dataclass
class Step:
    """A compiled step and everything that it needs; running it goes on training.

    Attributes:
        run: one step; blocks until it is done and returns the metrics.
        jaxpr: of the step, to count and to take apart.
        counts: what the batch holds, see `CrabSystem.counts`.
        temporaries: bytes beside arguments and results, as the compiler has planned them.
        trained, frozen: numbers of parameters.
    """

    run: Callable[[], Any]
    jaxpr: Any
    counts: Mapping[str, float]
    temporaries: int
    trained: int
    frozen: int
    system: CrabSystem

    @property
    def flops(self) -> int:
        """Matrix products of one step, what remat repeats included."""
        return jaxpr_flops(self.jaxpr)

    @property
    def tokens(self) -> float:
        """Tokens of one step, padding left out."""
        return self.counts["positions"]


def prepare(recipe: Recipe, batch: Batch, *, masked: bool = False) -> Step:
    """Compiles the step of a stage with random weights on the first device.

    Args:
        recipe: of the stage, with sizes.
        batch: of one step.
        masked: everything gets a gradient and the optimizer drops those of frozen weights, as in the reference; then
            everything is float32, because it stands among the trainables.
    """
    config = recipe.model
    system = CrabSystem(config, recipe.loss, recipe.compute, train_encoders=recipe.stage.train_encoders)
    shapes = shapes_of(config)
    chosen, _ = split(shapes, recipe.stage.train)
    mesh = make_mesh(devices=jax.devices()[:1])
    table = rates(recipe.optim, TOTAL)
    optimizer = make_optimizer(recipe.optim, table)
    if masked:
        labels = {path: "trained" if path in chosen else "frozen" for path in shapes}
        optimizer = optax.multi_transform({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
    moving = set(shapes) if masked else set(chosen)
    places = shardings(shapes, system.axes, mesh)
    kept = recipe.compute.frozen_dtype
    params = {
        path: jax.device_put(_random(i, leaf.shape, path, "float32" if path in moving else kept), places[path])
        for i, (path, leaf) in enumerate(shapes.items())
    }
    trainable = {path: x for path, x in params.items() if path in moving}
    frozen = {path: x for path, x in params.items() if path not in moving}
    start = lambda flat: init_state(flat, optimizer, recipe.run.seed)  # noqa: E731
    like = jax.eval_shape(start, trainable)
    moving_places = {path: places[path] for path in trainable}
    at = State(replicated(mesh), moving_places, like_params(like.opt, moving_places, mesh), replicated(mesh))
    step = make_step(system, optimizer, table, accumulation=recipe.run.accumulation)
    with jax.set_mesh(mesh):
        state = jax.jit(start, out_shardings=at)(trainable)
        arguments = (state, frozen, jax.tree.map(jnp.asarray, batch), jnp.zeros(1, jnp.int32))
        traced = jit_step(step, at, mesh).trace(*arguments)
        compiled = traced.lower().compile()
    counts = {name: float(x) for name, x in jax.device_get(system.counts(batch)).items()}
    runner = _Runner(compiled, arguments, mesh)
    memory = compiled.memory_analysis()
    return Step(
        run=runner,
        jaxpr=traced.jaxpr.jaxpr,
        counts=counts,
        temporaries=int(getattr(memory, "temp_size_in_bytes", 0)),
        trained=sum(leaf.size for leaf in chosen.values()),
        frozen=sum(leaf.size for path, leaf in shapes.items() if path not in chosen),
        system=system,
    )


class _Runner:
    """Holds the state, which every step gives away."""

    def __init__(self, compiled: Any, arguments: tuple, mesh: jax.sharding.Mesh):
        self._compiled, (self._state, *self._others), self._mesh = compiled, arguments, mesh

    def __call__(self) -> Any:
        with jax.set_mesh(self._mesh):
            self._state, metrics = self._compiled(self._state, *self._others)
        return jax.block_until_ready(metrics)


def _random(seed: int, shape: tuple[int, ...], path: str, dtype: str) -> jax.Array:
    """A weight that keeps activations in bounds, made on the device: a large model never lies in host memory."""
    kind = path.rsplit("/", 1)[-1]
    if kind == "scale":
        return jnp.ones(shape, jnp.float32)
    spread = 0.02 if kind in ("embedding", "bias", "queries") or len(shape) < 2 else float(shape[-2]) ** -0.5
    return _normal(jax.random.key(seed), spread, shape, str(stored(path, dtype)))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _normal(key: jax.Array, spread: float, shape: tuple[int, ...], dtype: str) -> jax.Array:
    return (spread * jax.random.normal(key, shape, "bfloat16")).astype(dtype)  # a byte pair is random enough
